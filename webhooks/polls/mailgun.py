"""Mailgun.

https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/events/get-v3-domain_name-events: the events
of a message, by its id without the brackets, kept for three days at least. They are those of the webhooks, and have
the same ids. The page calls the API deprecated and names another one, which wants a request of another form.
https://documentation.mailgun.com/docs/mailgun/quickstart-guide/responses: there are limits, answered 429; no figure.
"""

from typing import Any, Final
from urllib.parse import quote, urljoin

from webhooks.polls.base import Poll, Story

EVENTS: Final = "rejected OR delivered OR failed OR complained"


def _ask(backend: Any, esp_message_id: str) -> Story:
    identifier = esp_message_id.strip("<>")
    domain = backend.sender_domain or identifier.rpartition("@")[2]
    answer = yield {
        "method": "GET",
        "url": urljoin(backend.api_url, f"{quote(domain, safe='')}/events"),
        "params": {"message-id": identifier, "event": EVENTS, "limit": 300},
        "auth": ("api", backend.api_key),
    }
    return [{"signature": {}, "event-data": event} for event in answer["items"]]


POLL = Poll(ask=_ask, rate=1, burst=5)
