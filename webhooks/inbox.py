"""The inbox: every SQL that moves a `WebhookReceipt`."""

import functools
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import structlog
from anymail.signals import tracking
from django.db import connection, transaction
from psycopg.types.json import Jsonb

from mailer import doubts, ledger, statements
from mailer.exceptions import DATABASE_LOST
from mailer.ledger import Fact, Recorded, dedupe_key, text_of
from mailer.models import DeliveryEvent
from mailer.status import ACCEPTED_RANK, RANKS
from users.signals import tell
from webhooks import consequences, normal
from webhooks.exceptions import Rejected, TooManyEvents, WebhookError
from webhooks.models import Nonce, WebhookReceipt
from webhooks.providers import WEBHOOKS, Incoming, Proof

log = structlog.get_logger(__name__)
State = WebhookReceipt.State

# Seconds until a receipt is tried again: the first that wait for what passes, the last for a release that mends it.
DELAYS: Final = (10, 60, 600, 3600, 6 * 3600, 24 * 3600)
# Receipts that one round tries again.
LIMIT: Final = 100
# The proof of a request whose signature covers its body.
UNNAMED: Final = Proof()
# What trying a receipt again may change in it: never its body, which may be large.
OUTCOME: Final = ("state", "error", "events", "unreadable", "new_events", "run_at")
# What a receipt begins with; the rest has its default.
BEGINNING: Final = {
    "id": "uuid",
    "provider": "text",
    "request_id": "text",
    "headers": "jsonb",
    "body": "bytea",
    "state": "text",
    "error": "text",
    "events": "int",
    "unreadable": "int",
    "new_events": "int",
}


@dataclass(frozen=True, slots=True)
class Genuine:
    """A request that is its provider's, with the proof, and what logs call it."""

    incoming: Incoming
    proof: Proof = UNNAMED
    request_id: str = ""


@dataclass(slots=True)
class Entry:
    """A receipt on its way in: the request's proof, what it says, and why it is refused after all, if it is."""

    receipt: WebhookReceipt
    proof: Proof = UNNAMED
    contents: normal.Contents = field(default_factory=normal.Contents)
    refusal: WebhookError | None = None


def process(provider: str, incoming: Incoming, proof: Proof = UNNAMED) -> WebhookReceipt:
    """Do what `process_all` does for one request; return its receipt, or raise why it is refused."""
    [outcome] = process_all(provider, [Genuine(incoming, proof)])
    if isinstance(outcome, WebhookError):
        raise outcome
    return outcome


def process_all(provider: str, requests: Iterable[Genuine]) -> list[WebhookReceipt | WebhookError]:
    """Store genuine requests of one provider and record what they report, in one transaction: all of it, or nothing.

    Return for each its receipt, or why it is refused: `Rejected` where it has come with another body before,
    `TooManyEvents`. A request of which nothing can be read is stored as `poison`, one that cannot be recorded for a
    reason of its own as `retry`: where not all can be recorded together, each is by itself. Raises `OperationalError`
    or `InterfaceError` where the database is away: then no more than some of several is stored, and all may come again.
    """
    entries = [Entry(_receipt(provider, request), request.proof) for request in requests]
    if entries:
        _store(provider, entries)
    return [entry.refusal or entry.receipt for entry in entries]


def _receipt(provider: str, request: Genuine) -> WebhookReceipt:
    headers = request.incoming.headers
    return WebhookReceipt(
        provider=provider,
        headers={name: text_of(headers[name], 255) for name in WEBHOOKS[provider].headers if name in headers},
        body=request.incoming.body,
        request_id=request.request_id[:64],
    )


def _store(provider: str, entries: Sequence[Entry]) -> None:
    try:
        with transaction.atomic():
            for entry in entries:
                _read_into(entry)
            _bind(provider, entries)
            taken = [entry for entry in entries if not entry.refusal]
            _record(provider, taken)
            _insert([entry.receipt for entry in taken])
    except Exception as error:  # whatever it is, the provider cannot mend it: it is kept, and seen
        if is_away(error):
            raise
        if len(entries) == 1:
            _keep(entries[0], error)
            return
        for entry in entries:
            _store(provider, [entry])


def _insert(receipts: Sequence[WebhookReceipt]) -> None:
    columns = [[getattr(receipt, name) for receipt in receipts] for name in BEGINNING]
    columns[list(BEGINNING).index("headers")] = [Jsonb(receipt.headers) for receipt in receipts]
    with statements.prepared() as cursor:
        cursor.execute(_INSERT, columns)


def _read_into(entry: Entry) -> None:
    entry.refusal = None
    try:
        entry.contents = _read(entry.receipt)
    except TooManyEvents as error:
        entry.refusal = error


def _read(receipt: WebhookReceipt) -> normal.Contents:
    """Return what a receipt says, read now. Raises `TooManyEvents`."""
    return normal.read(receipt.provider, Incoming(receipt.headers, bytes(receipt.body)), receipt.pk)


def retry(limit: int = LIMIT) -> int:
    """Try receipts again whose time has come; return how many were processed.

    Safe in any number of processes: each takes its own, and puts it off before it tries, so that one which kills its
    process comes up again only when its next time has come, and in the end is poison.
    """
    with connection.cursor() as cursor:
        cursor.execute(_EXHAUSTED, [len(DELAYS)])
        cursor.execute(_TAKE, {"delays": list(DELAYS), "limit": limit})
        taken = [row[0] for row in cursor.fetchall()]
    return sum(_retry(identifier) for identifier in taken)


def _retry(identifier: UUID) -> bool:
    try:
        with transaction.atomic():
            receipt = WebhookReceipt.objects.select_for_update().filter(pk=identifier, state=State.RETRY).first()
            if receipt is None:
                return False  # another one was faster
            _record(receipt.provider, [Entry(receipt, contents=_read(receipt))])
            receipt.run_at = None
            receipt.save(update_fields=OUTCOME)
    except Exception as error:  # as in `process`
        if is_away(error):
            raise
        name = type(error).__name__
        with connection.cursor() as cursor:
            cursor.execute(_FAILED, {"id": identifier, "error": name, "most": len(DELAYS)})
        log.warning("receipt_failed", receipt_id=str(identifier), error_class=name)
        return False
    return True


def replay(identifier: UUID) -> tuple[WebhookReceipt, list[Fact], list[Recorded]]:
    """Read a receipt again, in whatever state it is, and record what is new.

    Return it as it is then, what it says, and what of that was new.

    What was recorded before is known by its dedupe key, and is left as it is. Safe in any number of processes: each
    waits for the one that has the receipt, and finds nothing new. A receipt that cannot be recorded is left as it was;
    raises what `_record` raises then, and `WebhookReceipt.DoesNotExist`.
    """
    receipt = WebhookReceipt.objects.get(pk=identifier)
    contents = _read(receipt)
    if _is_known(receipt, contents):
        return receipt, contents.facts, []
    return _replay(identifier)


def _is_known(receipt: WebhookReceipt, contents: normal.Contents) -> bool:
    """Tell whether a receipt is processed, and all that it says is recorded: then nothing needs to be locked."""
    before = (receipt.state, receipt.events, receipt.unreadable)
    if before != (State.PROCESSED, len(contents.facts), len(contents.unreadable)):
        return False
    keys = {fact.dedupe_key for fact in contents.facts}
    return DeliveryEvent.objects.filter(dedupe_key__in=keys).count() == len(keys)


@transaction.atomic
def _replay(identifier: UUID) -> tuple[WebhookReceipt, list[Fact], list[Recorded]]:
    receipt = WebhookReceipt.objects.select_for_update(no_key=True).get(pk=identifier)
    before, known = _outcome(receipt), receipt.new_events
    entry = Entry(receipt, contents=_read(receipt))
    [recorded] = _record(receipt.provider, [entry])
    receipt.new_events += known
    receipt.run_at = None
    if _outcome(receipt) != before:
        receipt.save(update_fields=OUTCOME)
    return receipt, entry.contents.facts, recorded


def _outcome(receipt: WebhookReceipt) -> list[object]:
    return [getattr(receipt, name) for name in OUTCOME]


def is_away(error: Exception) -> bool:
    """Tell whether the database is to blame for an error, and not what was to be written (class 54: it is too much)."""
    sqlstate = str(getattr(error.__cause__, "sqlstate", None) or "")
    return isinstance(error, DATABASE_LOST) and not sqlstate.startswith("54")


def _record(provider: str, entries: Sequence[Entry]) -> list[list[Recorded]]:
    """Record what receipts report, and say so in them; return for each what of that was new."""
    for entry in entries:
        receipt, contents = entry.receipt, entry.contents
        receipt.events, receipt.unreadable = len(contents.facts), len(contents.unreadable)
        receipt.error = ", ".join(sorted(set(contents.unreadable)))[:200]
        receipt.state = State.POISON if contents.unreadable and not contents.facts else State.PROCESSED
        if receipt.error:
            transaction.on_commit(functools.partial(_complain, receipt), robust=True)
    told = [
        Told(entry.contents, {"receipt_id": str(entry.receipt.pk), "request_id": entry.receipt.request_id})
        for entry in entries
    ]
    recorded = record(provider, told)
    for entry, news in zip(entries, recorded, strict=True):
        entry.receipt.new_events = len(news)
    return recorded


@dataclass(frozen=True, slots=True)
class Told:
    """What a provider told at once, and what the log gets with each event of it."""

    contents: normal.Contents
    context: Mapping[str, str]


def record(provider: str, told: Sequence[Told]) -> list[list[Recorded]]:
    """Record events with what follows from them; return what was new in each, and tell of it once all is committed.

    A message that is told to have been accepted is in doubt no more. Call it in a transaction, as `ledger.record`:
    messages are locked before deliveries, as in `mailer.outbox`.
    """
    facts: dict[str, Fact] = {}
    owners: dict[str, int] = {}
    for place, each in enumerate(told):
        for fact in each.contents.facts:
            facts.setdefault(fact.dedupe_key, fact)
            owners.setdefault(fact.dedupe_key, place)
    doubts.confirm(
        provider,
        (
            fact.message_id
            for fact in facts.values()
            if fact.message_id and fact.status and RANKS[fact.status] >= ACCEPTED_RANK
        ),
    )
    news: list[list[Recorded]] = [[] for _ in told]
    recorded = ledger.record(list(facts.values()))
    for event in recorded:
        news[owners[event.dedupe_key]].append(event)
    consequences.draw(provider, facts.values(), recorded)
    transaction.on_commit(lambda: _announce_all(provider, told, news), robust=True)
    return news


def _bind(provider: str, entries: Iterable[Entry]) -> None:
    """Bind the requests' names to their bodies, and refuse those whose name is bound to another one.

    Of two at once the second waits for the first, and sees what that one has bound.
    """
    digests: dict[str, str] = {}
    named = [
        (entry, dedupe_key(provider, entry.proof.nonce), hashlib.sha256(entry.receipt.body).hexdigest())
        for entry in entries
        if entry.proof.nonce and not entry.refusal
    ]
    for _, key, digest in named:
        digests.setdefault(key, digest)
    if not digests:
        return
    with connection.cursor() as cursor:
        cursor.execute(_BIND, [list(digests), list(digests.values())])
        bound = dict(cursor.fetchall())
    for entry, key, digest in named:
        if bound[key] != digest:
            entry.refusal = Rejected("the request came with another body before")


@transaction.atomic
def _keep(entry: Entry, error: Exception) -> None:
    """Store a request that could not be recorded, to be tried again, unless its name is bound to another body."""
    receipt = entry.receipt
    _bind(receipt.provider, [entry])
    if entry.refusal:
        return
    receipt.state, receipt.error = State.RETRY, type(error).__name__[:200]
    receipt.events = receipt.new_events = receipt.unreadable = 0
    _insert([receipt])
    with connection.cursor() as cursor:
        cursor.execute(_PUT_OFF, [DELAYS[0], receipt.pk])
    log.error("receipt_failed", receipt_id=str(receipt.pk), provider=receipt.provider, error_class=receipt.error)


def _complain(receipt: WebhookReceipt) -> None:
    log.warning(
        "receipt_unreadable",
        receipt_id=str(receipt.pk),
        provider=receipt.provider,
        error_class=receipt.error,
    )


def _announce_all(provider: str, told: Sequence[Told], news: Sequence[Collection[Recorded]]) -> None:
    for each, recorded in zip(told, news, strict=True):
        _announce(provider, each.contents, recorded, each.context)


def _announce(
    provider: str, contents: normal.Contents, recorded: Collection[Recorded], context: Mapping[str, str]
) -> None:
    """Tell the log, with its context, and who listens to Anymail's signal, which events were new."""
    for event in recorded:
        log.info(
            "event_parked" if event.effect == ledger.Effect.PARKED else "event_recorded",
            provider=provider,
            event_type=event.event_type,
            effect=event.effect.value,
            delivery_id=event.delivery_id and str(event.delivery_id),
            message_id=event.message_id and str(event.message_id),
            correlation_id=event.correlation_id,
            status=event.new_status,
            **context,
        )
    new = {event.dedupe_key for event in recorded}
    for fact, event in zip(contents.facts, contents.heard, strict=True):
        if fact.dedupe_key in new:
            new.discard(fact.dedupe_key)
            # As Anymail's own view sends it.
            tell(tracking, type(contents.view), event=event, esp_name=contents.view.esp_name)


_RECEIPT: Final = WebhookReceipt._meta.db_table
_NONCE: Final = Nonce._meta.db_table

# An update that changes nothing waits for who is binding the same name, and returns what he has bound; all bind in one
# order, so that none waits for another one that waits for it.
_BIND: Final = f"""
INSERT INTO {_NONCE} AS n (key, digest)
SELECT * FROM unnest(%s::text[], %s::text[]) named(key, digest) ORDER BY key
ON CONFLICT (key) DO UPDATE SET digest = n.digest
RETURNING key, digest"""

_INSERT: Final = f"""
INSERT INTO {_RECEIPT} ({", ".join(BEGINNING)})
SELECT * FROM unnest({", ".join(f"%s::{kind}[]" for kind in BEGINNING.values())})"""

_PUT_OFF: Final = f"UPDATE {_RECEIPT} SET run_at = now() + make_interval(secs => %s) WHERE id = %s"

# Put off by half as long again at most, so that those which failed together do not come up together.
_TAKE: Final = f"""
WITH due AS MATERIALIZED (
    SELECT id FROM {_RECEIPT} WHERE state = 'retry' AND run_at <= now()
    ORDER BY run_at LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {_RECEIPT} r
SET attempts = r.attempts + 1,
    run_at = now() + make_interval(secs => (%(delays)s::int[])[least(r.attempts + 2, cardinality(%(delays)s::int[]))]
                                           * (1 + random() / 2))
FROM due WHERE r.id = due.id
RETURNING r.id"""

_FAILED: Final = f"""
UPDATE {_RECEIPT}
SET error = %(error)s, state = CASE WHEN attempts >= %(most)s THEN 'poison' ELSE state END,
    run_at = CASE WHEN attempts < %(most)s THEN run_at END
WHERE id = %(id)s AND state = 'retry'"""

# Whose last try ended its process, too.
_EXHAUSTED: Final = f"""
UPDATE {_RECEIPT} SET state = 'poison', run_at = NULL WHERE state = 'retry' AND run_at <= now() AND attempts >= %s"""
