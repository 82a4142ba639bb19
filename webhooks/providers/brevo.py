"""Brevo signs nothing: it can only be given a user and a password in the webhook's URL.

https://developers.brevo.com/docs/secured-webhooks.
https://developers.brevo.com/docs/transactional-webhooks: the events. No id tells them apart; `ts_epoch` is in
milliseconds UTC, but in the page's own examples in seconds. `X-Mailin-custom` is where Anymail puts the metadata, in
JSON; in the page's examples it is not.
https://developers.brevo.com/docs/batch-webhooks: up to 500 events in a list where it is switched on.
https://developers.brevo.com/reference/get-transac-blocked-contacts: whom it does not mail now, since they bounced,
complained or unsubscribed. What is `blocked` for that says so in its reason, and no more.
https://developers.brevo.com/docs/retry-mechanism: it repeats four times, the last one eleven hours later - after no
answer and after 429. Any other 4xx, and any 5xx, ends it.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from anymail.signals import AnymailTrackingEvent

from mailer.status import EVENT_STATUS, Status
from webhooks.exceptions import Unreadable
from webhooks.providers.base import Incoming, Meaning, Webhook, listed
from webhooks.providers.proofs import basic_auth, is_basic_auth
from webhooks.providers.replies import undelivered

# A mail that did not arrive: its event's type, the status, and the category where the type says it.
FAILURES: Final[dict[str, tuple[str, Status, str]]] = {
    "hard_bounce": ("bounced", Status.BOUNCED, ""),
    "soft_bounce": ("bounced", Status.SOFT_BOUNCED, ""),
    "invalid_email": ("bounced", Status.BOUNCED, "no_mailbox"),
    "blocked": ("rejected", Status.REJECTED, "policy"),
    "deferred": ("deferred", Status.DEFERRED, ""),
    "error": ("failed", Status.FAILED, ""),
}

# In the reason of what is blocked, where it is for the recipient.
SUPPRESSED: Final = "blacklist user"

_CUSTOM: Final = "X-Mailin-custom"
# No time in seconds is as great, and none in milliseconds since 1973 as small.
_MILLISECONDS: Final = 10**11


def _read(view: Any, part: Any, _incoming: Incoming) -> Iterable[AnymailTrackingEvent]:
    if "items" in part:
        raise Unreadable("an inbound mail")
    event = view.esp_to_anymail_event({**part, "ts_epoch": 0, _CUSTOM: _json_or_none(part.get(_CUSTOM))})
    event.esp_event = part
    event.timestamp = _time(part)
    return [event]


def _json_or_none(value: Any) -> Any:
    """Return what is JSON, and None for anything else: Anymail reads no event whose metadata is not its own."""
    try:
        json.loads(value)
    except (RecursionError, TypeError, ValueError):
        return None
    return value


def _time(part: Any) -> datetime | None:
    value = part.get("ts_epoch") or part.get("ts_event")
    if not value:
        return None
    return datetime.fromtimestamp(value / 1000 if value >= _MILLISECONDS else value, UTC)


def _judge(event: AnymailTrackingEvent) -> Meaning:
    if failure := FAILURES.get(event.esp_event.get("event")):
        event_type, status, category = failure
        if event_type == "rejected" and SUPPRESSED in str(event.mta_response).casefold():
            return undelivered("suppressed", Status.SUPPRESSED, event.mta_response, "other")
        return undelivered(event_type, status, event.mta_response, category)
    return Meaning(event.event_type, EVENT_STATUS.get(event.event_type))


WEBHOOK = Webhook(
    name="brevo",
    view="anymail.webhooks.brevo.BrevoTrackingWebhookView",
    variable="WEBHOOK_SECRET_BREVO",
    is_secret=is_basic_auth,
    looks="user:password",
    verify=basic_auth,
    judge=_judge,
    parts=listed,
    read=_read,
    again=429,
    repeats=timedelta(hours=12),
)
