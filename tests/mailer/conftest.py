"""Messages, deliveries and facts to test with."""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from anymail.message import AnymailMessage
from django.db import connection
from django.db.models.functions import Now

from mailer import couriers, ledger, letters, outbox, sender, ses
from mailer.ledger import Fact, Source, dedupe_key, own_fact
from mailer.models import DeliveryStatus, Message, ProviderState
from mailer.outbox import Claimed, Outcome
from mailer.status import EVENT_STATUS, Status
from tests.mailer import mailserver, tiny

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


def outcome(claim: Claimed, state: str, event_type: str, **fields: Any) -> Outcome:
    """Return an outcome of a claim that tells its deliveries one fact."""
    facts = tuple(
        own_fact(event_type, recipient.delivery_id, claim.message.token, provider=claim.message.provider)
        for recipient in claim.recipients
    )
    return Outcome(claim.message.pk, claim.message.token, state, **{"facts": facts, **fields})


def lapse(message: Message, **fields: Any) -> None:
    """Let the lease of a message run out."""
    change(message, lease_until=Now() - timedelta(hours=1), **fields)


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
    return open_delivery(message, recipient, event_type=first)


def open_delivery(message: Message, recipient: str, *, event_type: str = "queued") -> UUID:
    """Write one more delivery of a message."""
    with connection.cursor() as cursor:
        cursor.execute(_OPEN, {"id": message.pk, "openings": ledger.openings([recipient], event_type=event_type)})
        [identifier] = cursor.fetchone()
    return identifier


_OPEN = f"""
WITH written AS (SELECT id, kind, user_id FROM {Message._meta.db_table} WHERE id = %(id)s), {ledger.OPENING}
SELECT id FROM opened"""


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
def fresh_threads(fresh_courier: None) -> Iterator[None]:
    """Have the courier's threads, and the connections that they keep, end with the test."""
    ses.forget()
    yield
    couriers.close()
    ses.forget()


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    """One thread, as a courier has many."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


# --- Sending --------------------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("provider", ["resend", "postmark"])
ACCEPTED = {
    "resend": b'{"id": "re-1"}',
    "postmark": b'{"To": "ada@example.com", "MessageID": "pm-1", "ErrorCode": 0, "Message": "OK"}',
}


@pytest.fixture
def fresh_courier() -> Iterator[None]:
    """Have the courier's connections, and what is known of a provider's address, end with the test."""
    letters.backend_at.cache_clear()
    yield
    couriers.close()
    letters.backend_at.cache_clear()


@pytest.fixture
def prefer(settings: Any) -> Callable[..., None]:
    """Prefer a provider; where a URL is given, it is reached there."""

    def prefer(provider: str, url: str = "") -> None:
        settings.MAIL_PROVIDERS = [provider]
        if url:
            settings.ANYMAIL = {**settings.ANYMAIL, f"{provider.upper()}_API_URL": f"{url}/"}
        letters.backend_at.cache_clear()

    return prefer


@pytest.fixture
def answering(prefer: Callable[..., None]) -> Iterator[Callable[..., tiny.Tiny]]:
    """Start a server that gives one answer for ever, and prefer it as a provider."""
    started: list[AbstractContextManager[tiny.Tiny]] = []

    def answering(provider: str, status: int = 200, body: bytes | None = None, **headers: str) -> tiny.Tiny:
        content = ACCEPTED[provider] if body is None else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        server = tiny.serving(lambda: (status, named, content))
        started.append(server)
        it = server.__enter__()
        prefer(provider, it.url)
        return it

    yield answering
    couriers.close()
    for server in started:
        server.__exit__(None, None, None)


def send_again() -> None:
    """Drain as if the time to retry had come, and no provider was left alone any more."""
    ProviderState.objects.all().delete()
    Message.objects.filter(state="retry").update(run_at=Now() - timedelta(hours=1))
    sender.drain()


class signal_receiver:  # noqa: N801  # reads as the statement it is
    """Connect a receiver to a signal for the length of a block."""

    def __init__(self, signal, receiver):
        self.signal, self.receiver = signal, receiver

    def __enter__(self):
        self.signal.connect(self.receiver)

    def __exit__(self, *_):
        self.signal.disconnect(self.receiver)


@pytest.fixture
def point(settings: Any) -> Callable[..., None]:
    """Have mails go to a server at a port of this machine."""

    def point(port: int, **fields: Any) -> None:
        settings.MAIL_PROVIDERS = ["smtp"]
        plain = {"EMAIL_HOST": "localhost", "EMAIL_PORT": port, "EMAIL_USE_TLS": False}
        for name, value in {**plain, **fields}.items():
            setattr(settings, name, value)

    return point


@pytest.fixture
def server(point: Callable[..., None]) -> Iterator[Any]:
    with mailserver.taking() as server:
        point(server.port)
        yield server


@pytest.fixture
def resend(simulator: Any, settings: Any, fresh_courier: None) -> Any:
    """Send through Resend alone, at the simulator."""
    settings.MAIL_PROVIDERS = ["resend"]
    letters.backend_at.cache_clear()
    return simulator


class DiedError(BaseException):
    """What ends a process."""


@pytest.fixture
def left_by_a_dead_worker(transactional_db: None, resend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a worker die once the intent for a batch is committed."""

    def die(*_: Any) -> None:
        raise DiedError

    for number in range(12):
        enqueue(f"user-{number}@example.com")
    with monkeypatch.context() as patched:
        patched.setattr(couriers.Courier, "send", die)
        with pytest.raises(DiedError):
            sender.drain()
    Message.objects.update(lease_until=Now() - timedelta(seconds=1))
