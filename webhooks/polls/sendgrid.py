"""SendGrid.

https://www.twilio.com/docs/sendgrid/api-reference/email-activity/filter-all-messages: messages by what was sent with
them, such as the id that Anymail gives each. The API is sold apart, as "additional email activity history", and the
key needs access to it; without, it refuses, and is asked no more for an hour. Of a mail that did not arrive it does not
say whether that is for good: that is left to the webhook.
https://www.twilio.com/docs/sendgrid/api-reference/email-activity: six requests a minute.
"""

from typing import Any
from urllib.parse import urljoin

from webhooks.polls.base import Poll, Story
from webhooks.providers.times import of_iso


def _ask(backend: Any, esp_message_id: str) -> Story:
    quoted = esp_message_id.replace('"', "")
    answer = yield {
        "method": "GET",
        "url": urljoin(backend.api_url, "messages"),
        "params": {"query": f"(unique_args['anymail_id']=\"{quoted}\")", "limit": 1000},
        "headers": {"Authorization": f"Bearer {backend.api_key}"},
    }
    return [_event(esp_message_id, message) for message in answer["messages"] if message["status"] == "delivered"]


def _event(esp_message_id: str, message: Any) -> dict[str, Any]:
    told = {"event": "delivered", "email": message["to_email"], "anymail_id": esp_message_id}
    time = of_iso(message.get("last_event_time"))
    return {**told, "timestamp": int(time.timestamp())} if time else told


POLL = Poll(ask=_ask, rate=0.08, burst=1)
