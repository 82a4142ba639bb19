"""SendGrid, which Anymail still reads but no longer supports.

https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features:
ECDSA over the timestamp and the body; the dashboard shows the public key in base64, without PEM's lines.
https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event: the events. A bounce of the type `blocked` is
no verdict on the address; SendGrid itself does not suppress it.
https://www.twilio.com/docs/sendgrid/ui/analytics-and-reporting/bounce-and-block-classifications.
https://github.com/sendgrid/docs/issues/5811: what is not answered with 2xx comes again for 24 hours.
https://github.com/sendgrid/sendgrid-nodejs/issues/1435: then with another `sg_event_id`, and else the same.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from anymail.signals import AnymailTrackingEvent
from django.utils.module_loading import import_string

from mailer.status import EVENT_STATUS, Status
from webhooks.exceptions import Rejected, Unreadable
from webhooks.providers.base import Incoming, Meaning, Proof, Webhook, listed
from webhooks.providers.proofs import fresh
from webhooks.providers.replies import category_of, smtp_status_in
from webhooks.providers.times import of_epoch

SIGNATURE: Final = "x-twilio-email-event-webhook-signature"
TIMESTAMP: Final = "x-twilio-email-event-webhook-timestamp"
TOLERANCE: Final = 26 * 60 * 60  # seconds: a day of repeats, and some slack

# A bounce's `type`.
BOUNCES: Final[dict[str, Status]] = {
    "bounce": Status.BOUNCED,
    "blocked": Status.SOFT_BOUNCED,
    "expired": Status.SOFT_BOUNCED,
}
# Its `bounce_classification`; "Technical", "Mailbox Unavailable" and "Unclassified" name no one cause: the reply may.
CLASSES: Final[dict[str, str]] = {
    "Invalid Address": "no_mailbox",
    "Content": "spam",
    "Reputation": "spam",
    "Frequency or Volume Too High": "policy",
}
# Why SendGrid dropped a mail before any server was asked -> type and category.
DROPS: Final[dict[str, tuple[str, str]]] = {
    "bounced address": ("suppressed", "no_mailbox"),
    "invalid": ("suppressed", "no_mailbox"),
    "spam reporting address": ("suppressed", "policy"),
    "unsubscribed address": ("suppressed", "policy"),
    "spam content": ("rejected", "spam"),
    "invalid smtpapi header": ("rejected", "other"),
    "recipient list over package quota": ("rejected", "policy"),
}
# What tells two events about one mail apart, and is the same in each repeat.
IDENTITY: Final = (
    *(
        "anymail_id",
        "smtp-id",
        "sg_message_id",
        "event",
        "timestamp",
        "type",
        "status",
        "reason",
        "response",
        "attempt",
    ),
    *("url", "url_offset", "useragent", "ip", "asm_group_id"),
)


def verify(incoming: Incoming, secrets: Sequence[str]) -> Proof:
    """Check signature and freshness, by any of the public keys. Raises `Rejected`."""
    timestamp, signature = incoming.headers.get(TIMESTAMP, ""), incoming.headers.get(SIGNATURE, "")
    fresh(timestamp, TOLERANCE)
    is_signed = import_string("webhooks.providers.ecdsa.is_signed")
    if not any([is_signed(key, signature, timestamp.encode() + incoming.body) for key in secrets]):  # noqa: C419  # each
        raise Rejected("the signature is missing or wrong")
    return Proof()


def _is_secret(secret: str) -> bool:
    return bool(import_string("webhooks.providers.ecdsa.is_public_key")(secret))


def _read(view: Any, part: Any, _incoming: Incoming) -> list[AnymailTrackingEvent]:
    if not isinstance(part, dict):
        raise Unreadable("an event is no object")
    event = {name: value for name, value in part.items() if name != "timestamp"}
    if time := of_epoch(part.get("timestamp")):
        event["timestamp"] = time.timestamp()
    return [view.esp_to_anymail_event(event)]


def _judge(event: AnymailTrackingEvent) -> Meaning:
    raw = event.esp_event
    said = _text(raw, "response") or _text(raw, "reason")
    event_type, status, category = event.event_type, EVENT_STATUS.get(event.event_type), ""
    smtp_status = smtp_status_in(_text(raw, "status")) or smtp_status_in(said)
    if event_type == "bounced":
        status = BOUNCES.get(_text(raw, "type")) or _by_code(smtp_status)
        category = CLASSES.get(_text(raw, "bounce_classification")) or category_of(smtp_status, said)
    elif event_type == "deferred":
        category = category_of(smtp_status, said)
    elif event_type == "rejected":
        event_type, category = DROPS.get(said.casefold().strip(), ("rejected", "other"))
        status = EVENT_STATUS[event_type]
    return Meaning(event_type, status, category, smtp_status, detail=said or None, event_id=_identity(raw))


def _by_code(smtp_status: str) -> Status:
    return Status.SOFT_BOUNCED if smtp_status.startswith("4") else Status.BOUNCED


def _identity(raw: Mapping[str, Any]) -> str:
    facts = json.dumps([raw.get(name) for name in IDENTITY])
    return hashlib.sha256(facts.encode()).hexdigest()


def _text(raw: Mapping[str, Any], name: str) -> str:
    value = raw.get(name)
    return value if isinstance(value, str) else ""


WEBHOOK = Webhook(
    name="sendgrid",
    view="anymail.webhooks.sendgrid.SendGridTrackingWebhookView",
    variable="WEBHOOK_SECRET_SENDGRID",
    is_secret=_is_secret,
    looks="the verification key, a public key in base64",
    verify=verify,
    judge=_judge,
    parts=listed,
    read=_read,
    repeats=timedelta(hours=26),
)
