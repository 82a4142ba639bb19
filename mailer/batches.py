"""Batches for which one idempotency key holds: kept as they were sent, and repeated so until they are answered.

Such a batch can be repeated only as a whole, byte for byte, so its body is kept with the intent. Where its worker dies
or no answer comes, its messages stay in doubt, and the batch is due: whoever finds it commits another intent for each
of them, repeats the request, and settles them by the answer, which is that to the first request if it was taken.

It is repeated while that can be no second mail: while the key holds, and each message is as the batch has left it, or
known to be sent. Else it is let go, and `mailer.doubts` looks into each of them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog
from anymail.message import AnymailRecipientStatus
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction

from mailer import couriers, letters, outbox, providers, routing
from mailer.couriers import UNANSWERED, Response
from mailer.exceptions import DATABASE_LOST
from mailer.ledger import MAX_IDENTIFIER, own_fact, text_of
from mailer.models import Attempt, Batch, DeliveryStatus, Message, ProviderState
from mailer.outbox import OUTSTANDING, Outcome
from mailer.providers import Provider
from mailer.providers.base import get
from mailer.sweeping import MAX_CRASHES
from mailer.verdicts import Answer, Verdict, of_error

log = structlog.get_logger(__name__)
State = Message.State

# Batches that one round repeats.
LIMIT: Final = 5
# A batch is repeated after uniform(0, min(LONGEST, FIRST * 2**n)) seconds, n times having been in vain.
FIRST: Final = 2.0
LONGEST: Final = 15 * 60.0
# Seconds that a provider is left alone which does not say for how long it wants to be.
THROTTLED: Final = 1.0


@dataclass(frozen=True, slots=True)
class Kept:
    """A batch that is due; `age` is in seconds since it was first sent."""

    id: UUID
    provider: str
    body: str
    message_ids: list[UUID]
    age: float


@dataclass(frozen=True, slots=True)
class Member:
    """A message of a batch. It `is_left` where the batch has left it in doubt and nobody has decided about it since."""

    message_id: UUID
    state: str
    is_left: bool
    is_deadly: bool
    is_late: bool
    deliveries: list[UUID]


def keep(batch_id: UUID, provider: str, body: str, message_ids: Sequence[UUID]) -> None:
    """Write a batch, to be committed with the intents of its messages, which are in the order of its body."""
    with connection.cursor() as cursor:
        cursor.execute(_KEEP, [batch_id, provider, body, [*message_ids], settings.MAIL_LEASE_SECONDS])


def answered(batch_ids: Collection[UUID]) -> None:
    """Let go batches that left no message in doubt, once its outcome is written; have the others repeated soon."""
    if batch_ids:
        with connection.cursor() as cursor:
            cursor.execute(_LET_GO_SETTLED, [[*batch_ids]])
            cursor.execute(_PUT_OFF, {"ids": [*batch_ids], "longest": LONGEST, "first": FIRST})


def resolve(limit: int = LIMIT) -> int:
    """Repeat batches that are due; return how many were looked into. Any number of processes may: each has its own."""
    parameters = {"limit": limit, "lease": settings.MAIL_LEASE_SECONDS}
    with connection.cursor() as cursor:
        cursor.execute(_TAKE, parameters)
        kept = [Kept(*row) for row in cursor.fetchall()]
    for batch in kept:
        try:
            _resolve(batch)
        except DATABASE_LOST:
            raise
        except Exception:
            # One that nobody foresaw must not keep the others, and all mail, waiting. It comes up again.
            log.exception("batch_failed", batch_id=str(batch.id), provider=batch.provider)
    return len(kept)


def _resolve(batch: Kept) -> None:
    with transaction.atomic():
        members = _locked(batch)
        if any(member.state in {State.LEASED, State.SENDING} for member in members):
            return  # its worker may live; else the sweep will find that
        doubted = [member for member in members if member.is_left]
        if not doubted:
            _let_go(batch, [])
            return
        if not _is_repeatable(batch, members, doubted):
            _let_go(batch, doubted)
            log.warning("batch_let_go", batch_id=str(batch.id), provider=batch.provider, messages=len(doubted))
            return
        tokens = _intend(batch)
    provider = providers.get(batch.provider)
    answers = _ask(batch, provider)
    outbox.settle(
        [
            _outcome(member, tokens[member.message_id], provider, answer)
            for member, answer in zip(members, answers, strict=True)
        ]
    )
    answered([batch.id])
    verdicts = sorted({answer.verdict for answer in answers})
    log.warning("batch_repeated", batch_id=str(batch.id), provider=batch.provider, verdicts=verdicts)


def _locked(batch: Kept) -> list[Member]:
    """Lock a batch's messages, and return those that there still are, in its order."""
    with connection.cursor() as cursor:
        cursor.execute(_LOCK, [batch.message_ids])
        cursor.execute(_MEMBERS, {"ids": batch.message_ids, "batch_id": batch.id, "crashes": MAX_CRASHES})
        return [Member(*row) for row in cursor.fetchall()]


def _is_repeatable(batch: Kept, members: Sequence[Member], doubted: Sequence[Member]) -> bool:
    provider = providers.PROVIDERS.get(batch.provider)
    return (
        provider is not None
        and provider.key is not None
        and batch.age < provider.key.lifetime.total_seconds()
        and len(members) == len(batch.message_ids)
        and all(member.is_left or member.state == State.SENT for member in members)
        and not any(member.is_deadly for member in doubted)
        and not all(member.is_late for member in doubted)
    )


def _let_go(batch: Kept, doubted: Sequence[Member]) -> None:
    """Forget a batch, and have what it leaves in doubt looked into."""
    with connection.cursor() as cursor:
        cursor.execute(_INQUIRE, [[member.message_id for member in doubted]])
        cursor.execute(_LET_GO, [batch.id])


def _intend(batch: Kept) -> dict[UUID, int]:
    """Write the intent to repeat a batch; return the tokens of its messages."""
    with connection.cursor() as cursor:
        cursor.execute(_INTEND, {"ids": batch.message_ids, "batch_id": batch.id, "lease": settings.MAIL_LEASE_SECONDS})
        return dict(cursor.fetchall())


def _ask(batch: Kept, provider: Provider) -> list[Answer]:
    """Repeat a batch; return what the answer says of each of its messages."""
    count = len(batch.message_ids)
    try:
        response = couriers.of_this_process().ask(letters.request_under(str(batch.id), provider, batch.body))
    except (*UNANSWERED, ImproperlyConfigured) as error:
        verdict = of_error(error) if isinstance(error, UNANSWERED) else Verdict.NOT_SENT
        return [Answer(verdict, error_class=type(error).__name__)] * count
    answers = _read(provider, response, count)
    if answers[0].verdict is Verdict.THROTTLED:
        routing.throttled(provider.name, answers[0].retry_after or THROTTLED)
    return answers


def _read(provider: Provider, response: Response, count: int) -> list[Answer]:
    """Read an answer without the letters, whose content may be gone: that one was taken, and the provider's id."""
    body = letters.decoded(response)
    parts = letters.parts_of(provider, body, count)
    if parts is None or provider.batch is None:
        return [letters.of_whole(provider, response, body)] * count
    return [
        Answer(
            verdict := provider.verdict(status, said),
            status,
            "" if verdict is Verdict.ACCEPTED else f"http_{status}",
            recipients={"": AnymailRecipientStatus(_identifier(provider.batch.identifier, said), "queued")},
        )
        for status, said in parts
    ]


def _identifier(path: Any, said: Any) -> str:
    found = get(said, path)
    return text_of(found, MAX_IDENTIFIER) if isinstance(found, str) else ""


# What is known of a message whose part of a repeated batch was answered so. All else leaves it in doubt.
_STATE_OF: Final = {Verdict.ACCEPTED: State.SENT, Verdict.PERMANENT: State.DEAD}


def _outcome(member: Member, token: int, provider: Provider, answer: Answer) -> Outcome:
    state = _STATE_OF.get(answer.verdict, State.UNKNOWN)
    identifier = next((said.message_id or "" for said in answer.recipients.values()), "")
    facts = [
        own_fact(
            outbox.EVENT_OF_STATE[state],
            delivery,
            token,
            provider=provider.name,
            esp_message_id=identifier,
            detail=answer.error_class,
        )
        for delivery in member.deliveries
        if member.is_left and state != State.UNKNOWN
    ]
    return Outcome(
        message_id=member.message_id,
        token=token,
        state=state,
        verdict=answer.verdict,
        http_status=answer.http_status,
        error_class=answer.error_class,
        facts=tuple(facts),
    )


_BATCH: Final = Batch._meta.db_table
_MESSAGE: Final = Message._meta.db_table
_ATTEMPT: Final = Attempt._meta.db_table
_DELIVERY: Final = DeliveryStatus._meta.db_table
_PROVIDER: Final = ProviderState._meta.db_table

_KEEP: Final = f"""
INSERT INTO {_BATCH} (id, provider, body, message_ids, repeat_at)
VALUES (%s, %s, %s, %s, now() + make_interval(secs => %s))"""

_LET_GO: Final = f"DELETE FROM {_BATCH} WHERE id = %s"

_LET_GO_SETTLED: Final = f"""
DELETE FROM {_BATCH} b
WHERE b.id = ANY(%s) AND NOT EXISTS (
    SELECT FROM {_MESSAGE} m WHERE m.id = ANY(b.message_ids) AND m.state IN ('sending', 'unknown'))"""

_PUT_OFF: Final = f"""
UPDATE {_BATCH}
SET repeat_at = now() + make_interval(secs => random() * least(%(longest)s, %(first)s * 2 ^ least(repeats, 20)))
WHERE id = ANY(%(ids)s)"""

# Whoever takes a batch puts it off, so that no other takes it meanwhile; should he die, it comes up again.
_TAKE: Final = f"""
WITH due AS MATERIALIZED (
    SELECT id FROM {_BATCH} b
    WHERE repeat_at <= now()
      AND NOT EXISTS (SELECT FROM {_PROVIDER} p WHERE p.name = b.provider AND p.blocked_until > now())
    ORDER BY repeat_at LIMIT %(limit)s
    FOR NO KEY UPDATE OF b SKIP LOCKED
)
UPDATE {_BATCH} b SET repeat_at = now() + make_interval(secs => %(lease)s), repeats = b.repeats + 1
FROM due WHERE b.id = due.id
RETURNING b.id, b.provider, b.body, b.message_ids, extract(epoch FROM now() - b.started_at)::float"""

_LOCK: Final = f"SELECT id FROM {_MESSAGE} WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE"

_MEMBERS: Final = f"""
SELECT m.id, m.state, m.state = 'unknown' AND a.batch_id IS NOT DISTINCT FROM %(batch_id)s,
       m.crashes >= %(crashes)s, m.expires_at IS NOT NULL AND m.expires_at <= now(),
       ARRAY(SELECT d.id FROM {_DELIVERY} d WHERE d.message_id = m.id AND {OUTSTANDING} ORDER BY d.id)
FROM unnest(%(ids)s) WITH ORDINALITY AS member(id, place)
JOIN {_MESSAGE} m USING (id) LEFT JOIN {_ATTEMPT} a ON a.message_id = m.id AND a.token = m.token
ORDER BY member.place"""

# Also for what is known to be sent: it is in the request, too.
_INTEND: Final = f"""
WITH moved AS (
    UPDATE {_MESSAGE} m
    SET token = m.token + 1,
        lease_until = CASE m.state WHEN 'unknown' THEN now() + make_interval(secs => %(lease)s) END,
        state = CASE m.state WHEN 'unknown' THEN 'sending' ELSE m.state END
    WHERE m.id = ANY(%(ids)s)
    RETURNING m.id, m.token, m.provider
)
INSERT INTO {_ATTEMPT} (message_id, token, provider, outcome, error_class, batch_id)
SELECT id, token, provider, '', '', %(batch_id)s FROM moved
RETURNING message_id, token"""

_INQUIRE: Final = f"UPDATE {_MESSAGE} SET inquire_at = now() WHERE id = ANY(%s) AND state = 'unknown'"
