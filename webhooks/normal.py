"""A provider's words -> our facts.

Anymail reads each event; what it leaves open (soft or hard, types it does not know, no ids) is in the tables of
`webhooks.providers`.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from anymail.exceptions import AnymailConfigurationError, AnymailError
from anymail.signals import AnymailTrackingEvent
from django.conf import settings
from django.utils.module_loading import import_string

from mailer.ledger import MAX_IDENTIFIER, Fact, Source, dedupe_key, text_of
from users.addresses import MAX_LENGTH, loosely_canonical
from webhooks.exceptions import TooDeep, TooManyEvents, Unreadable
from webhooks.providers import WEBHOOKS, Incoming, Meaning

# What Anymail's parsers raise for a body of another shape than they expect, or for an inbound mail.
UNREADABLE: Final = (
    AnymailConfigurationError,
    AnymailError,
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,  # of a time that no clock has
    RecursionError,
    TypeError,
    Unreadable,
    ValueError,
)

# Anymail's own check is not used; ours has been passed. Without these its views warn, or refuse to be made.
_CHECKED: Final = dict.fromkeys(("webhook_secret", "webhook_key", "signing_secret", "api_key"), "checked:already")

# Lists and objects within each other in one event.
MAX_NESTING: Final = 100


@dataclass(frozen=True, slots=True)
class Contents:
    """What a request says: the facts that could be read, and why others could not, an error's name each.

    `heard` has Anymail's event for each fact; `view` is the view that read them. `waiting` events are left unread.
    """

    facts: list[Fact] = field(default_factory=list)
    heard: list[AnymailTrackingEvent] = field(default_factory=list)
    view: Any = field(default=None, compare=False)
    unreadable: list[str] = field(default_factory=list)
    waiting: int = 0


def read(provider: str, incoming: Incoming, receipt_id: UUID, *, at_once: int | None = None) -> Contents:
    """Return what a request says whose signature was checked; what cannot be read harms no other event in it.

    Where there are more events than `at_once`, none is read. Raises `TooManyEvents`.
    """
    webhook = WEBHOOKS[provider]
    try:
        parts = webhook.parts(incoming)
    except UNREADABLE as error:
        return Contents(unreadable=[type(error).__name__])
    if len(parts) > settings.WEBHOOK_MAX_EVENTS:
        raise TooManyEvents
    if at_once is not None and len(parts) > at_once:
        return Contents(waiting=len(parts))
    return read_parts(provider, parts, incoming, receipt_id=receipt_id, source=Source.WEBHOOK)


def read_parts(
    provider: str, parts: Iterable[Any], incoming: Incoming, *, receipt_id: UUID | None, source: Source
) -> Contents:
    """Return what events say that came in a request, or that a provider has told when it was asked."""
    webhook = WEBHOOKS[provider]
    view = _view(webhook.view)
    contents = Contents(view=view)
    for part in parts:
        try:
            _bound(part, MAX_NESTING)
            heard = list(webhook.read(view, part, incoming))
            facts = [_fact(provider, event, webhook.judge(event), receipt_id, source) for event in heard]
        except UNREADABLE as error:
            contents.unreadable.append(type(error).__name__)
        else:
            contents.facts.extend(facts)
            contents.heard.extend(heard)
    return contents


@functools.cache
def _view(name: str) -> Any:
    """Return Anymail's view, which keeps nothing of what it reads."""
    return import_string(name)(**_CHECKED)


def _bound(value: Any, depth: int) -> None:
    """Check how deep the lists and objects in a value are nested. Raises `TooDeep`."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        if isinstance(each, dict | list):
            if depth <= 1:
                raise TooDeep
            _bound(each, depth - 1)


def _fact(
    provider: str, event: AnymailTrackingEvent, meaning: Meaning, receipt_id: UUID | None, source: Source
) -> Fact:
    # Cut again, since folding the case may lengthen it.
    recipient = loosely_canonical(text_of(event.recipient, MAX_LENGTH))[:MAX_LENGTH]
    esp_message_id = text_of(event.message_id, MAX_IDENTIFIER)
    esp_event_id = text_of(event.event_id if meaning.event_id is None else meaning.event_id, MAX_IDENTIFIER)
    occurred_at = _time(meaning.occurred_at or event.timestamp)
    detail = text_of(meaning.detail or event.mta_response or event.description, 2000)
    identity: tuple[object, ...] = (
        (esp_event_id, recipient, meaning.event_type)
        if esp_event_id
        else (esp_message_id, recipient, meaning.event_type, occurred_at, detail)
    )
    return Fact(
        event_type=meaning.event_type,
        status=meaning.status,
        dedupe_key=dedupe_key(provider, *identity),
        source=source,
        receipt_id=receipt_id,
        occurred_at=occurred_at,
        message_id=_our_id(event.metadata),
        provider=provider,
        esp_message_id=esp_message_id,
        esp_event_id=esp_event_id,
        recipient_canonical=recipient,
        reject_reason=text_of(event.reject_reason, 32),
        detail=detail,
        category=meaning.category,
        smtp_status=text_of(meaning.smtp_status, 12),
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
