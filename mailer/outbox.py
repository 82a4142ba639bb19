r"""The outbox: the way of a `Message` from its cause to the provider.

    pending -> leased -> sending -> sent
                  \          \-> retry, unknown, dead
                   \-> retry, dead, suppressed

A worker *claims* (a lease, and a token one higher), commits its *intent* before the request leaves, and *settles* the
outcome. The token fences: a decision (retry, give up) counts only from its holder, a fact (accepted)
from anyone. Locks are taken on messages before deliveries, each in the order of their ids. What a dead worker or a
passed deadline left behind, `mailer.sweeping` moves.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID, uuid4

import structlog
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.db import DEFAULT_DB_ALIAS, transaction

from mailer import ledger, statements, turns
from mailer.doorbell import ring
from mailer.kinds import KINDS
from mailer.ledger import Fact
from mailer.models import Attempt, DeliveryStatus, Message
from mailer.verdicts import Verdict

log = structlog.get_logger(__name__)
State = Message.State

# PostgreSQL's channel on which the relay hears of new messages.
CHANNEL: Final = "mailer"
# What the row of a message says that was never to be sent.
WITHHELD: Final = "withheld"
LAST_PRIORITY: Final = 32767
TERMINAL: Final = (State.SENT, State.DEAD, State.EXPIRED, State.CANCELLED, State.SUPPRESSED)

# What the recipients' deliveries are told of a state that a message ends up in, or goes back to.
EVENT_OF_STATE: Final[Mapping[str, str]] = {
    State.RETRY: "retried",
    State.UNKNOWN: "ambiguous",
    State.DEAD: "failed",
    State.EXPIRED: "expired",
    State.SUPPRESSED: "suppressed",
    State.CANCELLED: "cancelled",
    State.SENT: "sent",
}


class Lane(IntEnum):
    """Priorities that share slots: what is urgent never waits behind a bulk send. Its value is where it begins."""

    URGENT = 0
    BULK = 20

    @classmethod
    def of(cls, priority: int) -> "Lane":
        """Return the lane of a priority."""
        return cls.BULK if priority >= cls.BULK else cls.URGENT


@dataclass(frozen=True, slots=True)
class Recipient:
    """One delivery of a claimed message; `canonical` is its address as suppressions know it."""

    delivery_id: UUID
    address: str
    canonical: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message as a worker holds it.

    Its content `is_frozen` where it is in the row already. By the database's clock, `age` seconds have passed since the
    first attempt, 0 where there was none, and `doubted_for` since the first one that may have been accepted. It
    `is_disproved` where a search has found since that none was; it stays with its provider all the same.
    """

    message: Message
    age: float
    doubted_for: float | None
    recipients: tuple[Recipient, ...] = ()
    is_frozen: bool = False
    is_disproved: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a claim: the state that follows, and the facts for its deliveries.

    `delay` is in seconds, for `retry`; so is `inquire_in`, after which evidence is looked for, for `unknown`. `verdict`
    is None where no request was made.
    """

    message_id: UUID
    token: int
    state: str
    verdict: Verdict | None = None
    charged: bool = False
    delay: float = 0.0
    inquire_in: float | None = None
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
    secret: bool = False,
    withheld: bool = False,
) -> Message | None:
    """Write a message into the caller's transaction and ring for a worker once it is committed.

    Returns None, and changes nothing, where the dedupe key is taken. Each recipient, a bare address, gets a delivery.
    What it says is rendered from the kind's templates with `context`, or is `content` (`mailer.content`). Priority and
    flow default to the kind's and its name, `expires_at` to the kind's lifetime from `run_at` or now. Content is
    `secret` where the kind says so, too. What is `withheld` is cancelled from the start: it costs what another message
    does, and goes nowhere. Raises `KeyError` for an unknown kind, `ValueError` without a recipient; what the database
    raises undoes the caller's transaction, also where it is caught within it, unless a savepoint was set.
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
        secret=rules.secret or secret,
        context=dict(context or {}),
        content=content and dict(content),
    )
    first = "cancelled" if withheld else "scheduled" if run_at else "queued"
    row = {
        "run_at": run_at,
        "expires_at": expires_at,
        "lifetime": rules.lifetime.total_seconds() if rules.lifetime else None,
        "withheld": withheld,
        "openings": ledger.openings(recipients, event_type=first),
    }
    if not _insert(message, row):
        return None

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


def _insert(message: Message, row: Mapping[str, Any]) -> bool:
    """Write a message, its deliveries and their first events by one statement; tell whether its key was free."""
    own = ("kind", "dedupe_key", "user_id", "correlation_id", "locale", "priority", "flow", "secret")
    parameters = {
        **row,
        "id": message.pk,
        **{column: getattr(message, column) for column in own},
        "context": json.dumps(message.context),
        "content": None if message.content is None else json.dumps(message.content),
        "channel": CHANNEL,
    }
    # Who catches what this raises must not go on to commit: PostgreSQL rolls back then, and tells nobody.
    with transaction.mark_for_rollback_on_error(using=DEFAULT_DB_ALIAS), statements.prepared() as cursor:
        cursor.execute(_INSERT, parameters)
        return cursor.fetchone() is not None


def claim(owner: str, limit: int, lane: Lane = Lane.BULK) -> list[Claimed]:
    """Lease up to `limit` due messages of a lane or a more urgent one to `owner`.

    The most urgent go first; the flows of one priority share alike, each by the time its messages are due. It costs
    the same however many messages and flows wait (`mailer.turns`). Safe with any number of claimants: SKIP LOCKED
    passes over what another one takes, and each row goes to one of them.
    """
    if limit <= 0:
        return []
    last = LAST_PRIORITY if lane is Lane.BULK else Lane.BULK - 1
    parameters = {**turns.drawn(limit), "last": last, "owner": owner, "lease": settings.MAIL_LEASE_SECONDS}
    claims = [_claimed(message) for message in Message.objects.raw(_CLAIM, parameters)]
    claims.sort(key=lambda c: (c.message.priority, c.message.run_at, c.message.pk))
    return claims


def _claimed(message: Any) -> Claimed:
    """Take apart what `_CLAIM` adds to a message's columns."""
    rows = json.loads(message.recipients or "[]")
    recipients = tuple(Recipient(UUID(delivery), address, canonical) for delivery, address, canonical in rows)
    doubted_for = None if message.doubted_for is None else float(message.doubted_for)
    is_frozen, is_disproved = message.content is not None, bool(message.is_disproved)
    return Claimed(message, float(message.age or 0), doubted_for, recipients, is_frozen, is_disproved)


@transaction.atomic(savepoint=False)
def intend(
    claims: Sequence[Claimed], facts: Sequence[Fact] = (), batch_ids: Mapping[UUID, UUID] = MappingProxyType({})
) -> list[Claimed]:
    """Commit the intent to send: provider pinned, content frozen, an attempt written. Return those that may go.

    `facts` are told with it: about recipients that are left out. `batch_ids` name the batch a message goes in, where
    one key holds for all of it. A claim whose token is no longer the message's, since its lease ran out, does not go.
    Nothing may be requested of a provider before this is committed.
    """
    rows = [
        {
            "id": str(c.message.pk),
            "token": c.message.token,
            "provider": c.message.provider,
            "content": None if c.is_frozen else c.message.content,
            "batch_id": str(batch_ids[c.message.pk]) if c.message.pk in batch_ids else None,
        }
        for c in claims
    ]
    with statements.prepared() as cursor:
        cursor.execute(_INTEND, {"intents": json.dumps(rows), "lease": settings.MAIL_LEASE_SECONDS})
        granted = {row[0] for row in cursor.fetchall()}
    ledger.record(facts)
    return [c for c in claims if c.message.pk in granted]


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
            "inquire_in": o.inquire_in,
            "http_status": o.http_status,
            "error_class": o.error_class,
        }
        for o in outcomes
    ]
    with statements.prepared() as cursor:
        cursor.execute(_SETTLE, {"outcomes": json.dumps(rows), "terminal": list(TERMINAL)})
        counted = {*cursor.fetchall()}
    facts = [
        fact
        for o in outcomes
        for fact in o.facts
        if (o.message_id, o.token) in counted or o.state == State.SENT or fact.event_type == "sent"
    ]
    ledger.record(facts)
    ledger.match_parked_of((fact.provider, fact.esp_message_id) for fact in facts)


def oldest_due() -> float | None:
    """Return for how many seconds the oldest due message has waited, or None where none is due."""
    with statements.prepared() as cursor:
        cursor.execute(_OLDEST_DUE, {"last": LAST_PRIORITY})
        row = cursor.fetchone()
    return None if row is None or row[0] is None else float(row[0])


_MESSAGE: Final = Message._meta.db_table
_ATTEMPT: Final = Attempt._meta.db_table
_DELIVERY: Final = DeliveryStatus._meta.db_table

# The dedupe key decides between two that enqueue the same at once: the later one waits and then finds it taken.
_INSERT: Final = f"""
WITH written AS (
    INSERT INTO {_MESSAGE} (id, kind, dedupe_key, user_id, correlation_id, locale, priority, flow, secret,
                            context, content, run_at, expires_at,
                            state, finished_at, error_class, token, lease_owner, attempts, crashes, provider)
    SELECT v.id, v.kind, v.dedupe_key, v.user_id, v.correlation_id, v.locale, v.priority, v.flow, v.secret,
           v.context, v.content, coalesce(v.run_at, now()),
           coalesce(v.expires_at, coalesce(v.run_at, now()) + make_interval(secs => v.lifetime)),
           CASE WHEN v.withheld THEN 'cancelled' ELSE 'pending' END, CASE WHEN v.withheld THEN now() END,
           CASE WHEN v.withheld THEN '{WITHHELD}' ELSE '' END, 0, '', 0, 0, ''
    FROM (VALUES (%(id)s::uuid, %(kind)s, %(dedupe_key)s, %(user_id)s::bigint, %(correlation_id)s, %(locale)s,
                  %(priority)s::smallint, %(flow)s, %(secret)s::bool, %(context)s::jsonb, %(content)s::jsonb,
                  %(run_at)s::timestamptz, %(expires_at)s::timestamptz, %(lifetime)s::float, %(withheld)s::bool))
         AS v(id, kind, dedupe_key, user_id, correlation_id, locale, priority, flow, secret, context,
              content, run_at, expires_at, lifetime, withheld)
    ON CONFLICT (dedupe_key) DO NOTHING
    RETURNING id, kind, user_id
),
{ledger.OPENING}
SELECT id, pg_notify(%(channel)s, '') FROM written"""

# Attempts that may have been accepted, and deliveries that still are to be sent.
DOUBTED: Final = "a.outcome IN ('', 'ambiguous') AND a.disproved_at IS NULL"
OUTSTANDING: Final = "d.sent_at IS NULL AND d.recipient <> '' AND d.status NOT IN ('suppressed', 'rejected')"

# What is claimed is read without the columns that sending has no use for; a kind that wants one loads it.
_NEEDED: Final = (
    *("id", "kind", "user_id", "correlation_id", "locale", "priority", "run_at", "token", "attempts", "crashes"),
    *("provider", "context", "content", "error_class"),
)

# From the most urgent priority in which something is due to the next, until there is enough.
_CLAIM: Final = f"""
{turns.LEVELS},
due AS MATERIALIZED (
    SELECT one.id FROM level CROSS JOIN LATERAL ({turns.DUE}) one
    WHERE level.run_at <= now()
    LIMIT %(limit)s
)
UPDATE {_MESSAGE} m
SET state = 'leased', token = m.token + 1, lease_owner = %(owner)s,
    lease_until = now() + make_interval(secs => %(lease)s)
FROM due WHERE m.id = due.id
RETURNING {", ".join(f"m.{column}" for column in _NEEDED)},
          CASE WHEN m.token > 1 THEN extract(epoch FROM now() - (
              SELECT min(a.started_at) FROM {_ATTEMPT} a
              WHERE a.message_id = m.id AND a.started_at >= coalesce(m.retried_at, '-infinity'))) END AS age,
          extract(epoch FROM now() - m.first_ambiguous_at) AS doubted_for,
          m.first_ambiguous_at IS NOT NULL AND (
              SELECT min(a.token) FROM {_ATTEMPT} a WHERE a.message_id = m.id AND {DOUBTED}) IS NULL AS is_disproved,
          (SELECT json_agg(json_build_array(d.id, d.recipient, d.recipient_canonical) ORDER BY d.id)::text
           FROM {_DELIVERY} d
           WHERE d.message_id = m.id AND {OUTSTANDING}) AS recipients"""

_INTEND: Final = f"""
WITH intent AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(intents)s::jsonb) AS i(
        id uuid, token int, provider text, content jsonb, batch_id uuid)
),
locked AS MATERIALIZED (
    SELECT intent.* FROM {_MESSAGE} m JOIN intent USING (id)
    WHERE m.state = 'leased' AND m.token = intent.token
    ORDER BY m.id FOR NO KEY UPDATE OF m
),
moved AS (
    UPDATE {_MESSAGE} m
    SET state = 'sending', provider = locked.provider, content = coalesce(m.content, locked.content),
        lease_until = now() + make_interval(secs => %(lease)s)
    FROM locked WHERE m.id = locked.id
    RETURNING m.id, m.token, m.provider, locked.batch_id
)
INSERT INTO {_ATTEMPT} (message_id, token, provider, outcome, error_class, batch_id)
SELECT id, token, provider, '', '', batch_id FROM moved
RETURNING message_id"""

# Of two outcomes of one message: a worker was frozen past its lease and took it again.
_WEIGHTIEST: Final = "SELECT DISTINCT ON (id) * FROM outcome ORDER BY id, (state = 'sent') DESC, token DESC"

_SETTLE: Final = f"""
WITH outcome AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%(outcomes)s::jsonb) AS o(
        id uuid, token int, state text, verdict text, charged bool, delay float, inquire_in float,
        http_status int, error_class text)
),
locked AS MATERIALIZED (
    SELECT outcome.* FROM {_MESSAGE} m JOIN ({_WEIGHTIEST}) outcome USING (id)
    WHERE (outcome.state = 'sent' AND m.state <> 'sent')
       OR (m.token = outcome.token AND m.state IN ('leased', 'sending'))
    ORDER BY m.id FOR NO KEY UPDATE OF m
),
attempted AS (
    UPDATE {_ATTEMPT} a
    SET finished_at = statement_timestamp(), outcome = o.verdict, http_status = o.http_status,
        error_class = o.error_class
    FROM outcome o WHERE a.message_id = o.id AND a.token = o.token
)
UPDATE {_MESSAGE} m
SET state = o.state, error_class = o.error_class, attempts = m.attempts + o.charged::int,
    run_at = CASE o.state WHEN 'retry' THEN now() + make_interval(secs => o.delay) ELSE m.run_at END,
    lease_owner = '', lease_until = NULL, inquire_at = now() + make_interval(secs => o.inquire_in),
    first_ambiguous_at = coalesce(m.first_ambiguous_at, CASE o.verdict WHEN 'ambiguous' THEN (
        SELECT a.started_at FROM {_ATTEMPT} a WHERE a.message_id = o.id AND a.token = o.token) END),
    provider = CASE WHEN o.state = 'retry' AND o.verdict <> 'ambiguous' AND m.first_ambiguous_at IS NULL
        THEN '' ELSE m.provider END,
    finished_at = CASE WHEN o.state = ANY(%(terminal)s) THEN now() END,
    content = CASE WHEN m.secret AND o.state = ANY(%(terminal)s) THEN NULL ELSE m.content END
FROM locked o WHERE m.id = o.id
RETURNING m.id, o.token"""

_OLDEST_DUE: Final = f"{turns.LEVELS} SELECT extract(epoch FROM now() - min(run_at)) FROM level WHERE run_at <= now()"
