"""Postmark.

https://postmarkapp.com/developer/api/messages-api#outbound-message-details: what happened to a message, by recipient.
https://postmarkapp.com/developer/api/bounce-api#bounces: the kind of a bounce, which the message's details leave out,
in the words of the webhook and under the same id.
https://postmarkapp.com/developer/api/overview: there is a limit, answered 429; no figure.
"""

from typing import Any
from urllib.parse import quote, urljoin

from webhooks.polls.base import Poll, Story


def _ask(backend: Any, esp_message_id: str) -> Story:
    details = yield _request(backend, f"messages/outbound/{quote(esp_message_id, safe='')}/details")
    events = [event for event in details["MessageEvents"] if event["Type"] in ("Bounced", "Delivered", "Transient")]
    told = [_event(esp_message_id, event) for event in events if event["Type"] != "Bounced"]
    if len(told) < len(events):
        bounces = yield _request(backend, "bounces", messageID=esp_message_id, count=50, offset=0)
        told += [{**bounce, "RecordType": _record_type(bounce)} for bounce in bounces["Bounces"]]
    return told


def _request(backend: Any, path: str, **parameters: Any) -> dict[str, Any]:
    return {
        "method": "GET",
        "url": urljoin(backend.api_url, path),
        "params": parameters,
        "headers": {"Accept": "application/json", "X-Postmark-Server-Token": backend.server_token},
    }


def _event(esp_message_id: str, event: Any) -> dict[str, Any]:
    said = event["Details"].get("DeliveryMessage", "")
    told = {"MessageID": esp_message_id, "Details": said}
    if event["Type"] == "Delivered":
        named = {"RecordType": "Delivery", "Recipient": event["Recipient"], "DeliveredAt": event["ReceivedAt"]}
    else:
        named = {
            "RecordType": "Bounce",
            "Type": "Transient",
            "Email": event["Recipient"],
            "BouncedAt": event["ReceivedAt"],
            "Description": said,
        }
    return {**told, **named}


def _record_type(bounce: Any) -> str:
    return "SpamComplaint" if bounce["Type"] == "SpamComplaint" else "Bounce"


POLL = Poll(ask=_ask, rate=1, burst=4, most=2, unknown=frozenset({"701"}))
