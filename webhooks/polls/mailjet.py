"""Mailjet.

https://dev.mailjet.com/email/reference/messages/#v3_get_message_message_ID: the state a message is in, and why it was
not delivered. Each recipient's message has an id of its own. It does not say when that happened.
https://dev.mailjet.com/reference/overview/rate-limits/: a limit by the second and key, without a figure, and much lower
than that for sending.
"""

from typing import Any, Final
from urllib.parse import quote, urljoin

from webhooks.polls.base import Poll, Story

# `Status` -> the webhook's event, and whether a bounce is for good where that is said.
STATUSES: Final[dict[str, tuple[str, bool | None]]] = {
    "blocked": ("blocked", None),
    "bounce": ("bounce", None),
    "clicked": ("sent", None),
    "hardbounced": ("bounce", True),
    "opened": ("sent", None),
    "sent": ("sent", None),
    "softbounced": ("bounce", False),
    "spam": ("spam", None),
    "unsub": ("sent", None),
}
# `StateID` -> the webhook's error.
ERRORS: Final[dict[int, str]] = {
    1: "user unknown",
    2: "mailbox inactive",
    3: "quota exceeded",
    4: "invalid domain",
    5: "no mail host",
    6: "relay/access denied",
    7: "sender blocked",
    8: "content blocked",
    9: "policy issue",
    10: "system issue",
    11: "protocol issue",
    12: "connection issue",
    13: "greylisted",
    14: "preblocked",
    15: "duplicate in campaign",
    16: "spam preblocked",
    17: "bad or empty template",
    18: "error in template language",
    19: "typofix",
    20: "blacklisted",
    21: "spam reporter",
}


def _ask(backend: Any, esp_message_id: str) -> Story:
    answer = yield {
        "method": "GET",
        "url": urljoin(backend.api_url, f"../v3/REST/message/{quote(esp_message_id, safe='')}"),
        "auth": (backend.api_key, backend.secret_key),
    }
    return [_event(esp_message_id, message) for message in answer["Data"] if message["Status"] in STATUSES]


def _event(esp_message_id: str, message: Any) -> dict[str, Any]:
    event, hard = STATUSES[message["Status"]]
    told = {"event": event, "MessageID": esp_message_id, "error": ERRORS.get(message.get("StateID"), "")}
    return told if hard is None else {**told, "hard_bounce": hard}


POLL = Poll(ask=_ask, rate=1, burst=2)
