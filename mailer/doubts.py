"""What may have been accepted and cannot be repeated without risk: look for evidence, then decide.

A message in doubt waits a grace, in which a webhook that carries our id proves that it was accepted. Then its provider
is asked, where it can be: what it has is sent, what it provably never had is tried again. Where nobody can tell, the
kind decides: sent again rather than perhaps never, or left to an operator.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction

from mailer import batches, couriers, kinds, ledger, letters, statements
from mailer.couriers import UNANSWERED
from mailer.decisions import is_exhausted
from mailer.exceptions import DATABASE_LOST
from mailer.ledger import MAX_IDENTIFIER, Fact, Source, own_fact, text_of
from mailer.letters import UNREADABLE
from mailer.models import Attempt, DeliveryStatus, Message, RepeatCount
from mailer.outbox import DOUBTED, EVENT_OF_STATE, OUTSTANDING, TERMINAL
from mailer.providers import PROVIDERS, Provider
from mailer.sweeping import LOG_EVENT, MAX_CRASHES
from mailer.verdicts import Verdict

log = structlog.get_logger(__name__)
State = Message.State

# Messages that one round looks into, and seconds after which it looks into no more.
LIMIT: Final = 20
SHIFT: Final = 3.0
# Seconds after which a provider that does not tell is asked no more.
PATIENCE: Final = 3600.0
# Seconds at least between two questions about one message.
AGAIN: Final = 10.0
# Seconds for which whoever asks has a doubt for himself.
HELD: Final = 60.0


@dataclass(frozen=True, slots=True)
class Doubt:
    """A message in doubt. Times are in seconds: since its first attempt, its last one, and the first in doubt."""

    message_id: UUID
    token: int
    kind: str
    provider: str
    attempts: int
    age: float
    last_age: float
    doubted_for: float
    is_deadly: bool
    is_late: bool
    deliveries: list[UUID]


def resolve(limit: int = LIMIT) -> int:
    """Look into doubts whose grace is over; return how many. Safe in any number of processes: each has its own.

    Batches that are kept are repeated first: that may settle many at once. A provider that does not answer is asked
    once a round: the other doubts about it come up again. After some `SHIFT` seconds a round ends: who asks does not
    send meanwhile.
    """
    end = time.monotonic() + SHIFT
    repeated = batches.resolve(end)
    silent: set[str] = set()
    for count in range(limit):
        doubt = None if count and time.monotonic() >= end else _take()
        if doubt is None:
            return repeated + count
        try:
            _resolve(doubt, silent)
        except DATABASE_LOST:
            raise
        except Exception:
            # One that nobody foresaw must not keep the others, and all mail, waiting. Its doubt comes up again.
            log.exception("doubt_failed", message_id=str(doubt.message_id), provider=doubt.provider)
    return repeated + limit


def _take() -> Doubt | None:
    """Take the doubt that is due for longest, for some time."""
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, {"held": HELD, "crashes": MAX_CRASHES})
        row = cursor.fetchone()
    return Doubt(*row) if row else None


def _resolve(doubt: Doubt, silent: set[str]) -> None:
    provider = PROVIDERS.get(doubt.provider)
    found = _ask(provider, doubt, silent) if provider else None
    if found:
        _settle(doubt, State.SENT, _found(doubt, found))
        return
    proves_after = _proves_after(provider)
    never_had = found is not None and proves_after is not None and doubt.last_age >= proves_after
    if proves_after is not None and not never_had and doubt.last_age < max(PATIENCE, 2 * proves_after):
        _put_off(doubt)
        return
    is_over = doubt.is_late or doubt.is_deadly or is_exhausted(doubt.attempts, doubt.age)
    match never_had, is_over:
        case True, True:
            _settle(doubt, State.EXPIRED if doubt.is_late else State.DEAD, never_had=True)
        case True, False:
            _settle(doubt, State.RETRY, never_had=True)
        case False, False if kinds.rules_of(doubt.kind).at_least_once:
            _settle(doubt, State.RETRY, is_risky=True)
        case _:
            _settle(doubt, State.UNKNOWN)


def _proves_after(provider: Provider | None) -> float | None:
    """Return the seconds after which what a search does not find was never accepted; None where it proves nothing."""
    if provider is None or provider.search is None or provider.search.complete_after is None:
        return None
    seconds: float | None = settings.MAIL_SEARCH_SECONDS
    return provider.search.complete_after.total_seconds() if seconds is None else seconds


def _ask(provider: Provider, doubt: Doubt, silent: set[str]) -> list[str] | None:
    """Return the provider's ids of what it accepted of a message; None where it did not tell."""
    if provider.search is None or provider.name in silent:
        return None
    try:
        response = couriers.of_this_process().ask(letters.inquiry_for(provider.search, provider, str(doubt.message_id)))
        body = letters.decoded(response)
        if provider.verdict(response.status, body) is Verdict.ACCEPTED:
            return provider.search.found(body)
    except (*UNANSWERED, *UNREADABLE, ImproperlyConfigured) as error:
        if isinstance(error, UNANSWERED):
            silent.add(provider.name)
        log.warning("inquiry_failed", provider=provider.name, error_class=type(error).__name__)
        return None
    log.warning("inquiry_failed", provider=provider.name, http_status=response.status)
    return None


def _found(doubt: Doubt, identifiers: list[str]) -> list[Fact]:
    return [
        own_fact(
            "sent",
            delivery,
            f"found {doubt.token}",
            provider=doubt.provider,
            esp_message_id=text_of(identifiers[0], MAX_IDENTIFIER),
            source=Source.POLL,
        )
        for delivery in doubt.deliveries
    ]


def _settle(
    doubt: Doubt, state: str, facts: list[Fact] | None = None, *, never_had: bool = False, is_risky: bool = False
) -> None:
    """Write what follows from a doubt, where it still stands, and tell the deliveries."""
    if facts is None:
        facts = [own_fact(EVENT_OF_STATE[state], delivery, f"doubt {doubt.token}") for delivery in doubt.deliveries]
    parameters: dict[str, Any] = {
        "id": doubt.message_id,
        "token": doubt.token,
        "state": state,
        "never_had": never_had,
        "risky": is_risky,
        "terminal": list(TERMINAL),
    }
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(_SETTLE, parameters)
            is_standing = cursor.fetchone() is not None
        if is_standing:
            ledger.record(facts)
            ledger.match_parked_of((fact.provider, fact.esp_message_id) for fact in facts)
    if is_standing:
        log.warning(
            LOG_EVENT[state], message_id=str(doubt.message_id), provider=doubt.provider, risky=is_risky, by="doubt"
        )


def _put_off(doubt: Doubt) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_PUT_OFF, [max(settings.MAIL_GRACE_SECONDS, AGAIN), doubt.message_id, doubt.token])


def confirm(provider: str, message_ids: Iterable[UUID]) -> int:
    """Take messages for sent that a provider has reported on; return how many were in doubt.

    The report proves the acceptance, whatever our own record of the request says; but a provider is believed about what
    is with it alone, as in the ledger (`mailer.ledger.Fact`).
    """
    identifiers = sorted({*message_ids})
    if not identifiers:
        return 0
    with statements.prepared() as cursor:
        cursor.execute(_CONFIRM, [identifiers, provider])
        return int(cursor.rowcount)


_MESSAGE: Final = Message._meta.db_table
_ATTEMPT: Final = Attempt._meta.db_table
_DELIVERY: Final = DeliveryStatus._meta.db_table
_REPEATS: Final = RepeatCount._meta.db_table

# Whoever takes a doubt puts it off, so that no other takes it meanwhile; should he die, it comes up again.
_CLAIM: Final = f"""
WITH doubted AS MATERIALIZED (
    SELECT id FROM {_MESSAGE} WHERE state = 'unknown' AND inquire_at <= now()
    ORDER BY inquire_at LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED
),
held AS (
    UPDATE {_MESSAGE} m SET inquire_at = now() + make_interval(secs => %(held)s)
    FROM doubted WHERE m.id = doubted.id
    RETURNING m.*
)
SELECT m.id, m.token, m.kind, m.provider, m.attempts,
       coalesce(extract(epoch FROM now() - tried.first), 0)::float,
       coalesce(extract(epoch FROM now() - tried.last), 0)::float,
       coalesce(extract(epoch FROM now() - m.first_ambiguous_at), 0)::float,
       m.crashes >= %(crashes)s, m.expires_at IS NOT NULL AND m.expires_at <= now(),
       ARRAY(SELECT d.id FROM {_DELIVERY} d WHERE d.message_id = m.id AND {OUTSTANDING} ORDER BY d.id)
FROM held m, LATERAL (
    SELECT min(a.started_at) FILTER (WHERE a.started_at >= coalesce(m.retried_at, '-infinity')) AS first,
           max(a.started_at) AS last
    FROM {_ATTEMPT} a WHERE a.message_id = m.id) tried"""

# A repeat begins a doubt of its own: a key, where there is one, lives from then on. It stays with its provider, also
# where a search has found nothing: by when that is complete is a guess, and this provider alone can be asked again.
# Of the counts each transaction locks one, after its message: no two can wait for each other.
_SETTLE: Final = f"""
WITH settled AS (
    UPDATE {_MESSAGE} m
    SET state = %(state)s, inquire_at = NULL, repeats = m.repeats + %(risky)s::int,
        run_at = CASE %(state)s WHEN 'retry' THEN now() ELSE m.run_at END,
        first_ambiguous_at = CASE %(state)s WHEN 'retry' THEN now() ELSE m.first_ambiguous_at END,
        finished_at = CASE WHEN %(state)s = ANY(%(terminal)s) THEN now() END,
        content = CASE WHEN m.secret AND %(state)s = ANY(%(terminal)s) THEN NULL ELSE m.content END
    WHERE m.id = %(id)s AND m.state = 'unknown' AND m.token = %(token)s
    RETURNING m.id, m.kind, m.provider
),
counted AS (
    INSERT INTO {_REPEATS} AS r (kind, provider, count)
    SELECT kind, provider, 1 FROM settled WHERE %(risky)s
    ON CONFLICT (kind, provider) DO UPDATE SET count = r.count + 1
),
disproved AS (
    UPDATE {_ATTEMPT} a SET disproved_at = now()
    FROM settled WHERE %(never_had)s AND a.message_id = settled.id AND {DOUBTED}
)
SELECT id FROM settled"""

_PUT_OFF: Final = f"""
UPDATE {_MESSAGE} SET inquire_at = now() + make_interval(secs => %s)
WHERE id = %s AND token = %s AND state = 'unknown'"""

# Also what was cancelled meanwhile: accepted is a fact. What was never tried nobody can have accepted; and where one of
# its recipients is known to have been, without a doubt, a report on that one says nothing of the others.
_CONFIRM: Final = f"""
WITH doubted AS MATERIALIZED (
    SELECT id FROM {_MESSAGE} m
    WHERE id = ANY(%s) AND provider = %s AND state <> 'sent'
      AND EXISTS (SELECT FROM {_ATTEMPT} a WHERE a.message_id = m.id)
      AND (first_ambiguous_at IS NOT NULL
           OR NOT EXISTS (SELECT FROM {_DELIVERY} d WHERE d.message_id = m.id AND d.sent_at IS NOT NULL))
    ORDER BY id FOR NO KEY UPDATE
)
UPDATE {_MESSAGE} m
SET state = 'sent', finished_at = now(), lease_owner = '', lease_until = NULL, inquire_at = NULL,
    content = CASE WHEN m.secret THEN NULL ELSE m.content END
FROM doubted WHERE m.id = doubted.id AND m.state <> 'sent'"""
