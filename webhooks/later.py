"""Receipts that are read later: those that report much, those that could not be recorded, those that are replayed."""

import time
from dataclasses import replace
from typing import Final
from uuid import UUID

import structlog
from django.db import connection, transaction

from mailer.ledger import Fact, Recorded
from mailer.models import DeliveryEvent
from webhooks import inbox, normal
from webhooks.inbox import DELAYS, Entry
from webhooks.models import DUE, WebhookReceipt

log = structlog.get_logger(__name__)
State = WebhookReceipt.State

# Receipts that one round reads at most, and seconds: who reads does not send meanwhile.
LIMIT: Final = 100
SHIFT: Final = 1.0
# What reading a receipt may change in it: never its body, which may be large.
OUTCOME: Final = ("state", "error", "events", "unreadable", "new_events", "run_at")

# https://www.postgresql.org/docs/current/errcodes-appendix.html, class 57.
QUERY_CANCELED: Final = "57014"


def read_due(limit: int = LIMIT) -> int:
    """Read receipts whose time has come, one after another; return how many were processed.

    It ends after `limit` of them or some `SHIFT` seconds, and then rings for a worker if that may not be all. Safe in
    any number of processes: each takes its own, and puts it off before it tries, so that one which kills its process
    comes up again only when its next time has come, and in the end is poison.
    """
    end = time.monotonic() + SHIFT
    with connection.cursor() as cursor:
        cursor.execute(_EXHAUSTED, [len(DELAYS)])
    processed = 0
    for _ in range(limit):
        identifier = _take()
        if identifier is None:
            return processed
        processed += _read(identifier)
        if time.monotonic() >= end:
            break
    inbox.READING.ring()
    return processed


def _take() -> UUID | None:
    with connection.cursor() as cursor:
        cursor.execute(_TAKE, {"delays": list(DELAYS)})
        row = cursor.fetchone()
    return row and UUID(str(row[0]))


def _contents(receipt: WebhookReceipt) -> normal.Contents:
    """Return what a receipt says. What says no time of its own happened when it came in, not when it is read."""
    contents = inbox.contents_of(receipt)
    contents.facts[:] = [
        fact if fact.occurred_at else replace(fact, occurred_at=receipt.received_at) for fact in contents.facts
    ]
    return contents


def _read(identifier: UUID) -> bool:
    try:
        with transaction.atomic():
            receipt = WebhookReceipt.objects.select_for_update().filter(pk=identifier, state__in=DUE).first()
            if receipt is None:
                return False  # another one was faster
            inbox.record_all(receipt.provider, [Entry(receipt, contents=_contents(receipt))])
            receipt.run_at = None
            receipt.save(update_fields=OUTCOME)
    except Exception as error:  # as in `inbox.process_all`
        if inbox.is_away(error) and not _took_too_long(error):
            raise
        name = type(error).__name__
        with connection.cursor() as cursor:
            cursor.execute(_FAILED, {"id": identifier, "error": name, "most": len(DELAYS)})
        log.warning("receipt_failed", receipt_id=str(identifier), error_class=name)
        return False
    return True


def _took_too_long(error: Exception) -> bool:
    """Tell whether PostgreSQL ended a statement for its `statement_timeout`, as it will with this receipt's again.

    Else each such receipt would end a sweep, and keep a relay from sending.
    """
    return getattr(error.__cause__, "sqlstate", None) == QUERY_CANCELED


def replay(identifier: UUID) -> tuple[WebhookReceipt, list[Fact], list[Recorded]]:
    """Read a receipt again, in whatever state it is, and record what is new.

    Return it as it is then, what it says, and what of that was new.

    What was recorded before is known by its dedupe key, and is left as it is. Safe in any number of processes: each
    waits for the one that has the receipt, and finds nothing new. A receipt that cannot be recorded is left as it was;
    raises what `inbox.record_all` raises then, and `WebhookReceipt.DoesNotExist`.
    """
    receipt = WebhookReceipt.objects.get(pk=identifier)
    contents = _contents(receipt)
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
    entry = Entry(receipt, contents=_contents(receipt))
    [recorded] = inbox.record_all(receipt.provider, [entry])
    receipt.new_events += known
    receipt.run_at = None
    if _outcome(receipt) != before:
        receipt.save(update_fields=OUTCOME)
    return receipt, entry.contents.facts, recorded


def _outcome(receipt: WebhookReceipt) -> list[object]:
    return [getattr(receipt, name) for name in OUTCOME]


_RECEIPT: Final = WebhookReceipt._meta.db_table

# Put off by half as long again at most, so that those which failed together do not come up together.
_TAKE: Final = f"""
WITH due AS MATERIALIZED (
    SELECT id FROM {_RECEIPT} WHERE state IN ('waiting', 'retry') AND run_at <= now()
    ORDER BY run_at LIMIT 1
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
SET error = %(error)s, state = CASE WHEN attempts >= %(most)s THEN 'poison' ELSE 'retry' END,
    run_at = CASE WHEN attempts < %(most)s THEN run_at END
WHERE id = %(id)s AND state IN ('waiting', 'retry')"""

# Whose last try ended its process, or lost the database, too.
_EXHAUSTED: Final = f"""
UPDATE {_RECEIPT} SET state = 'poison', run_at = NULL, error = coalesce(nullif(error, ''), 'unfinished')
WHERE state IN ('waiting', 'retry') AND run_at <= now() AND attempts >= %s"""
