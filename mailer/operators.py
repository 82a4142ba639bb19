"""What people decide about messages: cancel one, or send again what was given up or is in doubt.

Each decision raises the message's token, as a claim does: a worker that wakes up late has no say any more, and two
decisions of one kind are two facts. Locks are taken on messages before deliveries, each in the order of their ids.
"""

import json
from collections.abc import Collection, Iterable
from typing import Final
from uuid import UUID

import structlog
from django.db import connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Now

from mailer import ledger, outbox
from mailer.doorbell import ring
from mailer.kinds import KINDS
from mailer.ledger import own_fact
from mailer.models import Attempt, Batch, DeliveryEvent, DeliveryStatus, Message
from mailer.status import ACCEPTED_RANK, NO_RANK

log = structlog.get_logger(__name__)
State = Message.State

# What waits to be sent, and what has ended without being sent or may not have been.
WAITING: Final = (State.PENDING, State.RETRY)
STOPPED: Final = (State.DEAD, State.UNKNOWN, State.EXPIRED, State.CANCELLED, State.SUPPRESSED)


def due() -> QuerySet[Message]:
    """Return the messages that may be sent now."""
    return Message.objects.filter(state__in=WAITING, run_at__lte=Now()).exclude(expires_at__lte=Now())


def pin(message_id: UUID, provider: str) -> None:
    """Send a message that was just enqueued, in the same transaction, through one provider only.

    As what alone can carry it, not as what it is pinned to: that lasts only while it may have been accepted.
    """
    with connection.cursor() as cursor:
        cursor.execute(_PIN, [json.dumps({"providers": [provider]}), message_id])


def cancel(message_id: UUID) -> bool:
    """Cancel a message that waits to be sent; tell whether it did. One that a worker has is on its way."""
    return bool(stop([message_id], WAITING))


@transaction.atomic
def stop(message_ids: Iterable[UUID], states: Collection[str]) -> list[UUID]:
    """Move messages in some states to `cancelled` and tell their deliveries; return which.

    What may have been accepted before is not sent again, but its deliveries stay in doubt: a webhook may still settle
    them. Safe with any number of workers and operators: a claim skips the rows that are locked here, and a row that
    somebody moved meanwhile is looked at again once its lock is granted, and left alone.
    """
    with connection.cursor() as cursor:
        cursor.execute(_STOP, [[*message_ids], [*states]])
        rows: list[tuple[UUID, int, bool, str]] = cursor.fetchall()
    tokens = {row[0]: row[1] for row in rows}
    doubted = {row[0] for row in rows if row[2]}
    ledger.record(
        [
            own_fact("ambiguous" if message in doubted else "cancelled", delivery, f"cancel {tokens[message]}")
            for message, delivery in _deliveries_of(tokens)
        ]
    )

    def announce() -> None:
        for message_id, _, in_doubt, correlation_id in rows:
            ids = {"message_id": str(message_id), "correlation_id": correlation_id}
            log.info("message_cancelled", in_doubt=in_doubt, **ids)

    transaction.on_commit(announce, robust=True)
    return [*tokens]


@transaction.atomic
def retry(message_ids: Iterable[UUID], states: Collection[str] = STOPPED) -> list[UUID]:
    """Let messages that have stopped go again, with all their attempts; return which. They go once this is committed.

    Left alone is what was sent or is on its way; what has passed a deadline that is not its kind's own, such as a
    link's; what no recipient is left of; and what is in doubt with a batch that will be repeated. A provider that may
    have accepted the message before is asked by the same key, and so tells a repeat from a second mail for as long as
    it keeps the key; after that the person may get two. Safe when two run at once: the rows are locked by one statement
    and judged by the next, which sees what the other one did to them.
    """
    ids = [*message_ids]
    lifetimes = {name: kind.lifetime.total_seconds() for name, kind in KINDS.items() if kind.lifetime}
    again = [state for state in states if state in STOPPED]
    with connection.cursor() as cursor:
        cursor.execute(_LOCK_MESSAGES, [ids])
        cursor.execute(_RETRY, {"ids": ids, "states": again, "lifetimes": json.dumps(lifetimes)})
        rows: list[tuple[UUID, int, str]] = cursor.fetchall()
        tokens = {row[0]: row[1] for row in rows}
        deliveries = _deliveries_of(tokens)
        _withdraw([delivery for _, delivery in deliveries])
        ledger.record([own_fact("retried", delivery, f"again {tokens[message]}") for message, delivery in deliveries])
        cursor.execute("SELECT pg_notify(%s, '')", [outbox.CHANNEL])

    def announce() -> None:
        for message_id, _, correlation_id in rows:
            log.info("message_retried", message_id=str(message_id), correlation_id=correlation_id, by="operator")
        ring()

    if rows:
        transaction.on_commit(announce, robust=True)
    return [*tokens]


def _deliveries_of(message_ids: Collection[UUID]) -> list[tuple[UUID, UUID]]:
    """Return the ids of messages and deliveries that still have a recipient, and were not sent to it."""
    found = DeliveryStatus.objects.filter(message_id__in=message_ids, sent_at=None).exclude(recipient="").order_by("id")
    return list(found.values_list("message_id", "id"))


def _withdraw(delivery_ids: list[UUID]) -> None:
    """Take back what our sender said of an end of deliveries, and fold what is left.

    A give-up that was overruled says nothing about the status any more; else `failed` would outrank the `sent` that
    follows. What providers reported stays. Safe beside `ledger.record`: the deliveries are locked first, in the
    same order, and the events keep their dedupe keys, so nothing that was withdrawn can come again.
    """
    with connection.cursor() as cursor:
        cursor.execute(_LOCK_DELIVERIES, [delivery_ids])
        cursor.execute(_WITHDRAW, [delivery_ids])
        cursor.execute(_FOLD_AGAIN, [delivery_ids])


_MESSAGE: Final = Message._meta.db_table
_DELIVERY: Final = DeliveryStatus._meta.db_table
_ATTEMPT: Final = Attempt._meta.db_table
_BATCH: Final = Batch._meta.db_table
_EVENT: Final = DeliveryEvent._meta.db_table

_PIN: Final = f"UPDATE {_MESSAGE} SET context = context || %s::jsonb WHERE id = %s AND state = 'pending'"

_LOCK_MESSAGES: Final = f"SELECT id FROM {_MESSAGE} WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE"

_STOP: Final = f"""
WITH chosen AS MATERIALIZED (
    SELECT id, state = 'unknown' OR first_ambiguous_at IS NOT NULL AS in_doubt
    FROM {_MESSAGE} WHERE id = ANY(%s) AND state = ANY(%s)
    ORDER BY id FOR NO KEY UPDATE
)
UPDATE {_MESSAGE} m
SET state = 'cancelled', token = m.token + 1, finished_at = now(), error_class = 'cancelled', inquire_at = NULL,
    content = CASE WHEN m.secret THEN NULL ELSE m.content END
FROM chosen WHERE m.id = chosen.id
RETURNING m.id, m.token, chosen.in_doubt, m.correlation_id"""

# The pin to a provider stays where that one may have accepted the message: only it knows the key. The doubt begins
# anew: that the message may be sent once more is what was decided.
_RETRY: Final = f"""
WITH chosen AS MATERIALIZED (
    SELECT m.id, state = 'unknown' OR first_ambiguous_at IS NOT NULL AS in_doubt,
           make_interval(secs => (%(lifetimes)s::jsonb ->> m.kind)::float) AS lifetime
    FROM {_MESSAGE} m
    WHERE m.id = ANY(%(ids)s) AND m.state = ANY(%(states)s)
      AND (m.expires_at IS NULL OR m.expires_at > now() OR %(lifetimes)s::jsonb ? m.kind)
      AND EXISTS (SELECT FROM {_DELIVERY} d WHERE d.message_id = m.id AND d.recipient <> '' AND d.sent_at IS NULL)
      AND NOT EXISTS (SELECT FROM {_ATTEMPT} a JOIN {_BATCH} b ON b.id = a.batch_id
                      WHERE a.message_id = m.id AND a.token = m.token AND m.state = 'unknown')
)
UPDATE {_MESSAGE} m
SET state = 'retry', token = m.token + 1, run_at = now(), finished_at = NULL, attempts = 0, crashes = 0,
    error_class = '', inquire_at = NULL, retried_at = now(),
    first_ambiguous_at = CASE WHEN chosen.in_doubt THEN now() END,
    provider = CASE WHEN chosen.in_doubt THEN m.provider ELSE '' END,
    expires_at = CASE WHEN m.expires_at <= now() THEN now() + chosen.lifetime ELSE m.expires_at END
FROM chosen WHERE m.id = chosen.id
RETURNING m.id, m.token, m.correlation_id"""

_LOCK_DELIVERIES: Final = f"SELECT id FROM {_DELIVERY} WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE"

_WITHDRAW: Final = f"""
UPDATE {_EVENT} SET status = '', rank = {NO_RANK}
WHERE delivery_id = ANY(%s) AND source = 'sender' AND rank > {ACCEPTED_RANK}"""

_FOLD_AGAIN: Final = f"""
UPDATE {_DELIVERY} d
SET status = winner.status, status_rank = winner.rank, status_at = winner.occurred_at, status_key = winner.dedupe_key,
    updated_at = now()
FROM (
    SELECT DISTINCT ON (delivery_id) * FROM {_EVENT} WHERE delivery_id = ANY(%s) AND rank > {NO_RANK}
    ORDER BY delivery_id, rank DESC, occurred_at DESC, dedupe_key COLLATE "C" DESC
) winner
WHERE d.id = winner.delivery_id AND d.status_key <> winner.dedupe_key"""
