"""A provider's words -> our facts.

Anymail reads the request; what it leaves open (soft or hard, types it does not know, no ids) is in the
tables here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from anymail.exceptions import AnymailConfigurationError, AnymailError
from anymail.signals import AnymailTrackingEvent
from django.http import HttpRequest
from django.utils.module_loading import import_string

from mailer.ledger import MAX_IDENTIFIER, Fact, Source, dedupe_key, text_of
from mailer.status import EVENT_STATUS, Status
from users.addresses import MAX_LENGTH, loosely_canonical
from webhooks.exceptions import Unreadable

# https://postmarkapp.com/developer/api/bounce-api#bounce-types, where Anymail says `bounced`.
POSTMARK_BOUNCES: Final[dict[str, Status]] = {
    "HardBounce": Status.BOUNCED,
    "SoftBounce": Status.SOFT_BOUNCED,
    "VirusNotification": Status.BOUNCED,
}
# https://resend.com/docs/dashboard/emails/email-bounces, the bounce's `type`.
RESEND_BOUNCES: Final[dict[str, Status]] = {
    "Permanent": Status.BOUNCED,
    "Transient": Status.SOFT_BOUNCED,
    "Undetermined": Status.SOFT_BOUNCED,
}
# https://resend.com/docs/webhooks/event-types: types that Anymail does not know.
RESEND_TYPES: Final[dict[str, str]] = {
    "email.failed": "failed",
    "email.scheduled": "scheduled",
    "email.suppressed": "suppressed",
}


def _postmark(event: AnymailTrackingEvent) -> tuple[str, Status | None]:
    if event.event_type == "bounced":
        raw = event.esp_event.get("Type") or event.esp_event.get("SuppressionReason") or ""
        return event.event_type, POSTMARK_BOUNCES.get(raw, Status.BOUNCED)
    if event.event_type == "unsubscribed" and event.esp_event.get("Origin", "Recipient") != "Recipient":
        return event.event_type, None  # an operator's doing, which says nothing of the mail
    return event.event_type, EVENT_STATUS.get(event.event_type)


def _resend(event: AnymailTrackingEvent) -> tuple[str, Status | None]:
    if event.event_type == "bounced":
        bounce = event.esp_event["data"].get("bounce") or {}
        return event.event_type, RESEND_BOUNCES.get(bounce.get("type", ""), Status.BOUNCED)
    event_type = RESEND_TYPES.get(event.esp_event["type"], event.event_type)
    return event_type, EVENT_STATUS.get(event_type)


# What Anymail's parsers raise for a body of another shape than they expect, or for an inbound mail.
UNREADABLE: Final = (
    AnymailConfigurationError,
    AnymailError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Reader:
    """How a provider's requests are read: Anymail's view, and our judgement of an event's type and status.

    The view stands here by its name: only who gets webhooks needs it, and some load a library of a hundred modules.
    """

    view: str
    judge: Callable[[AnymailTrackingEvent], tuple[str, Status | None]]
    # The headers that events are read from; they are kept with the receipt.
    headers: tuple[str, ...] = ()


READERS: Final[dict[str, Reader]] = {
    "postmark": Reader("anymail.webhooks.postmark.PostmarkTrackingWebhookView", _postmark),
    "resend": Reader("anymail.webhooks.resend.ResendTrackingWebhookView", _resend, headers=("svix-id",)),
}


def read(provider: str, headers: Mapping[str, str], body: bytes, receipt_id: UUID) -> list[Fact]:
    """Return the facts in a request whose signature was checked. Raises `Unreadable`."""
    reader = READERS[provider]
    request = HttpRequest()
    request.META = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
    request._body = body  # noqa: SLF001  # a receipt that is read again has no stream behind it
    try:
        # Anymail's own check is not used; ours has been passed. The setting keeps it from warning.
        events = import_string(reader.view)(webhook_secret="checked:already").parse_events(request)  # noqa: S106  # no secret
        return [_fact(provider, event, *reader.judge(event), receipt_id) for event in events]
    except UNREADABLE as error:
        raise Unreadable(type(error).__name__) from error


def _fact(provider: str, event: AnymailTrackingEvent, event_type: str, status: Status | None, receipt_id: UUID) -> Fact:
    # Cut again, since folding the case may lengthen it.
    recipient = loosely_canonical(text_of(event.recipient, MAX_LENGTH))[:MAX_LENGTH]
    esp_message_id, esp_event_id = text_of(event.message_id, MAX_IDENTIFIER), text_of(event.event_id, MAX_IDENTIFIER)
    occurred_at = _time(event.timestamp)
    detail = text_of(event.mta_response or event.description, 2000)
    identity: tuple[object, ...] = (
        (esp_event_id, recipient, event_type)
        if esp_event_id
        else (esp_message_id, recipient, event_type, occurred_at, detail)
    )
    return Fact(
        event_type=event_type,
        status=status,
        dedupe_key=dedupe_key(provider, *identity),
        source=Source.WEBHOOK,
        occurred_at=occurred_at,
        message_id=_our_id(event.metadata),
        provider=provider,
        esp_message_id=esp_message_id,
        esp_event_id=esp_event_id,
        recipient_canonical=recipient,
        reject_reason=text_of(event.reject_reason, 32),
        detail=detail,
        receipt_id=receipt_id,
    )


def _our_id(metadata: Any) -> UUID | None:
    try:
        return UUID(metadata["message_id"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None  # a mail that was sent past us, or a provider that lost the metadata


def _time(value: datetime | None) -> datetime | None:
    if value is None:
        return None
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
