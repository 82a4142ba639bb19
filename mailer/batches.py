"""Batches for which one idempotency key holds: kept as they were sent, and repeated so until they are answered.

Such a batch can be repeated only as a whole, byte for byte, so its body is kept with the intent. Where its worker dies
or no answer comes, its messages stay in doubt, and the batch is due: whoever finds it commits another intent for each
of them, repeats the request, and settles them by the answer, which is that to the first request if it was taken.

It is repeated while that can be no second mail: while the key holds, and each message is as the batch has left it, or
known to be sent. Else it is let go, and `mailer.doubts` looks into each of them.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

import structlog
from anymail.message import AnymailRecipientStatus
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction

from mailer import couriers, letters, providers, routing
from mailer.couriers import UNANSWERED, Response
from mailer.decisions import conclude
from mailer.exceptions import DATABASE_LOST
from mailer.ledger import MAX_IDENTIFIER, text_of
from mailer.letters import BATCH_REFUSED, UNREADABLE_ANSWER
from mailer.models import Attempt, Batch, DeliveryStatus, Message
from mailer.outbox import OUTSTANDING, Claimed, Outcome, Recipient
from mailer.providers import Provider
from mailer.providers.base import get
from mailer.settling import report, settle
from mailer.sweeping import MAX_CRASHES
from mailer.verdicts import Answer, Verdict, of_error

log = structlog.get_logger(__name__)
State = Message.State

# Batches that one round repeats.
LIMIT: Final = 5
# A batch is repeated after uniform(0, min(LONGEST, FIRST * 2**n)) seconds, n times having been in vain.
FIRST: Final = 2.0
LONGEST: Final = 15 * 60.0
# Times that a batch is repeated for an answer that can be read, where it is known to be taken.
PATIENCE: Final = 5


@dataclass(frozen=True, slots=True)
class Kept:
    """A batch that is due."""

    id: UUID
    provider: str
    body: str
    message_ids: list[UUID]


@dataclass(frozen=True, slots=True)
class Member:
    """A message of a batch, with the recipients that are still to be told of.

    It `is_in` where its last attempt was in this batch, and `is_whole` while none of its recipients was erased.
    """

    claim: Claimed
    state: str
    is_in: bool
    is_whole: bool
    is_deadly: bool
    is_late: bool

    @property
    def is_doubted(self) -> bool:
        """Whether the batch has left it in doubt, and nobody has decided about it since."""
        return self.is_in and self.state == State.UNKNOWN

    @property
    def is_repeatable(self) -> bool:
        """Whether a repeat of the batch is no second mail to anybody, and to nobody who is not to get one."""
        return self.is_in and (self.state == State.SENT or (self.state == State.UNKNOWN and self.is_whole))


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


def resolve(end: float = float("inf"), limit: int = LIMIT) -> int:
    """Repeat batches that are due; return how many were looked into. Any number of processes may: each has its own.

    A provider that does not answer is asked once a round. After `end`, by the steady clock, none but the first is
    repeated.
    """
    silent: set[str] = set()
    for count in range(limit):
        batch = None if count and time.monotonic() >= end else _take(silent)
        if batch is None:
            return count
        try:
            _resolve(batch, silent)
        except DATABASE_LOST:
            raise
        except Exception:
            # One that nobody foresaw must not keep the others, and all mail, waiting. It comes up again.
            log.exception("batch_failed", batch_id=str(batch.id), provider=batch.provider)
    return limit


def _take(silent: Collection[str]) -> Kept | None:
    """Take the batch that is due for longest, for the time of a lease."""
    with connection.cursor() as cursor:
        cursor.execute(_TAKE, {"silent": [*silent], "lease": settings.MAIL_LEASE_SECONDS})
        row = cursor.fetchone()
    return Kept(*row) if row else None


def _resolve(batch: Kept, silent: set[str]) -> None:
    with transaction.atomic():
        members = _locked(batch)
        age = _age(batch)
        if age is None or any(member.state in {State.LEASED, State.SENDING} for member in members):
            return  # another one has let it go; or its worker may live, else the sweep will find that
        doubted = [member for member in members if member.is_doubted]
        if not doubted or not _is_repeatable(batch, age, members):
            _let_go(batch, doubted)
            return
        if routing.is_blocked(batch.provider):
            answered([batch.id])
            return
        repeats = _intend(batch, members)
    provider = providers.get(batch.provider)
    answers = _ask(batch, provider, repeats)
    settle(
        [(member.claim, _outcome(member, provider, answer)) for member, answer in zip(members, answers, strict=True)]
    )
    report(provider.name, [answers], is_troubled=True)
    if answers[0].http_status is None:
        silent.add(provider.name)
    if answers[0].error_class == BATCH_REFUSED:
        with transaction.atomic():
            _let_go(batch, doubted)
    else:
        answered([batch.id])
    verdicts = sorted({answer.verdict for answer in answers})
    log.warning("batch_repeated", batch_id=str(batch.id), provider=batch.provider, verdicts=verdicts)


def _locked(batch: Kept) -> list[Member]:
    """Lock a batch's messages, and return those that there still are, in its order."""
    with connection.cursor() as cursor:
        cursor.execute(_LOCK, [batch.message_ids])
        cursor.execute(_MEMBERS, {"ids": batch.message_ids, "batch_id": batch.id, "crashes": MAX_CRASHES})
        rows = cursor.fetchall()
    return [
        Member(
            Claimed(
                Message(pk=message_id, kind=kind, correlation_id=correlation_id, provider=batch.provider),
                age=0.0,
                doubted_for=None,  # an answer is one to the first request, and leaves none
                recipients=tuple(Recipient(UUID(delivery), *addresses) for delivery, *addresses in recipients),
            ),
            *rest,
        )
        for message_id, kind, correlation_id, recipients, *rest in rows
    ]


def _age(batch: Kept) -> float | None:
    """Lock a batch, after its messages; return the seconds since it was first sent, or None where it is gone."""
    with connection.cursor() as cursor:
        cursor.execute(_AGE, [batch.id])
        row = cursor.fetchone()
    return None if row is None else float(row[0])


def _is_repeatable(batch: Kept, age: float, members: Sequence[Member]) -> bool:
    doubted = [member for member in members if member.is_doubted]
    provider = providers.PROVIDERS.get(batch.provider)
    return (
        provider is not None
        and provider.key is not None
        and age < provider.key.lifetime.total_seconds()
        and len(members) == len(batch.message_ids)
        and all(member.is_repeatable for member in members)
        and not any(member.is_deadly for member in doubted)
        and not all(member.is_late for member in doubted)
    )


def _let_go(batch: Kept, doubted: Sequence[Member]) -> None:
    """Forget a batch, and have what it leaves in doubt looked into."""
    with connection.cursor() as cursor:
        cursor.execute(_INQUIRE, [[member.claim.message.pk for member in doubted]])
        cursor.execute(_LET_GO, [batch.id])
    if doubted:
        log.warning("batch_let_go", batch_id=str(batch.id), provider=batch.provider, messages=len(doubted))


def _intend(batch: Kept, members: Sequence[Member]) -> int:
    """Write the intent to repeat a batch, and give its messages the tokens of that; return how many there were."""
    with connection.cursor() as cursor:
        cursor.execute(_INTEND, {"ids": batch.message_ids, "batch_id": batch.id, "lease": settings.MAIL_LEASE_SECONDS})
        tokens = dict(cursor.fetchall())
        cursor.execute(_COUNT, [batch.id])
        [repeats] = cursor.fetchone()
    for member in members:
        member.claim.message.token = tokens[member.claim.message.pk]
    return int(repeats)


def _ask(batch: Kept, provider: Provider, repeats: int) -> list[Answer]:
    """Repeat a batch; return what the answer says of each of its messages."""
    count = len(batch.message_ids)
    try:
        response = couriers.of_this_process().ask(letters.request_under(str(batch.id), provider, batch.body))
    except (*UNANSWERED, ImproperlyConfigured) as error:
        verdict = of_error(error) if isinstance(error, UNANSWERED) else Verdict.NOT_SENT
        return [Answer(verdict, error_class=type(error).__name__)] * count
    body = letters.decoded(response)
    if parts := letters.parts_of(provider, body, count):
        return [_read(provider, *part) for part in parts]
    return [_of_whole(provider, response, body, repeats)] * count


def _of_whole(provider: Provider, response: Response, body: Any, repeats: int) -> Answer:
    """Return what an answer to one of so many repeats that says nothing of each message says of all of them.

    A refusal of the repeat says nothing of the first request. What is taken again and again, and never said of whom, is
    taken.
    """
    verdict, error_class = provider.verdict(response.status, body), f"http_{response.status}"
    if verdict is Verdict.PERMANENT:
        verdict, error_class = Verdict.AMBIGUOUS, BATCH_REFUSED
    elif verdict is Verdict.ACCEPTED:
        error_class = UNREADABLE_ANSWER
        verdict = Verdict.AMBIGUOUS if repeats < PATIENCE else Verdict.ACCEPTED
    return Answer(verdict, response.status, error_class, letters.retry_after(response))


def _read(provider: Provider, status: int, said: Any) -> Answer:
    """Read one message's part of an answer without its letter, whose content may be gone."""
    verdict = provider.verdict(status, said)
    found = get(said, provider.batch.identifier) if provider.batch else None
    identifier = text_of(found, MAX_IDENTIFIER) if isinstance(found, str) else ""
    error_class = "" if verdict is Verdict.ACCEPTED else f"http_{status}"
    return Answer(verdict, status, error_class, recipients={"": AnymailRecipientStatus(identifier, "queued")})


def _outcome(member: Member, provider: Provider, answer: Answer) -> Outcome:
    """Decide what follows. What is neither taken nor refused itself stays in doubt: of that nobody need be told."""
    claim = member.claim
    if answer.verdict in {Verdict.ACCEPTED, Verdict.PERMANENT}:
        said = next(iter(answer.recipients.values()), None)
        return conclude(
            claim,
            provider,
            replace(answer, recipients={each.address: said for each in claim.recipients} if said else {}),
        )
    return Outcome(
        message_id=claim.message.pk,
        token=claim.message.token,
        state=State.UNKNOWN,
        verdict=answer.verdict,
        http_status=answer.http_status,
        error_class=answer.error_class,
    )


_BATCH: Final = Batch._meta.db_table
_MESSAGE: Final = Message._meta.db_table
_ATTEMPT: Final = Attempt._meta.db_table
_DELIVERY: Final = DeliveryStatus._meta.db_table

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
    WHERE repeat_at <= now() AND provider <> ALL(%(silent)s)
    ORDER BY repeat_at LIMIT 1
    FOR NO KEY UPDATE OF b SKIP LOCKED
)
UPDATE {_BATCH} b SET repeat_at = now() + make_interval(secs => %(lease)s)
FROM due WHERE b.id = due.id
RETURNING b.id, b.provider, b.body, b.message_ids"""

_COUNT: Final = f"UPDATE {_BATCH} SET repeats = repeats + 1 WHERE id = %s RETURNING repeats"

_AGE: Final = f"SELECT extract(epoch FROM statement_timestamp() - started_at) FROM {_BATCH} WHERE id = %s FOR UPDATE"

_LOCK: Final = f"SELECT id FROM {_MESSAGE} WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE"

_MEMBERS: Final = f"""
SELECT m.id, m.kind, m.correlation_id,
       ARRAY(SELECT ARRAY[d.id::text, d.recipient, d.recipient_canonical] FROM {_DELIVERY} d
             WHERE d.message_id = m.id AND {OUTSTANDING} ORDER BY d.id),
       m.state, a.batch_id IS NOT DISTINCT FROM %(batch_id)s,
       NOT EXISTS (SELECT FROM {_DELIVERY} d WHERE d.message_id = m.id AND d.recipient = ''),
       m.crashes >= %(crashes)s, m.expires_at IS NOT NULL AND m.expires_at <= now()
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
