"""Claim, send over kept connections, record outcomes as they come.

Only the caller's thread speaks to the database and runs Anymail; couriers carry the bytes meanwhile. Intents and
outcomes are written in groups, as many as have come together. When a drain is killed, at most what was in flight is in
doubt.
"""

import functools
import gc
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final
from uuid import UUID

import structlog
from django.conf import settings
from django.db import DatabaseError, InterfaceError, transaction

from mailer import batches, couriers, letters, outbox, packing, providers, routing, threaded
from mailer.couriers import UNANSWERED, Ended, Request
from mailer.decisions import conclude, judged, put_back
from mailer.models import Message
from mailer.outbox import Claimed, Lane
from mailer.packing import Packed, Parcel, Room, unsent
from mailer.providers import PROVIDERS
from mailer.routing import Budget
from mailer.settling import Concluded, report, settle
from mailer.verdicts import Answer, Verdict, of_error

log = structlog.get_logger(__name__)
State = Message.State

# Seconds after which a drain looks for new messages, and for requests to give up, though none has ended.
LOOK_AROUND: Final = 0.5
# Seconds that a drain waits for a rate limit; what takes longer is for the next one.
LONGEST_PAUSE: Final = 1.0
# Seconds for which a drain lets ended requests gather, so that their outcomes cost one transaction; and for which it
# does where the last claim has left nothing that is due, so that no mail waits for it.
GATHER: Final = 0.01
LEISURE: Final = 0.05

# Seconds that a request has to leave, at the least.
LEAVE: Final = 5.0
# Threads for what is not reached over HTTP.
THREADS: Final = 16


def _always() -> bool:
    return True


def drain(keep_on: Callable[[], bool] = _always, shift: float = float("inf")) -> int:
    """Send all that is due, and return how many messages that was. Claims no more once `keep_on()` is false.

    After `shift` seconds it claims nothing of the bulk lane; what is urgent it does, while any of bulk is under way, so
    that it does not wait for a slow provider's answers.
    Waits for a rate limit, but returns where every provider is to be left alone. Safe to run in any number of
    processes. A database that is lost, or an error that nobody foresaw, such as one of a receiver of Anymail's signals,
    is raised once the other requests are settled.
    """
    _keep_what_is_loaded()
    return _Drain(shift).run(keep_on)


@functools.cache
def _keep_what_is_loaded() -> None:
    """Have the garbage collector not look at the code again and again: that is a tenth of what a mail costs."""
    gc.freeze()


class _Drain:
    """One run: what is under way, and what has come back."""

    def __init__(self, shift: float) -> None:
        self._end = time.monotonic() + shift
        self._courier = couriers.of_this_process()
        self._back: SimpleQueue[Ended[Parcel]] = SimpleQueue()
        self._under_way: dict[Parcel, Future[Any] | None] = {}
        self._errors: list[BaseException] = []
        self._taken = 0
        self._budget = Budget()
        # Until mail turns up that does not travel together: then no more is claimed than there are slots.
        self._in_batches = True
        # Whether the last claim has left nothing that is due.
        self._has_all = False

    def run(self, keep_on: Callable[[], bool]) -> int:
        def goes_on() -> bool:
            return keep_on() and not (self._is_over() and self._has_no_bulk())

        while True:
            try:
                # What has come back is settled first, also where claims go on that nothing can be sent of.
                while not self._errors and goes_on() and self._take() and self._back.empty():
                    pass
            except Exception as error:  # noqa: BLE001  # raised in the end; what is under way is settled before
                self._errors.append(error)
            if self._under_way:
                self._settle_what_came()
                self._abandon()
            elif self._errors:
                raise self._errors[0]
            elif not goes_on() or (pause := _pause(self._budget)) is None:
                return self._taken
            else:
                time.sleep(pause)

    def _is_over(self) -> bool:
        return time.monotonic() >= self._end

    def _has_no_bulk(self) -> bool:
        return all(parcel.lane is not Lane.BULK for parcel in self._under_way)

    # Going out

    def _take(self) -> bool:
        """Claim and send what there is room for; tell whether there may be more."""
        room, self._has_all = self._room(), False
        if room.free <= 0:
            return False
        self._budget = budget = routing.reserve(*self._wanted(room))
        try:
            claims = self._claim(room, budget)
            packed = _prepare(claims, budget, room)
        finally:
            budget.give_back()
        self._errors += packed.errors
        self._in_batches = self._in_batches and not packed.waiting
        for parcel in packed.parcels:
            try:
                self._send(parcel)
            except Exception as error:  # noqa: BLE001  # raised in the end; the other parcels shall leave
                self._errors.append(error)
                settle([(each.claim, conclude(each.claim, parcel.provider, unsent(error))) for each in parcel.letters])
        self._taken += len(claims) - len(packed.waiting)
        self._has_all = self._has_all and not packed.waiting
        # What comes after all is looked for once a request has ended, if one is under way.
        return bool(claims) and not (self._has_all and self._under_way)

    def _room(self) -> Room:
        """Return which slots are free. Half of all, and half of each provider's, are never the bulk lane's."""
        limits: dict[str, int] = settings.MAIL_CONCURRENCY_BY_PROVIDER
        free, bulk = settings.MAIL_CONCURRENCY, _half(settings.MAIL_CONCURRENCY)
        busy: Counter[str] = Counter()
        busy_with_bulk: Counter[str] = Counter()
        for parcel in self._under_way:
            is_bulk = parcel.lane is Lane.BULK
            free -= parcel.slots
            bulk -= parcel.slots * is_bulk
            busy[parcel.provider.name] += parcel.slots
            busy_with_bulk[parcel.provider.name] += parcel.slots * is_bulk
        names = {*settings.MAIL_PROVIDERS, *PROVIDERS.keys() & limits.keys()}
        return Room(
            free,
            bulk,
            {name: min(free, _limit(name) - busy[name]) for name in names},
            {name: min(bulk, _half(_limit(name)) - busy_with_bulk[name]) for name in names},
        )

    def _wanted(self, room: Room) -> tuple[dict[str, int], dict[str, int]]:
        """Return how many messages each provider may be given, and how many of the bulk lane, the preferred first."""
        names = sorted(room.at, key=_preference)
        return (
            {name: self._capacity(room.at[name], name) for name in names},
            {name: self._capacity(min(room.at[name], room.bulk_at[name]), name) for name in names},
        )

    def _capacity(self, slots: int, name: str) -> int:
        return packing.capacity(slots, providers.get(name)) if self._in_batches else max(0, slots)

    def _claim(self, room: Room, budget: Budget) -> list[Claimed]:
        """Lease what may go, the urgent lane first: as much as the slots hold of whom most of it goes through."""
        names = [name for name in settings.MAIL_PROVIDERS if budget.grants.get(name, 0) > 0] or settings.MAIL_PROVIDERS
        most = min(budget.total, self._capacity(room.free, names[0]))
        claims = outbox.claim(_owner(), most, Lane.URGENT)
        spare = self._capacity(min(room.free - len(claims), room.bulk), names[0])
        wanted = 0 if self._is_over() else min(most - len(claims), spare, sum(budget.bulk.values()))
        bulk = outbox.claim(_owner(), wanted, Lane.BULK)
        self._has_all = len(bulk) < wanted
        return claims + bulk

    def _send(self, parcel: Parcel) -> None:
        provider, mail = parcel.provider, parcel.letters[0].email
        if provider.over_http:
            self._courier.send(_request(parcel), parcel, self._back, _latest(parcel))
            self._under_way[parcel] = None
        else:
            send = partial(threaded.send, provider.backend, mail)
            self._under_way[parcel] = self._courier.work(send, parcel, self._back, _threads(), _latest(parcel))

    # Coming back

    def _settle_what_came(self) -> None:
        concluded: list[Concluded] = []
        batch_ids: list[UUID] = []
        heard: dict[str, list[list[Answer]]] = {}
        for came in self._gather():
            self._under_way.pop(came.about, None)
            if came.error and not isinstance(came.error, UNANSWERED):
                self._errors.append(came.error)
                continue
            answers = [
                judged(letter.claim, answer) for letter, answer in zip(came.about.letters, _answers(came), strict=True)
            ]
            heard.setdefault(came.about.provider.name, []).append(answers)
            concluded += [
                (claim, conclude(claim, came.about.provider, answer, is_kept=came.about.batch_id is not None))
                for claim, answer in zip(came.about.claims, answers, strict=True)
            ]
            if came.about.batch_id:
                batch_ids.append(came.about.batch_id)
        try:
            if concluded:
                settle(concluded)
            batches.answered(batch_ids)
            for name, requests in heard.items():
                report(name, requests, is_troubled=name in self._budget.troubled)
        except (DatabaseError, InterfaceError) as error:
            self._errors.append(error)

    def _gather(self) -> Iterator[Ended[Parcel]]:
        """Wait for a request to end, then for those that end with it."""
        try:
            yield self._back.get(timeout=LOOK_AROUND)
            if self._under_way:
                time.sleep(LEISURE if self._has_all else GATHER)
            while True:
                yield self._back.get_nowait()
        except Empty:
            return

    def _abandon(self) -> None:
        """Wait no longer for requests that have outlived their lease: the sweep sees to their messages.

        One that never got a thread was not made.
        """
        for parcel in [parcel for parcel in self._under_way if parcel.age() > settings.MAIL_LEASE_SECONDS]:
            future = self._under_way.pop(parcel)
            if future and future.cancel():
                answer = Answer(Verdict.NOT_SENT, error_class="no_free_thread")
                settle([(each.claim, conclude(each.claim, parcel.provider, answer)) for each in parcel.letters])
                continue
            for letter in parcel.letters:
                log.error("request_abandoned", message_id=str(letter.claim.message.pk), provider=parcel.provider.name)


def _prepare(claims: Sequence[Claimed], budget: Budget, room: Room) -> Packed:
    """Admit and pack what was claimed, settle what does not go now, and commit the intent for the rest."""
    admitted = packing.admit(claims, budget)
    packed = packing.pack(admitted, room)
    for claim in packed.waiting:
        budget.refund(claim.message.provider)
    # Due at once: the next claim is of no more than there are slots.
    back = [(claim, replace(put_back(claim, 0.0), delay=0.0)) for claim in packed.waiting]
    failed = [
        (claim, replace(outcome, facts=(*admitted.facts.get(claim.message.pk, ()), *outcome.facts)))
        for claim, outcome in packed.failed
    ]
    staying = admitted.refused + failed + back
    if staying:
        settle(staying)
    going = [claim for parcel in packed.parcels for claim in parcel.claims]
    if not going:
        return replace(packed, parcels=[])
    facts = [fact for claim in going for fact in admitted.facts.get(claim.message.pk, ())]
    batch_ids = {
        claim.message.pk: parcel.batch_id for parcel in packed.parcels if parcel.batch_id for claim in parcel.claims
    }
    with transaction.atomic():
        parcels = packing.granted(packed.parcels, outbox.intend(going, facts, batch_ids))
        for parcel in parcels:
            if parcel.batch_id:
                ids = [claim.message.pk for claim in parcel.claims]
                batches.keep(parcel.batch_id, parcel.provider.name, parcel.body, ids)
    return replace(packed, parcels=parcels)


def _request(parcel: Parcel) -> Request:
    if parcel.batch_id:
        return letters.request_under(str(parcel.batch_id), parcel.provider, parcel.body)
    return letters.request_for(parcel.provider, parcel.letters)


def _latest(parcel: Parcel) -> float:
    """Return when a request must have left, by the steady clock, so that it is over before its lease.

    A worker may be frozen, or the commit of its intent take a minute. Then its messages are in doubt, and others see to
    them; it must not send them as it thaws.
    """
    lease: float = settings.MAIL_LEASE_SECONDS
    return parcel.since + max(lease - parcel.provider.slowest, min(lease, LEAVE))


def _half(slots: int) -> int:
    """Return how many of so many slots may be the bulk lane's: of a single one, that one."""
    return max(1, slots // 2)


def _limit(name: str) -> int:
    """Return how many requests a provider may have under way: at most one a thread, where threads carry them."""
    most: int = settings.MAIL_CONCURRENCY_BY_PROVIDER.get(name, settings.MAIL_CONCURRENCY)
    provider = PROVIDERS.get(name)
    return most if provider is None or provider.over_http else min(most, THREADS)


def _threads() -> int:
    """Return how many threads carry mail: so many that no provider's wait for those of another."""
    return THREADS * max(1, sum(not PROVIDERS[name].over_http for name in settings.MAIL_PROVIDERS))


def _preference(name: str) -> int:
    preferred: list[str] = settings.MAIL_PROVIDERS
    return preferred.index(name) if name in preferred else len(preferred)


def _pause(budget: Budget) -> float | None:
    """Return for how many seconds to wait for a rate limit; None where it would be for long, or for nothing."""
    wait = min(budget.waits.values(), default=LONGEST_PAUSE + 1)
    return min(wait, LOOK_AROUND) if wait <= LONGEST_PAUSE and outbox.oldest_due() is not None else None


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"[:100]


def _answers(came: Ended[Parcel]) -> list[Answer]:
    """Return what a request's end says about each of its letters."""
    parcel = came.about
    if came.error:
        return [Answer(of_error(came.error), error_class=type(came.error).__name__)] * len(parcel.letters)
    if isinstance(came.result, Answer):
        return [letters.told(parcel.provider, parcel.letters[0], came.result)]
    if len(parcel.letters) > 1 or parcel.batch_id:
        return letters.answers_in(parcel.provider, parcel.letters, came.result)
    return [letters.answer_in(parcel.provider, parcel.letters[0], came.result)]
