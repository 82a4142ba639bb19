"""The inbox: receipts are stored, and what they report is recorded; `webhooks.later` has those that wait."""

import functools
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from anymail.signals import tracking
from django.conf import settings
from django.db import connection, transaction
from psycopg.types.json import Jsonb

from mailer import doorbell, doubts, ledger, statements
from mailer.exceptions import DATABASE_LOST
from mailer.ledger import Fact, Recorded, dedupe_key, text_of
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
# The proof of a request whose signature covers its body.
UNNAMED: Final = Proof()
# For who reads what is too much to be read at the door.
READING: Final = doorbell.Bell("webhooks.tasks.read")
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
    `TooManyEvents`. A request of more than WEBHOOK_AT_ONCE events is stored as `waiting`, for a worker to record, one
    of which nothing can be read as `poison`, one that cannot be recorded for a reason of its own as `retry`: where not
    all can be recorded together, each is by itself. Raises `OperationalError` or `InterfaceError` where the database
    is away: then no more than some of several is stored, and all may come again.
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
            record_all(provider, taken)
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
        entry.contents = contents_of(entry.receipt, at_once=settings.WEBHOOK_AT_ONCE)
    except TooManyEvents as error:
        entry.refusal = error


def contents_of(receipt: WebhookReceipt, *, at_once: int | None = None) -> normal.Contents:
    """Return what `webhooks.normal.read` reads in a receipt. Raises `TooManyEvents`."""
    return normal.read(receipt.provider, Incoming(receipt.headers, bytes(receipt.body)), receipt.pk, at_once=at_once)


def is_away(error: Exception) -> bool:
    """Tell whether the database is to blame for an error, and not what was to be written (class 54: it is too much)."""
    sqlstate = str(getattr(error.__cause__, "sqlstate", None) or "")
    return isinstance(error, DATABASE_LOST) and not sqlstate.startswith("54")


def record_all(provider: str, entries: Sequence[Entry]) -> list[list[Recorded]]:
    """Record what receipts report, and say so in them; return for each what of that was new.

    Call it in a transaction; who does stores the receipts.
    """
    for entry in entries:
        receipt, contents = entry.receipt, entry.contents
        receipt.events, receipt.unreadable = contents.waiting or len(contents.facts), len(contents.unreadable)
        receipt.error = ", ".join(sorted(set(contents.unreadable)))[:200]
        receipt.state = _state(contents)
        if receipt.state == State.WAITING:
            transaction.on_commit(READING.ring, robust=True)
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


def _state(contents: normal.Contents) -> WebhookReceipt.State:
    if contents.waiting:
        return State.WAITING
    return State.POISON if contents.unreadable and not contents.facts else State.PROCESSED


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

# Bodies go as they are; as text, each byte would be two digits.
_INSERT: Final = f"""
INSERT INTO {_RECEIPT} ({", ".join(BEGINNING)}, run_at)
SELECT *, CASE state WHEN 'waiting' THEN now() END
FROM unnest({", ".join(f"%{'b' if kind == 'bytea' else 's'}::{kind}[]" for kind in BEGINNING.values())})
     AS receipt({", ".join(BEGINNING)})"""

_PUT_OFF: Final = f"UPDATE {_RECEIPT} SET run_at = now() + make_interval(secs => %s) WHERE id = %s"
