"""The sweep: what a lost hint, a dead worker or a passed deadline left behind.

It runs from beat, at the start of every worker and in the relay. Any one alive suffices, any number is safe: each round
locks the rows that it moves and passes over those another one has.
"""

import json
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.utils.module_loading import import_string

from mailer import ledger, parked
from mailer.exceptions import DATABASE_LOST
from mailer.ledger import own_fact
from mailer.models import Attempt, Batch, DeliveryStatus, Message
from mailer.outbox import EVENT_OF_STATE
from mailer.providers import PROVIDERS

log = structlog.get_logger(__name__)
State = Message.State

# Leases of one message that may run out before it is taken to be what kills the workers.
MAX_CRASHES: Final = 3
# The same, where no request had left: only what is dead is lost then, so a few restarts in a row are not enough.
MAX_CRASHES_UNSENT: Final = 10
# Rows that one round moves.
LIMIT: Final = 500
# What the log says of a state that a message ends up in.
LOG_EVENT: Final[Mapping[str, str]] = {
    State.SENT: "message_sent",
    State.RETRY: "message_retried",
    State.UNKNOWN: "message_left_in_doubt",
    State.DEAD: "message_given_up",
    State.EXPIRED: "message_expired",
    State.SUPPRESSED: "message_suppressed",
    State.CANCELLED: "message_cancelled",
}
# What else the sweep looks after, by the word for what it moved: functions, by name, that return how many. An app above
# adds its own in `AppConfig.ready`; what it needs is loaded by the processes that sweep alone.
CHORES: Final[dict[str, str]] = {}


def sweep() -> dict[str, int]:
    """Move what was left behind; return how many messages are in each state by that, and how many events matched."""
    moved: dict[str, int] = {}
    for statement, parameters in (
        (
            _LAPSED,
            {
                "lifetimes": json.dumps(_key_lifetimes()),
                "crashes": MAX_CRASHES,
                "idle": MAX_CRASHES_UNSENT,
                "grace": settings.MAIL_GRACE_SECONDS,
                "limit": LIMIT,
            },
        ),
        (_EXPIRED, {"limit": LIMIT}),
    ):
        while rows := _round(statement, parameters):
            for message_id, _, state, correlation_id in rows:
                moved[state] = moved.get(state, 0) + 1
                log.warning(LOG_EVENT[state], message_id=str(message_id), correlation_id=correlation_id, by="sweep")
    if matched := len(parked.match()):
        moved["matched"] = matched
    for name, chore in CHORES.items():
        try:
            if done := import_string(chore)():
                moved[name] = done
        except DATABASE_LOST:
            raise
        except Exception:
            # One that nobody foresaw must not keep the others, and all mail, waiting. It comes up again.
            log.exception("chore_failed", chore=name)
    if moved:
        log.info("outbox_swept", **moved)
    return moved


@transaction.atomic
def _round(statement: str, parameters: Mapping[str, Any]) -> list[tuple[UUID, int, str, str]]:
    """Move some messages and tell their deliveries; return id, token, new state and correlation id of each."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: list[tuple[UUID, int, str, str]] = cursor.fetchall()
    deliveries: dict[UUID, list[UUID]] = {}
    # Where some recipients were accepted and others deferred, it is about these.
    outstanding = DeliveryStatus.objects.filter(message_id__in=[row[0] for row in rows], sent_at=None)
    for message_id, delivery_id in outstanding.values_list("message_id", "id"):
        deliveries.setdefault(message_id, []).append(delivery_id)
    ledger.record(
        [
            own_fact(EVENT_OF_STATE[state], delivery, f"sweep {token}")
            for message_id, token, state, _ in rows
            for delivery in deliveries.get(message_id, ())
        ]
    )
    return rows


def _key_lifetimes() -> dict[str, float]:
    return {provider.name: provider.key.lifetime.total_seconds() for provider in PROVIDERS.values() if provider.key}


_MESSAGE: Final = Message._meta.db_table
_ATTEMPT: Final = Attempt._meta.db_table
_BATCH: Final = Batch._meta.db_table

# A lease that ran out before the intent: nothing left, so it goes back. After it: the request may have been
# accepted, so it goes back only while the provider's idempotency key makes a repeat harmless; else evidence is sought,
# unless it went in a batch that is kept to be repeated as it was (`mailer.batches`).
_LAPSED: Final = f"""
WITH lapsed AS MATERIALIZED (
    SELECT m.id, m.state AS was,
           m.crashes + 1 >= CASE m.state WHEN 'sending' THEN %(crashes)s ELSE %(idle)s END AS deadly,
           coalesce(m.first_ambiguous_at, CASE m.state WHEN 'sending' THEN a.started_at END) AS doubted_since,
           make_interval(secs => (%(lifetimes)s::jsonb ->> m.provider)::float) AS key_lifetime, a.batch_id
    FROM {_MESSAGE} m LEFT JOIN {_ATTEMPT} a ON a.message_id = m.id AND a.token = m.token
    WHERE m.state IN ('leased', 'sending') AND m.lease_until < now()
    ORDER BY m.id LIMIT %(limit)s
    FOR NO KEY UPDATE OF m SKIP LOCKED
),
attempted AS (
    UPDATE {_ATTEMPT} a SET finished_at = now(), outcome = 'ambiguous', error_class = 'lease_ran_out'
    FROM lapsed JOIN {_MESSAGE} m USING (id)
    WHERE lapsed.was = 'sending' AND a.message_id = lapsed.id AND a.token = m.token
),
judged AS (
    SELECT lapsed.*, CASE
        WHEN doubted_since IS NULL THEN CASE WHEN deadly THEN 'dead' ELSE 'retry' END
        WHEN NOT deadly AND (was = 'leased' OR batch_id IS NULL AND doubted_since + key_lifetime > now())
        THEN 'retry'
        ELSE 'unknown' END AS state
    FROM lapsed
)
UPDATE {_MESSAGE} m
SET state = judged.state, crashes = m.crashes + 1, first_ambiguous_at = doubted_since, run_at = now(),
    lease_owner = '', lease_until = NULL, error_class = 'lease_ran_out',
    inquire_at = CASE
        WHEN judged.state = 'unknown' AND NOT EXISTS (SELECT FROM {_BATCH} b WHERE b.id = judged.batch_id)
        THEN now() + make_interval(secs => %(grace)s) END,
    finished_at = CASE judged.state WHEN 'dead' THEN now() END,
    content = CASE WHEN m.secret AND judged.state = 'dead' THEN NULL ELSE m.content END
FROM judged WHERE m.id = judged.id
RETURNING m.id, m.token, m.state, m.correlation_id"""

# What waits past its deadline is never sent; what may have been accepted before stays in doubt.
_EXPIRED: Final = f"""
WITH late AS MATERIALIZED (
    SELECT id FROM {_MESSAGE}
    WHERE state IN ('pending', 'retry') AND expires_at <= now()
    ORDER BY id LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {_MESSAGE} m
SET state = CASE WHEN m.first_ambiguous_at IS NULL THEN 'expired' ELSE 'unknown' END,
    inquire_at = CASE WHEN m.first_ambiguous_at IS NOT NULL THEN now() END,
    finished_at = CASE WHEN m.first_ambiguous_at IS NULL THEN now() END,
    content = CASE WHEN m.secret THEN NULL ELSE m.content END, error_class = 'expired'
FROM late WHERE m.id = late.id
RETURNING m.id, m.token, m.state, m.correlation_id"""
