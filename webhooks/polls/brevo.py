"""Brevo.

https://developers.brevo.com/reference/get-email-event-report: the events of a message, by its id, in words that differ
from the webhooks'.
https://developers.brevo.com/docs/api-limits: a hundred requests an hour, as of all that the page does not name.
"""

from typing import Any, Final
from urllib.parse import urljoin

from webhooks.polls.base import Poll, Story
from webhooks.providers.times import of_iso

# `event` -> the webhook's word.
EVENTS: Final[dict[str, str]] = {
    "blocked": "blocked",
    "deferred": "deferred",
    "delivered": "delivered",
    "error": "error",
    "hardBounces": "hard_bounce",
    "invalid": "invalid_email",
    "softBounces": "soft_bounce",
    "spam": "spam",
}


def _ask(backend: Any, esp_message_id: str) -> Story:
    answer = yield {
        "method": "GET",
        "url": urljoin(backend.api_url, "smtp/statistics/events"),
        "params": {"messageId": esp_message_id, "days": 3, "limit": 100},
        "headers": {"Accept": "application/json", "api-key": backend.api_key},
    }
    # Where there are none it leaves the list out.
    return [_event(event) for event in answer.get("events") or [] if event["event"] in EVENTS]


def _event(event: Any) -> dict[str, Any]:
    told = {
        "event": EVENTS[event["event"]],
        "email": event.get("email"),
        "message-id": event.get("messageId"),
        "reason": event.get("reason"),
    }
    time = of_iso(event.get("date"))
    return {**told, "ts_event": int(time.timestamp())} if time else told


POLL = Poll(ask=_ask, rate=0.02, burst=10)
