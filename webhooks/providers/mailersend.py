"""MailerSend.

https://developers.mailersend.com/api/v1/webhooks.html: HMAC-SHA256 in hex over the body, keyed with the webhook's
signing secret; there is no time to check. What fails is repeated with growing pauses, the last some three days later,
but not what was answered with 4xx. A webhook is saved once its address answers a `webhook.test`, which is signed with a
secret that all know.
The same page: one event a request, in two shapes: since 2025 `data.email` is the recipient, before it was an object.
Only the older one is known to Anymail. There is no metadata: a delivery is found by the message's id.
"""

import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from anymail.signals import AnymailTrackingEvent
from django.utils.dateparse import parse_datetime

from mailer.status import Status
from webhooks.exceptions import Unreadable
from webhooks.providers.base import LARGEST_CHECK, Incoming, Meaning, Proof, Webhook
from webhooks.providers.proofs import one_of
from webhooks.providers.replies import category_of, smtp_status_in

CHECK: Final = "webhook.test"
CHECKED: Final = {"type", "message", "created_at"}  # what stands in one
# The secret that all know: it proves nothing, and is good for the check of an address alone.
CHECK_SECRET: Final = "test_Am3L1GuOIc4blLUuHqAPxxwkZaJyEk8G"  # noqa: S105  # it is published

EVENTS: Final[dict[str, tuple[str, Status | None]]] = {
    "sent": ("sent", Status.SENT),
    "delivered": ("delivered", Status.DELIVERED),
    "soft_bounced": ("bounced", Status.SOFT_BOUNCED),
    "hard_bounced": ("bounced", Status.BOUNCED),
    "deferred": ("deferred", Status.DEFERRED),
    "opened": ("opened", Status.DELIVERED),
    "clicked": ("clicked", Status.DELIVERED),
    "unsubscribed": ("unsubscribed", Status.DELIVERED),
    "spam_complaint": ("complained", Status.COMPLAINED),
    # Second reports of an `opened` or a `clicked`: they would count it twice.
    "opened_unique": ("unknown", Status.DELIVERED),
    "clicked_unique": ("unknown", Status.DELIVERED),
    "survey_opened": ("unknown", Status.DELIVERED),
    "survey_submitted": ("unknown", Status.DELIVERED),
}


def verify(incoming: Incoming, secrets: Sequence[str]) -> Proof:
    """Check the signature; any of the secrets will do. Raises `Rejected`."""
    given = incoming.headers.get("signature", "").encode("utf-8", "replace")
    keys = [secret for secret in secrets if secret != CHECK_SECRET or _is_check(incoming)]
    one_of([given], [hmac.digest(key.encode(), incoming.body, "sha256").hex().encode() for key in keys])
    return Proof()


def _is_check(incoming: Incoming) -> bool:
    """Tell whether a request is what the page shows of the check of an address, and no more than that."""
    if len(incoming.body) > LARGEST_CHECK or _about(incoming) != CHECK:
        return False
    body = incoming.json()
    return body.keys() == CHECKED and all(isinstance(value, str) for value in body.values())


def _about(incoming: Incoming) -> str:
    """Return what a request is about, as `activity.sent`, or nothing where it does not say."""
    try:
        body = incoming.json()
    except Unreadable:
        return ""
    about = (body.get("type") or body.get("object")) if isinstance(body, dict) else ""
    return about if isinstance(about, str) else ""


def parts(incoming: Incoming) -> Sequence[Any]:
    """Return the event; none where a request is about something else than a mail. Raises `Unreadable`."""
    about = _about(incoming)
    return [] if about and not about.startswith("activity.") else [incoming.json()]


def _read(view: Any, part: Any, _incoming: Incoming) -> list[AnymailTrackingEvent]:
    data = part["data"]
    known = {key: value for key, value in data.items() if key != "created_at"}  # which is read below
    if not isinstance(data.get("email"), dict):
        known["email"] = {
            "message": {"id": data.get("message_id")},
            "recipient": {"email": data.get("email")},
            "tags": data.get("tags"),
        }
    event = view.esp_to_anymail_event({**part, "data": known})
    event.esp_event = part
    event.timestamp = _time(data.get("created_at")) or _time(part.get("created_at"))
    event.description = _words(data) or None
    return [event]


def _time(value: Any) -> datetime | None:
    try:
        return parse_datetime(value)
    except (TypeError, ValueError):
        return None


def _words(data: Mapping[str, Any]) -> str:
    more = data.get("morph") or data.get("meta")
    if not isinstance(more, dict):
        return ""  # an empty list, where there is nothing to say
    return str(more.get("readable_reason") or more.get("reason") or "")


def _judge(event: AnymailTrackingEvent) -> Meaning:
    data = event.esp_event["data"]
    event_type, status = EVENTS.get(data["type"], ("unknown", None))
    if event_type not in ("bounced", "deferred"):
        return Meaning(event_type, status)
    text = _words(data)
    smtp_status = smtp_status_in(text)
    return Meaning(event_type, status, category_of(smtp_status, text), smtp_status)


WEBHOOK = Webhook(
    name="mailersend",
    view="anymail.webhooks.mailersend.MailerSendTrackingWebhookView",
    variable="WEBHOOK_SECRET_MAILERSEND",
    is_secret=bool,
    looks="the webhook's signing secret",
    verify=verify,
    judge=_judge,
    parts=parts,
    read=_read,
    repeats=timedelta(days=3, hours=12),
)
