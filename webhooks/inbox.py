"""The inbox: every SQL that moves a `WebhookReceipt`."""

import hashlib
from collections.abc import Collection
from typing import Final
from uuid import UUID

import structlog
from anymail.signals import tracking
from django.db import connection, transaction

from mailer import doubts, ledger
from mailer.exceptions import DATABASE_LOST
from mailer.ledger import Fact, Recorded, dedupe_key, text_of
from mailer.models import DeliveryEvent
from mailer.status import ACCEPTED_RANK, RANKS
from users.signals import tell
from webhooks import consequences, normal
from webhooks.exceptions import Rejected, WebhookError
from webhooks.models import Nonce, WebhookReceipt
from webhooks.providers import WEBHOOKS, Incoming, Proof

log = structlog.get_logger(__name__)
State = WebhookReceipt.State

# Seconds until a receipt is tried again: the first that wait for what passes, the last for a release that mends it.
DELAYS: Final = (10, 60, 600, 3600, 6 * 3600, 24 * 3600)
# Receipts that one round tries again.
LIMIT: Final = 100
# What trying a receipt again may change in it: never its body, which may be large.
OUTCOME: Final = ("state", "error", "events", "unreadable", "new_events", "run_at")


def process(provider: str, incoming: Incoming, proof: Proof = Proof()) -> WebhookReceipt:  # noqa: B008  # immutable
    """Store a genuine request and record what it reports, in one transaction: all of it, or nothing.

    A request of which nothing can be read is stored as `poison`, one that cannot be recorded for a reason of its
    own as `retry`. Raises `Rejected` where the request has come with another body before, `TooManyEvents`, and
    `OperationalError` or `InterfaceError` where the database is away: then nothing is stored.
    """
    kept = {
        name: text_of(incoming.headers[name], 255) for name in WEBHOOKS[provider].headers if name in incoming.headers
    }
    context = structlog.contextvars.get_contextvars()
    receipt = WebhookReceipt(
        provider=provider,
        headers=kept,
        body=incoming.body,
        request_id=str(context.get("request_id", ""))[:64],
    )
    try:
        with transaction.atomic():
            _bind(provider, proof, incoming.body)
            _record(receipt)
            receipt.save(force_insert=True)
    except WebhookError:
        raise
    except Exception as error:  # whatever it is, the provider cannot mend it: it is kept, and seen
        if is_away(error):
            raise
        _keep(receipt, proof, error)
    return receipt


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
            _record(receipt)
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
    contents = normal.read(receipt.provider, Incoming(receipt.headers, bytes(receipt.body)), receipt.pk)
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
    facts, recorded = _record(receipt)
    receipt.new_events += known
    receipt.run_at = None
    if _outcome(receipt) != before:
        receipt.save(update_fields=OUTCOME)
    return receipt, facts, recorded


def _outcome(receipt: WebhookReceipt) -> list[object]:
    return [getattr(receipt, name) for name in OUTCOME]


def is_away(error: Exception) -> bool:
    """Tell whether the database is to blame for an error, and not what was to be written (class 54: it is too much)."""
    sqlstate = str(getattr(error.__cause__, "sqlstate", None) or "")
    return isinstance(error, DATABASE_LOST) and not sqlstate.startswith("54")


def _record(receipt: WebhookReceipt) -> tuple[list[Fact], list[Recorded]]:
    """Record what a receipt reports, and say so in it; return what it says, and what of that was new.

    Messages are locked before deliveries, as in `mailer.outbox`.
    """
    incoming = Incoming(receipt.headers, bytes(receipt.body))
    contents = normal.read(receipt.provider, incoming, receipt.pk)
    facts = contents.facts
    doubts.confirm(
        fact.message_id for fact in facts if fact.message_id and fact.status and RANKS[fact.status] >= ACCEPTED_RANK
    )
    receipt.unreadable = len(contents.unreadable)
    receipt.error = ", ".join(sorted(set(contents.unreadable)))[:200]
    receipt.state = State.POISON if contents.unreadable and not facts else State.PROCESSED
    if receipt.error:
        transaction.on_commit(lambda: _complain(receipt), robust=True)
    recorded = record(receipt.provider, contents, receipt_id=str(receipt.pk))
    receipt.events, receipt.new_events = len(facts), len(recorded)
    return facts, recorded


def record(provider: str, contents: normal.Contents, **context: str) -> list[Recorded]:
    """Record events with what follows from them; return what was new, and tell of that once all is committed.

    Call it in a transaction, as `ledger.record`. The log gets the context with each event.
    """
    recorded = ledger.record(contents.facts)
    consequences.draw(provider, contents.facts, recorded)
    transaction.on_commit(lambda: _announce(provider, contents, recorded, **context), robust=True)
    return recorded


def _bind(provider: str, proof: Proof, body: bytes) -> None:
    """Bind a request's name to its body. Raises `Rejected` where it is bound to another one.

    Of two at once the second waits for the first, and sees what that one has bound.
    """
    if not proof.nonce:
        return
    digest = hashlib.sha256(body).hexdigest()
    with connection.cursor() as cursor:
        cursor.execute(_BIND, [dedupe_key(provider, proof.nonce), digest])
        [bound] = cursor.fetchone()
    if bound != digest:
        raise Rejected("the request came with another body before")


@transaction.atomic
def _keep(receipt: WebhookReceipt, proof: Proof, error: Exception) -> None:
    """Store a request that could not be recorded, to be tried again. Raises `Rejected` as `process` does."""
    _bind(receipt.provider, proof, bytes(receipt.body))
    receipt.state, receipt.error = State.RETRY, type(error).__name__[:200]
    receipt.events = receipt.new_events = receipt.unreadable = 0
    receipt.save(force_insert=True)
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


def _announce(provider: str, contents: normal.Contents, recorded: Collection[Recorded], **context: str) -> None:
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

# An update that changes nothing waits for who is binding the same name, and returns what he has bound.
_BIND: Final = f"""
INSERT INTO {_NONCE} AS n (key, digest) VALUES (%s, %s)
ON CONFLICT (key) DO UPDATE SET digest = n.digest
RETURNING digest"""

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
