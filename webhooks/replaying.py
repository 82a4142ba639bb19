"""Replay: read receipts again, as this release reads them, and record what is new.

What a receipt has told before is known by its dedupe keys, so a replay of it changes nothing. It adds and never takes
back: an event that an older release read as another type stays beside the new one, and the status is the fold of both;
one of the same type keeps the reading it was recorded with. `Round.differing` counts these.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Count, QuerySet
from uuid_utils.compat import uuid7

from mailer import ledger
from mailer.ledger import Fact, Recorded
from mailer.models import DeliveryEvent
from webhooks import inbox, later, normal
from webhooks.models import WebhookReceipt
from webhooks.providers import Incoming

log = structlog.get_logger(__name__)
State = WebhookReceipt.State

# Receipts of one round.
BATCH: Final = 100
# Seconds after which a replay that somebody waits for begins nothing more, and its receipts between two looks at the
# clock. A rehearsal looks at a whole batch in one statement.
SECONDS: Final = 10.0
STEP: Final = 10
# Events that are rehearsed in one transaction, or those of one receipt where it has more.
EVENTS: Final = 5000
# What sorts before any receipt.
FIRST: Final = UUID(int=0)
# How far the clock that an id was made by, a process's, may be from the database's.
SKEW: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which receipts to replay: those that came from `since` on and before `until`. What is not given narrows nothing.

    Of these it is the ones after `after` and, unless they are named, up to `last`, by their ids: these count up with
    time.
    """

    ids: Sequence[UUID] | None = None
    providers: Sequence[str] = ()
    states: Sequence[str] = ()
    since: datetime | None = None
    until: datetime | None = None
    after: UUID = FIRST
    # What comes in while they are replayed is none of them.
    last: UUID = field(default_factory=uuid7)

    def receipts(self) -> QuerySet[WebhookReceipt]:
        """Return them, in no order."""
        # Who names receipts means those, also one that came a moment ago, by a clock that is ahead of ours.
        named: dict[str, Any] = {"pk__in": self.ids} if self.ids is not None else {"pk__lte": self.last}
        found = WebhookReceipt.objects.filter(pk__gt=self.after, **named)
        if self.providers:
            found = found.filter(provider__in=self.providers)
        if self.states:
            found = found.filter(state__in=self.states)
        # Ids count up with time: so the index that the rounds walk along narrows the time as well.
        if self.since:
            found = found.filter(received_at__gte=self.since, pk__gte=_first_id(self.since - SKEW))
        if self.until:
            found = found.filter(received_at__lt=self.until, pk__lt=_first_id(self.until + SKEW))
        return found

    def begin(self, most: int) -> tuple["Selection", bool]:
        """Narrow it to what is among the first so many receipts of its time; tell whether there are more.

        What looks for a provider reads all receipts of the time: this bounds it.
        """
        rows = replace(self, providers=(), states=()).receipts().order_by("pk").values_list("pk", flat=True)
        edge = list(rows[most - 1 : most + 1])
        return (replace(self, last=edge[0]), True) if len(edge) > 1 else (self, False)

    def counts(self) -> dict[str, int]:
        """Count them by provider and state."""
        groups = self.receipts().order_by("provider", "state").values_list("provider", "state")
        return {f"{provider} {state}": count for provider, state, count in groups.annotate(Count("pk"))}


def _first_id(time: datetime) -> UUID:
    """Return the least UUID of version 7 (RFC 9562) that can be made at a time."""
    return UUID(int=max(0, int(time.timestamp() * 1000)) << 80)


@dataclass(frozen=True, slots=True)
class Change:
    """A status that a replay has changed, or would change."""

    provider: str
    delivery_id: UUID
    old_status: str
    new_status: str


@dataclass(slots=True)
class Round:
    """What came of some receipts.

    `parked` are those of the new events whose delivery is not known. `differing` are events that are recorded already,
    and read otherwise now. `failures` has an error's name for each receipt that cannot be read or recorded. `last` is
    the last one that it looked at.
    """

    receipts: int = 0
    new_events: int = 0
    parked: int = 0
    differing: int = 0
    changes: list[Change] = field(default_factory=list)
    failures: dict[UUID, str] = field(default_factory=dict)
    last: UUID = FIRST

    def include(self, other: "Round") -> None:
        """Take another round, a later one, into this one."""
        self.receipts += other.receipts
        self.new_events += other.new_events
        self.parked += other.parked
        self.differing += other.differing
        self.changes += other.changes
        self.failures |= other.failures
        self.last = other.last

    def add(self, provider: str, recorded: Iterable[Recorded]) -> None:
        """Count the news of one provider."""
        changed: dict[UUID, Change] = {}
        for event in recorded:
            self.new_events += 1
            self.parked += event.delivery_id is None
            if event.delivery_id and event.new_status and event.old_status != event.new_status:
                changed[event.delivery_id] = Change(provider, event.delivery_id, event.old_status, event.new_status)
        self.changes += sorted(changed.values(), key=attrgetter("delivery_id"))


def replay(
    selection: Selection, *, dry_run: bool = False, batch: int | None = None, most: int | None = None
) -> Iterator[Round]:
    """Replay receipts in the order in which they came, a round of BATCH or so many at a time, `most` of them in all.

    One that fails is left as it was, and harms no other. A dry run says what would come of them, and writes nothing: it
    looks at each round as if it were the only one. Raises Django's errors where the database is away; what was replayed
    by then may be replayed again.
    """
    rows = selection.receipts().order_by("pk").values_list("pk", flat=True)
    size, last, left = batch or BATCH, selection.after, most
    while ids := list(rows.filter(pk__gt=last)[: size if left is None else min(size, left)]):
        yield from _rehearse(ids) if dry_run else [_replay(ids)]
        last, left = ids[-1], None if left is None else left - len(ids)


def replay_in_time(selection: Selection, *, dry_run: bool = False, most: int | None = None) -> tuple[Round, bool]:
    """Replay as many as may be while somebody waits, `most` at most; return what came of it, and whether that was all.

    Where it was not, what is left comes after `Round.last`. Raises what `replay` does.
    """
    total, end = Round(), time.monotonic() + SECONDS
    for done in replay(selection, dry_run=dry_run, batch=BATCH if dry_run else STEP, most=most):
        total.include(done)
        if total.receipts == most or time.monotonic() > end:
            return total, False
    return total, True


def _replay(identifiers: Iterable[UUID]) -> Round:
    done = Round()
    for identifier in identifiers:
        done.receipts += 1
        done.last = identifier
        try:
            receipt, facts, recorded = later.replay(identifier)
        except WebhookReceipt.DoesNotExist:
            continue  # deleted since it was found
        except Exception as error:  # as in `inbox.process`
            if inbox.is_away(error):
                raise
            done.failures[identifier] = type(error).__name__
            log.warning("receipt_failed", receipt_id=str(identifier), error_class=type(error).__name__)
            continue
        done.add(receipt.provider, recorded)
        done.differing += _differing(facts, recorded)
        if receipt.state == State.POISON:
            done.failures[identifier] = receipt.error
    return done


def _rehearse(identifiers: Iterable[UUID]) -> Iterator[Round]:
    done = Round()
    facts: dict[UUID, list[Fact]] = {}
    for identifier in identifiers:
        facts[identifier] = _read(identifier, done)
        done.receipts += 1
        done.last = identifier
        if sum(map(len, facts.values())) >= EVENTS:
            _look(facts, done)
            yield done
            done, facts = Round(), {}
    _look(facts, done)
    yield done


def _read(identifier: UUID, done: Round) -> list[Fact]:
    # One at a time: a body may have 10 MB.
    receipt = WebhookReceipt.objects.filter(pk=identifier).first()
    if receipt is None:
        return []
    try:
        contents = normal.read(receipt.provider, Incoming(receipt.headers, bytes(receipt.body)), receipt.pk)
    except Exception as error:  # noqa: BLE001  # as in `inbox.process`
        done.failures[identifier] = type(error).__name__
        return []
    if contents.unreadable and not contents.facts:
        done.failures[identifier] = ", ".join(sorted(set(contents.unreadable)))
    return contents.facts


def _look(facts: dict[UUID, list[Fact]], done: Round) -> None:
    """Record facts and take it back; where they cannot be recorded together, those of each receipt alone."""
    together = [fact for each in facts.values() for fact in each]
    try:
        # One statement for all of them takes its locks in the order that everyone takes them in.
        with transaction.atomic():
            recorded = ledger.record(together)
            transaction.set_rollback(True)
    except Exception as error:
        if inbox.is_away(error):
            raise
        if len(facts) == 1:
            done.failures[next(iter(facts))] = type(error).__name__
            return
        for identifier, own in facts.items():
            _look({identifier: own}, done)
        return
    done.differing += _differing(together, recorded)
    provider_of = {fact.dedupe_key: fact.provider for fact in together}
    for provider in sorted(set(provider_of.values())):
        done.add(provider, [event for event in recorded if provider_of[event.dedupe_key] == provider])


def _differing(facts: Iterable[Fact], recorded: Iterable[Recorded]) -> int:
    """Count the facts that were known, and were recorded with another status or reason."""
    new = {event.dedupe_key for event in recorded}
    read = {fact.dedupe_key: (fact.status or "", fact.category) for fact in facts if fact.dedupe_key not in new}
    known = DeliveryEvent.objects.filter(dedupe_key__in=list(read)).values_list("dedupe_key", "status", "category")
    return sum(read[key] != (status, category) for key, status, category in known)
