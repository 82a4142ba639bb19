"""Mandrill (Mailchimp Transactional).

https://mailchimp.com/developer/transactional/api/messages/get-message-info/: the state a message is in, and what
the receiving server said to the last attempts. A mail that was sent says no more until such an answer is there.
https://mailchimp.com/developer/release-notes/message-search-rate-limit-now-enforced/: twenty searches a minute; of this
there is no figure, so it is asked no more often than that.
"""

import json
from typing import Any, Final
from urllib.parse import urljoin

from webhooks.polls.base import Poll, Story

# `state` -> the webhook's event. Who complains or unsubscribes has the mail.
STATES: Final[dict[str, str]] = {
    "bounced": "hard_bounce",
    "deferred": "deferral",
    "rejected": "reject",
    "soft-bounced": "soft_bounce",
    "spam": "spam",
    "unsub": "delivered",
}


def _ask(backend: Any, esp_message_id: str) -> Story:
    message = yield {
        "method": "POST",
        "url": urljoin(backend.api_url, "messages/info.json"),
        "headers": {"Content-Type": "application/json"},
        "data": json.dumps({"key": backend.api_key, "id": esp_message_id}),
    }
    taken = [each for each in message.get("smtp_events") or [] if each.get("type") == "sent"]
    event = STATES.get(message["state"]) or ("delivered" if taken else None)
    if event is None:
        return []
    told = {"event": event, "_id": esp_message_id, "msg": message}
    return [{**told, "ts": taken[-1]["ts"]} if event == "delivered" and taken else told]


POLL = Poll(ask=_ask, rate=0.25, burst=5, unknown=frozenset({"Unknown_Message"}))
