"""Resend.

https://resend.com/docs/api-reference/emails/retrieve-email: the last event of a mail, in one word, without its time. Of
a bounce it does not say whether it is for good, so it is taken for one that passes: a webhook may still say more, and
never less. A key that may only send is refused.
https://resend.com/docs/api-reference/rate-limit: a team has two requests a second by one copy of the page, five by
another, and sending is among them: so one, at most, is for asking.
"""

from typing import Any, Final
from urllib.parse import quote, urljoin

from webhooks.polls.base import Poll, Story

# `last_event` -> the webhook's type. Who opened a mail has it.
EVENTS: Final[dict[str, str]] = {
    "bounced": "email.bounced",
    "clicked": "email.delivered",
    "complained": "email.complained",
    "delivered": "email.delivered",
    "delivery_delayed": "email.delivery_delayed",
    "failed": "email.failed",
    "opened": "email.delivered",
    "suppressed": "email.suppressed",
}


def _ask(backend: Any, esp_message_id: str) -> Story:
    mail = yield {
        "method": "GET",
        "url": urljoin(backend.api_url, f"emails/{quote(esp_message_id, safe='')}"),
        "headers": {"Authorization": f"Bearer {backend.api_key}"},
    }
    recipients = [address for field in ("to", "cc", "bcc") for address in mail.get(field) or []]
    kind = EVENTS.get(mail["last_event"])
    # Of several recipients it is not said which one is meant.
    if kind is None or len(recipients) != 1:
        return []
    data: dict[str, Any] = {"email_id": esp_message_id, "to": recipients}
    if kind == "email.bounced":
        data["bounce"] = {"type": "Undetermined", "message": ""}
    return [{"type": kind, "data": data}]


POLL = Poll(ask=_ask, rate=1, burst=1)
