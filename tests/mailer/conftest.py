"""Messages, deliveries and facts to test with."""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from anymail.message import AnymailMessage
from django.db import connection

from mailer import couriers, ledger, letters, outbox, ses
from mailer.ledger import Fact, Source, dedupe_key
from mailer.models import DeliveryStatus, Message
from mailer.outbox import Claimed
from mailer.status import EVENT_STATUS, Status

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
_numbers = itertools.count()


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def enqueue(recipient: str = "ada@example.com", kind: str = "welcome", **fields: Any) -> Message:
    """Enqueue a message with a dedupe key of its own."""
    message = outbox.enqueue(kind, recipient, **{"dedupe_key": f"test:{next(_numbers)}", **fields})
    assert message is not None
    return message


def change(message: Message, **fields: Any) -> None:
    """Change a message's row as only time, or a crash, otherwise would."""
    assert Message.objects.filter(pk=message.pk).update(**fields) == 1


def read(message: Message) -> Message:
    return Message.objects.get(pk=message.pk)


def delivery_of(message: Message) -> DeliveryStatus:
    return DeliveryStatus.objects.get(message=message)


def claim_one(message: Message, owner: str = "worker") -> Claimed:
    """Claim what is due and return the claim of this message."""
    return next(claim for claim in outbox.claim(owner, 100) if claim.message.pk == message.pk)


def intend_one(message: Message, provider: str = "resend", owner: str = "worker") -> Claimed:
    """Claim a message and commit the intent to send it through a provider."""
    claim = claim_one(message, owner)
    claim.message.provider = provider
    claim.message.content = claim.message.content or {"subject": "s", "text": "t", "html": "h", "from_email": "f"}
    assert outbox.intend([claim]) == [claim]
    return claim


def new_delivery(first: str = "queued", recipient: str = "ada@example.com", message: Message | None = None) -> UUID:
    """Write a delivery whose first event is of this type, with its message where none is given."""
    if message is None:
        message = Message.objects.create(kind="welcome", dedupe_key=f"test:{next(_numbers)}")
    return ledger.open_delivery(message, recipient, event_type=first)


def fact(event_type: str, key: str = "", **fields: Any) -> Fact:
    """Return a webhook's fact; its status follows from the event type unless it is given."""
    return Fact(
        **{
            "event_type": event_type,
            "status": EVENT_STATUS[event_type],
            "dedupe_key": dedupe_key("test", key or next(_numbers)),
            "source": Source.WEBHOOK,
            "occurred_at": NOON,
            **fields,
        }
    )


def standing(status: Status, **fields: Any) -> Fact:
    """Return a fact that speaks for a status."""
    words = [event_type for event_type, means in EVENT_STATUS.items() if means is status]
    event_type = words[0] if words else "bounced"  # soft bounces have no word of their own
    return fact(event_type, status=status, **fields)


def ask(sql: str, *parameters: object) -> float:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return float(cursor.fetchone()[0])


def run(sql: str, *parameters: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)


def pass_time(name: str, seconds: float) -> None:
    """Let this time have passed since all that is known of a provider."""
    run(
        "UPDATE mailer_providerstate SET refilled_at = refilled_at - make_interval(secs => %s),"
        " blocked_until = blocked_until - make_interval(secs => %s) WHERE name = %s",
        *(seconds, seconds, name),
    )


def make_due() -> None:
    """Let the time to retry have come."""
    run("UPDATE mailer_message SET run_at = now() - interval '1 second' WHERE state = 'retry'")


def looks(count: int) -> Callable[[], bool]:
    """Return what lets a drain claim so many times, and then no more."""
    left: Iterator[bool] = iter([True] * count)
    return lambda: next(left, False)


def draft(*to: str, **fields: Any) -> AnymailMessage:
    """Return a mail that was never queued."""
    recipients = list(to or ["ada@example.com"])
    return AnymailMessage(
        **{"subject": "Hello", "body": "Good day.", "from_email": "accounts@example.com", "to": recipients, **fields}
    )


@pytest.fixture
def fresh_threads() -> Iterator[None]:
    """Have the courier's threads, and the connections that they keep, end with the test."""
    letters.backend_at.cache_clear()
    ses.forget()
    yield
    couriers.close()
    ses.forget()
    letters.backend_at.cache_clear()


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    """One thread, as a courier has many."""
    with ThreadPoolExecutor(1) as pool:
        yield pool
