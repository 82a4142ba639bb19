r"""The outbox: every SQL that moves a `Message`.

    pending -> leased -> sending -> sent
                  \          \-> retry, unknown, dead
                   \-> retry, dead
    pending, retry -> expired

A worker *claims* (a lease, and a token one higher), commits its *intent* before the request leaves, and *settles* the
outcome. The token fences: a decision (retry, give up) counts only from its holder, a fact (accepted)
from anyone. Locks are taken on messages before deliveries, each in the order of their ids.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

import structlog
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.db import connection, transaction

from mailer import ledger
from mailer.doorbell import ring
from mailer.kinds import KINDS
from mailer.ledger import Fact, own_fact
from mailer.models import Attempt, DeliveryStatus, Message
from mailer.providers import PROVIDERS
from mailer.verdicts import Verdict

log = structlog.get_logger(__name__)
State = Message.State

# PostgreSQL's channel on which the relay hears of new messages.
CHANNEL: Final = "mailer"
# Leases of one message that may run out before it is taken to be what kills the workers.
MAX_CRASHES: Final = 3
# Rows that one round of the sweep moves.
SWEEP_LIMIT: Final = 500

TERMINAL: Final = (State.SENT, State.DEAD, State.EXPIRED, State.CANCELLED)

# What the recipients' deliveries are told of a state that a message ends up in, or goes back to.
EVENT_OF_STATE: Final[Mapping[str, str]] = {
    State.RETRY: "retried",
    State.UNKNOWN: "ambiguous",
    State.DEAD: "failed",
    State.EXPIRED: "expired",
}

# What the log says of it.
LOG_EVENT: Final[Mapping[str, str]] = {
    State.SENT: "message_sent",
    State.RETRY: "message_retried",
    State.UNKNOWN: "message_left_in_doubt",
    State.DEAD: "message_given_up",
    State.EXPIRED: "message_expired",
}


@dataclass(frozen=True, slots=True)
class Recipient:
    """One delivery of a claimed message."""

    delivery_id: UUID
    address: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message as a worker holds it.

    Since the first attempt, `age` seconds have passed, by the database's clock: 0 where there was none; since the first
    one that may have been accepted, `doubted_for`.
    """

    message: Message
    age: float
    doubted_for: float | None
    recipients: tuple[Recipient, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a claim: the state that follows, and the facts for its deliveries.

    `delay` is in seconds, for `retry`. `verdict` is None where no request was made.
    """

    message_id: UUID
    token: int
    state: str
    verdict: Verdict | None = None
    charged: bool = False
    delay: float = 0.0
    http_status: int | None = None
    error_class: str = ""
    facts: tuple[Fact, ...] = field(default=())


def enqueue(  # noqa: PLR0913  # all that a message is, by name
    kind: str,
    *recipients: str,
    dedupe_key: str,
    user: AbstractBaseUser | None = None,
    context: Mapping[str, Any] | None = None,
    content: Mapping[str, Any] | None = None,
    locale: str = "en",
    priority: int | None = None,
    flow: str = "",
    run_at: datetime | None = None,
    expires_at: datetime | None = None,
) -> Message | None:
    """Write a message into the caller's transaction and ring for a worker once it is committed.

    Returns None, and changes nothing, where the dedupe key is taken. Each recipient, a bare address, gets a delivery.
    What it says is rendered from the kind's templates with `context`, or is `content` (`mailer.content`). Priority and
    flow default to the kind's and its name, `expires_at` to the kind's lifetime from `run_at` or now. Raises
    `KeyError` for an unknown kind, `ValueError` without a recipient.
    """
    if not recipients:
        raise ValueError("a message needs a recipient")
    rules = KINDS[kind]
    message = Message(
        kind=kind,
        dedupe_key=dedupe_key,
        user_id=user.pk if user else None,
        correlation_id=_correlation_id(),
        locale=locale,
        priority=rules.priority if priority is None else priority,
        flow=flow or kind,
        secret=rules.secret,
        context=dict(context or {}),
        content=content and dict(content),
    )
    with transaction.atomic():
        if not _insert(message, run_at, expires_at, rules.lifetime.total_seconds() if rules.lifetime else None):
            return None
        for recipient in recipients:
            ledger.open_delivery(message, recipient, event_type="scheduled" if run_at else "queued")

        def announce() -> None:
            ids = {"message_id": str(message.pk), "correlation_id": message.correlation_id}
            log.info("message_enqueued", kind=kind, **ids)
            ring()

        # Robust, so that no failure here fails a request whose work is done; named, since Django logs the name.
        transaction.on_commit(announce, robust=True)
    return message


def _correlation_id() -> str:
    context = structlog.contextvars.get_contextvars()
    return str(context.get("correlation_id") or context.get("request_id") or uuid4())[:64]


def _insert(message: Message, run_at: datetime | None, expires_at: datetime | None, lifetime: float | None) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            _INSERT,
            [
                *(message.pk, message.kind, message.dedupe_key, message.user_id, message.correlation_id),
                *(message.locale, message.priority, message.flow, message.secret, json.dumps(message.context)),
                None if message.content is None else json.dumps(message.content),
                *(run_at, expires_at, lifetime, CHANNEL),
            ],
        )
        return cursor.fetchone() is not None


def claim(owner: str, limit: int) -> list[Claimed]:
    """Lease up to `limit` due messages, most urgent first, to `owner`.

    Safe with any number of claimants: SKIP LOCKED inside a materialized CTE locks no more rows than it returns,
    and each row goes to one of them.
    """
    messages = list(Message.objects.raw(_CLAIM, [limit, owner, settings.MAIL_LEASE_SECONDS]))
    recipients: dict[UUID, list[Recipient]] = {message.pk: [] for message in messages}
    # One whose address was erased meanwhile gets nothing.
    rows = DeliveryStatus.objects.filter(message_id__in=recipients).exclude(recipient="").order_by("id")
    for message_id, delivery_id, address in rows.values_list("message_id", "id", "recipient"):
        recipients[message_id].append(Recipient(delivery_id, address))
    messages.sort(key=lambda message: (message.priority, message.run_at, message.pk))
    return [
        Claimed(m, float(m.age or 0), _seconds(m.doubted_for), tuple(recipients[m.pk]))  # type: ignore[attr-defined]  # _CLAIM adds both
        for m in messages
    ]


def _seconds(value: Any) -> float | None:
    return None if value is None else float(value)


@transaction.atomic
def intend(claims: Sequence[Claimed]) -> list[Claimed]:
    """Commit the intent to send: provider pinned, content frozen, an attempt written. Return those that may go.

    A claim whose token is no longer the message's, since its lease ran out meanwhile, is left out. Nothing may be
    requested of a provider before this has returned.
    """
    rows = [
        {
            "id": str(c.message.pk),
            "token": c.message.token,
            "provider": c.message.provider,
            "content": c.message.content,
        }
        for c in claims
    ]
    with connection.cursor() as cursor:
        cursor.execute(_INTEND, {"intents": json.dumps(rows), "lease": settings.MAIL_LEASE_SECONDS})
        granted = {row[0] for row in cursor.fetchall()}
    going = [c for c in claims if c.message.pk in granted]
    ledger.record(
        [
            own_fact("sending", recipient.delivery_id, c.message.token, provider=c.message.provider)
            for c in going
            for recipient in c.recipients
        ]
    )
    return going


@transaction.atomic
def settle(outcomes: Sequence[Outcome]) -> None:
    """Write what became of some claims, and tell their deliveries.

    That a provider accepted a message is a fact, and counts whoever holds the message by now. What to do next is a
    decision, and counts only with the present token, so that a late worker undoes nothing.
    """
    rows = [
        {
            "id": str(o.message_id),
            "token": o.token,
            "state": o.state,
            "verdict": o.verdict or "",
            "charged": o.charged,
            "delay": o.delay,
            "http_status": o.http_status,
            "error_class": o.error_class,
        }
        for o in outcomes
    ]
    with connection.cursor() as cursor:
        cursor.execute(_SETTLE, {"outcomes": json.dumps(rows), "terminal": list(TERMINAL)})
        counted = {row[0] for row in cursor.fetchall()}
    facts = [fact for o in outcomes if o.message_id in counted or o.state == State.SENT for fact in o.facts]
    ledger.record(facts)
    ledger.match_parked_of((fact.provider, fact.esp_message_id) for fact in facts)


def confirm(message_ids: Iterable[UUID]) -> int:
    """Take messages for sent that a provider has reported on; return how many were in doubt.

    The report proves the acceptance, whatever our own record of the request says.
    """
    identifiers = sorted({*message_ids})
    if not identifiers:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(_CONFIRM, [identifiers])
        return int(cursor.rowcount)


def sweep() -> dict[str, int]:
    """Find what a lost hint, a dead worker or a passed deadline left behind; return what was moved, by state.

    Safe to run from anywhere at any time: each round locks the rows it moves and skips those another one has.
    """
    moved: dict[str, int] = {}
    for statement, parameters in (
        (_LAPSED, {"lifetimes": json.dumps(_key_lifetimes()), "crashes": MAX_CRASHES, "limit": SWEEP_LIMIT}),
        (_EXPIRED, {"limit": SWEEP_LIMIT}),
    ):
        while rows := _sweep_round(statement, parameters):
            for message_id, _, state, correlation_id in rows:
                moved[state] = moved.get(state, 0) + 1
                log.warning(LOG_EVENT[state], message_id=str(message_id), correlation_id=correlation_id, by="sweep")
    if matched := len(ledger.match_parked()):
        moved["matched"] = matched
    if moved:
        log.info("outbox_swept", **moved)
    return moved


@transaction.atomic
def _sweep_round(statement: str, parameters: Mapping[str, Any]) -> list[tuple[UUID, int, str, str]]:
    """Move some messages and tell their deliveries; return id, token, new state and correlation id of each."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: list[tuple[UUID, int, str, str]] = cursor.fetchall()
    deliveries: dict[UUID, list[UUID]] = {}
    for message_id, delivery_id in DeliveryStatus.objects.filter(message_id__in=[row[0] for row in rows]).values_list(
        "message_id", "id"
    ):
        deliveries.setdefault(message_id, []).append(delivery_id)
    ledger.record(
        [
            own_fact(EVENT_OF_STATE[state], delivery, f"sweep {token}")
            for message_id, token, state, _ in rows
            for delivery in deliveries.get(message_id, ())
        ]
    )
    return rows


def oldest_due() -> float | None:
    """Return for how many seconds the oldest due message has waited, or None where none is due."""
    with connection.cursor() as cursor:
        cursor.execute(_OLDEST_DUE)
        row = cursor.fetchone()
    return None if row is None or row[0] is None else float(row[0])


def _key_lifetimes() -> dict[str, float]:
    return {provider.name: provider.key.lifetime.total_seconds() for provider in PROVIDERS.values() if provider.key}


_MESSAGE: Final = Message._meta.db_table
_ATTEMPT: Final = Attempt._meta.db_table

# The dedupe key decides between two that enqueue the same at once: the later one waits and then finds it taken.
_INSERT: Final = f"""
WITH written AS (
    INSERT INTO {_MESSAGE} (id, kind, dedupe_key, user_id, correlation_id, locale, priority, flow, secret,
                            context, content, run_at, expires_at,
                            state, token, lease_owner, attempts, crashes, provider, error_class)
    SELECT v.id, v.kind, v.dedupe_key, v.user_id, v.correlation_id, v.locale, v.priority, v.flow, v.secret,
           v.context, v.content, coalesce(v.run_at, now()),
           coalesce(v.expires_at, coalesce(v.run_at, now()) + make_interval(secs => v.lifetime)),
           'pending', 0, '', 0, 0, '', ''
    FROM (VALUES (%s::uuid, %s, %s, %s::bigint, %s, %s, %s::smallint, %s, %s::bool, %s::jsonb,
                  %s::jsonb, %s::timestamptz, %s::timestamptz, %s::float))
         AS v(id, kind, dedupe_key, user_id, correlation_id, locale, priority, flow, secret, context,
              content, run_at, expires_at, lifetime)
    ON CONFLICT (dedupe_key) DO NOTHING
    RETURNING id
)
SELECT id, pg_notify(%s, '') FROM written"""

_CLAIM: Final = f"""
WITH due AS MATERIALIZED (
    SELECT id FROM {_MESSAGE}
    WHERE state IN ('pending', 'retry') AND run_at <= now() AND (expires_at IS NULL OR expires_at > now())
    ORDER BY priority, run_at, id
    LIMIT %s
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {_MESSAGE} m
SET state = 'leased', token = m.token + 1, lease_owner = %s, lease_until = now() + make_interval(secs => %s)
FROM due WHERE m.id = due.id
RETURNING m.*,
          extract(epoch FROM now() - (SELECT min(a.started_at) FROM {_ATTEMPT} a WHERE a.message_id = m.id)) AS age,
          extract(epoch FROM now() - m.first_ambiguous_at) AS doubted_for"""

_INTEND: Final = f"""
WITH intent AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(intents)s::jsonb) AS i(id uuid, token int, provider text, content jsonb)
),
locked AS MATERIALIZED (
    SELECT id FROM {_MESSAGE} WHERE id IN (SELECT id FROM intent) ORDER BY id FOR NO KEY UPDATE
),
moved AS (
    UPDATE {_MESSAGE} m
    SET state = 'sending', provider = intent.provider, content = intent.content,
        lease_until = now() + make_interval(secs => %(lease)s)
    FROM intent JOIN locked USING (id)
    WHERE m.id = intent.id AND m.state = 'leased' AND m.token = intent.token
    RETURNING m.id, m.token, m.provider
)
INSERT INTO {_ATTEMPT} (message_id, token, provider, outcome, error_class)
SELECT id, token, provider, '', '' FROM moved
RETURNING message_id"""

_SETTLE: Final = f"""
WITH outcome AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(outcomes)s::jsonb) AS o(
        id uuid, token int, state text, verdict text, charged bool, delay float, http_status int, error_class text)
),
locked AS MATERIALIZED (
    SELECT id FROM {_MESSAGE} WHERE id IN (SELECT id FROM outcome) ORDER BY id FOR NO KEY UPDATE
),
attempted AS (
    UPDATE {_ATTEMPT} a
    SET finished_at = statement_timestamp(), outcome = o.verdict, http_status = o.http_status,
        error_class = o.error_class
    FROM outcome o WHERE a.message_id = o.id AND a.token = o.token
    RETURNING a.message_id, a.started_at
)
UPDATE {_MESSAGE} m
SET state = o.state, error_class = o.error_class, attempts = m.attempts + o.charged::int,
    run_at = CASE o.state WHEN 'retry' THEN now() + make_interval(secs => o.delay) ELSE m.run_at END,
    lease_owner = '', lease_until = NULL,
    first_ambiguous_at = CASE o.verdict
        WHEN 'ambiguous' THEN coalesce(m.first_ambiguous_at, attempted.started_at) ELSE m.first_ambiguous_at END,
    finished_at = CASE WHEN o.state = ANY(%(terminal)s) THEN now() END,
    content = CASE WHEN m.secret AND o.state = ANY(%(terminal)s) THEN NULL ELSE m.content END
FROM outcome o JOIN locked USING (id) LEFT JOIN attempted ON attempted.message_id = o.id
WHERE m.id = o.id AND (
    (o.state = 'sent' AND m.state <> 'sent') OR (m.token = o.token AND m.state IN ('leased', 'sending')))
RETURNING m.id"""

_CONFIRM: Final = f"""
WITH doubted AS MATERIALIZED (
    SELECT id FROM {_MESSAGE}
    WHERE id = ANY(%s) AND token > 0 AND state NOT IN ('sent', 'cancelled')
    ORDER BY id FOR NO KEY UPDATE
)
UPDATE {_MESSAGE} m
SET state = 'sent', finished_at = now(), lease_owner = '', lease_until = NULL,
    content = CASE WHEN m.secret THEN NULL ELSE m.content END
FROM doubted WHERE m.id = doubted.id AND m.state NOT IN ('sent', 'cancelled')"""

# A lease that ran out before the intent: nothing left, so it goes back. After it: the request may have been
# accepted, so it goes back only while the provider's idempotency key makes a repeat harmless.
_LAPSED: Final = f"""
WITH lapsed AS MATERIALIZED (
    SELECT m.id, m.state AS was, m.crashes + 1 >= %(crashes)s AS deadly,
           coalesce(m.first_ambiguous_at, CASE m.state WHEN 'sending' THEN a.started_at END) AS doubted_since,
           make_interval(secs => (%(lifetimes)s::jsonb ->> m.provider)::float) AS key_lifetime
    FROM {_MESSAGE} m LEFT JOIN {_ATTEMPT} a ON a.message_id = m.id AND a.token = m.token
    WHERE m.state IN ('leased', 'sending') AND m.lease_until < now()
    ORDER BY m.id LIMIT %(limit)s
    FOR NO KEY UPDATE OF m SKIP LOCKED
),
attempted AS (
    UPDATE {_ATTEMPT} a SET finished_at = now(), outcome = 'ambiguous', error_class = 'lease_ran_out'
    FROM lapsed JOIN {_MESSAGE} m USING (id)
    WHERE lapsed.was = 'sending' AND a.message_id = lapsed.id AND a.token = m.token
)
UPDATE {_MESSAGE} m
SET state = CASE
        WHEN doubted_since IS NULL THEN CASE WHEN deadly THEN 'dead' ELSE 'retry' END
        WHEN NOT deadly AND doubted_since + key_lifetime > now() THEN 'retry'
        ELSE 'unknown' END,
    crashes = m.crashes + 1, first_ambiguous_at = doubted_since, run_at = now(),
    lease_owner = '', lease_until = NULL, error_class = 'lease_ran_out',
    finished_at = CASE WHEN doubted_since IS NULL AND deadly THEN now() END,
    content = CASE WHEN m.secret AND doubted_since IS NULL AND deadly THEN NULL ELSE m.content END
FROM lapsed WHERE m.id = lapsed.id
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
    finished_at = CASE WHEN m.first_ambiguous_at IS NULL THEN now() END,
    content = CASE WHEN m.secret THEN NULL ELSE m.content END, error_class = 'expired'
FROM late WHERE m.id = late.id
RETURNING m.id, m.token, m.state, m.correlation_id"""

_OLDEST_DUE: Final = f"""
SELECT extract(epoch FROM now() - min(run_at)) FROM {_MESSAGE}
WHERE state IN ('pending', 'retry') AND run_at <= now() AND (expires_at IS NULL OR expires_at > now())"""
