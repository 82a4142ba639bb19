"""From claims to parcels: who may get a message, through whom, what it says, and what travels together."""

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Final
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from uuid_utils.compat import uuid7

from mailer import kinds, letters, suppressions
from mailer.decisions import conclude, ended, is_repeatable, put_back, told_of
from mailer.exceptions import FileUnavailable, MailerError, RenderError
from mailer.ledger import Fact
from mailer.letters import Letter, Unsendable
from mailer.models import DeliveryStatus, Message
from mailer.outbox import Claimed, Lane, Outcome, Recipient
from mailer.providers import Provider
from mailer.routing import Budget, NoneFree
from mailer.settling import Concluded
from mailer.verdicts import Answer, Verdict

State = Message.State

# Letters that are worth a batch.
ENOUGH: Final = 10
# Characters that a letter in a batch has at most, so that as many as may travel together weigh no more than they may.
SMALL: Final = 100_000
# Characters that the letters of one round weigh, and the part of a lease that writing them may take: of large files, or
# where these come slowly, two hundred would be too much for a process, or be over before they leave.
HEAVY: Final = 32_000_000
HASTE: Final = 0.25
# Slots that a batch takes: it puts many messages in doubt at once, so that only a few may be under way.
BATCH_SLOTS: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class Parcel:
    """One request: the letters it carries, and since when, by this process's steady clock.

    A batch for which one key holds has that as its id, and its body is as it is kept (`mailer.batches`).
    """

    provider: Provider
    letters: tuple[Letter, ...]
    lane: Lane
    batch_id: UUID | None = None
    body: str = ""
    since: float = field(default_factory=time.monotonic)

    @property
    def slots(self) -> int:
        """How many of a process's slots it takes."""
        return 1 if len(self.letters) == 1 else BATCH_SLOTS

    @property
    def claims(self) -> list[Claimed]:
        """The messages it carries."""
        return [letter.claim for letter in self.letters]

    def age(self) -> float:
        """Return the seconds since it left."""
        return time.monotonic() - self.since


@dataclass(slots=True)
class Room:
    """Slots that are free: in all, for the bulk lane, and the same at each provider."""

    free: int
    bulk: int
    at: dict[str, int]
    bulk_at: dict[str, int]

    def take(self, parcel: Parcel) -> bool:
        """Take the slots of a parcel, and tell whether they were free."""
        name, is_bulk = parcel.provider.name, parcel.lane is Lane.BULK
        room = min(self.free, self.at.get(name, self.free))
        if parcel.slots > (min(room, self.bulk, self.bulk_at.get(name, self.bulk)) if is_bulk else room):
            return False
        self.at[name] = self.at.get(name, self.free) - parcel.slots
        self.free -= parcel.slots
        if is_bulk:
            self.bulk_at[name] = self.bulk_at.get(name, self.bulk) - parcel.slots
            self.bulk -= parcel.slots
        return True


@dataclass(frozen=True, slots=True)
class Admitted:
    """What may go, through whom; what is told of recipients that are left out; what goes nowhere now."""

    providers: dict[UUID, Provider] = field(default_factory=dict)
    claims: list[Claimed] = field(default_factory=list)
    facts: dict[UUID, tuple[Fact, ...]] = field(default_factory=dict)
    refused: list[Concluded] = field(default_factory=list)


def capacity(slots: int, provider: Provider) -> int:
    """Return how many messages a provider can be given with this many slots."""
    size = _batch_size(provider)
    if slots < BATCH_SLOTS or size < ENOUGH:
        return max(0, slots)
    return max(slots, size)


def admit(claims: Sequence[Claimed], budget: Budget) -> Admitted:
    """Leave out who is suppressed, choose the provider and render what is not rendered yet."""
    admitted = Admitted()
    reasons = suppressions.standing({each.canonical for claim in claims for each in claim.recipients})
    found = kinds.gather([claim.message for claim in claims if not claim.message.content])
    for whole in claims:
        suppressed = {
            each: why
            for each in whole.recipients
            if (why := reasons.get(each.canonical, frozenset()) - kinds.rules_of(whole.message.kind).despite)
        }
        # What may have been accepted is repeated as it was.
        if whole.doubted_for is not None and not whole.is_disproved:
            suppressed = {}
        claim = replace(whole, recipients=tuple(each for each in whole.recipients if each not in suppressed))
        facts = tuple(_told_of_suppression(each, whole, why) for each, why in suppressed.items())
        try:
            provider = _route(claim, budget)
            claim.message.provider = provider.name
            claim.message.content = claim.message.content or kinds.render(claim.message, found)
        except _Refused as refused:
            admitted.refused.append((claim, replace(refused.outcome, facts=(*facts, *refused.outcome.facts))))
        except RenderError as error:
            outcome = ended(claim, State.DEAD, "does_not_render", str(error))
            admitted.refused.append((claim, replace(outcome, facts=(*facts, *outcome.facts))))
        else:
            admitted.providers[claim.message.pk] = provider
            admitted.claims.append(claim)
            if facts:
                admitted.facts[claim.message.pk] = facts
    return admitted


def _told_of_suppression(recipient: Recipient, claim: Claimed, reasons: Collection[str]) -> Fact:
    """Return what is told of a recipient that is left out.

    A search has ruled out what was tried before, but when it is complete is a guess: so a report that it has arrived
    must outrank this.
    """
    event_type = "cancelled" if claim.is_disproved else "suppressed"
    return told_of(recipient, claim, event_type, ", ".join(sorted(reasons)))


def _with_nobody_left(claim: Claimed) -> str:
    """Return how a message ends that nobody is left to send to: by what became of its recipients."""
    told = DeliveryStatus.objects.filter(message_id=claim.message.pk)
    if told.filter(sent_at__isnull=False).exists():
        return State.SENT
    return State.SUPPRESSED if told.exclude(recipient="").exists() else State.CANCELLED


class _Refused(MailerError):
    """A claim that does not go now, with what follows."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.error_class)
        self.outcome = outcome


def _route(claim: Claimed, budget: Budget) -> Provider:
    if not claim.recipients:
        state = _with_nobody_left(claim)
        raise _Refused(ended(claim, state, "" if state == State.SENT else state))
    doubted = claim.doubted_for is not None
    try:
        provider = budget.route(claim.message, is_bulk=Lane.of(claim.message.priority) is Lane.BULK)
    except NoneFree as none:
        raise _Refused(put_back(claim, none.wait)) from none
    except MailerError as error:
        raise _Refused(ended(claim, State.UNKNOWN if doubted else State.DEAD, "not_routable", str(error))) from error
    if doubted and provider.key and not is_repeatable(claim, provider):
        raise _Refused(ended(claim, State.UNKNOWN, "key_expired"))
    return provider


@dataclass(frozen=True, slots=True)
class Packed:
    """What is ready to leave, what there is no room for, what cannot be written.

    And errors that nobody foresaw: of a receiver of a signal.
    """

    parcels: list[Parcel] = field(default_factory=list)
    waiting: list[Claimed] = field(default_factory=list)
    failed: list[Concluded] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)


def pack(admitted: Admitted, room: Room) -> Packed:
    """Have the letters written, and put together what may travel together, as far as there is room for it."""
    written: list[tuple[Provider, Letter]] = []
    packed = Packed()
    weight, end = 0, time.monotonic() + HASTE * settings.MAIL_LEASE_SECONDS
    for claim in admitted.claims:
        if written and (weight >= HEAVY or time.monotonic() >= end):
            packed.waiting.append(claim)
            continue
        provider = admitted.providers[claim.message.pk]
        try:
            letter = letters.write(provider, claim)
            weight += len(letter.parameters.get("data") or "")
            written.append((provider, letter))
        except Unsendable as error:
            packed.failed.append((claim, conclude(claim, provider, Answer(Verdict.PERMANENT, error_class=str(error)))))
        except (FileUnavailable, ImproperlyConfigured) as error:
            packed.failed.append((claim, conclude(claim, provider, unsent(error))))
        except Exception as error:  # noqa: BLE001  # the drain raises it in the end; its neighbours shall not wait
            packed.failed.append((claim, conclude(claim, provider, unsent(error))))
            packed.errors.append(error)
    for (lane, _), group in groupby(sorted(written, key=_companions), key=_companions):
        together = list(group)
        provider = together[0][0]
        for each in _split(provider, [letter for _, letter in together]):
            is_keyed = len(each) > 1 and provider.batch is not None and provider.batch.keyed is not None
            parcel = Parcel(provider, each, Lane(lane), batch_id=uuid7() if is_keyed else None)
            if room.take(parcel):
                packed.parcels.append(parcel)
            else:
                packed.waiting.extend(parcel.claims)
    return packed


def granted(parcels: Iterable[Parcel], claims: Iterable[Claimed]) -> list[Parcel]:
    """Return these parcels without the letters whose claim is not among those that may go."""
    going = {claim.message.pk for claim in claims}
    left = [
        replace(each, letters=tuple(one for one in each.letters if one.claim.message.pk in going)) for each in parcels
    ]
    return [_sealed(parcel) for parcel in left if parcel.letters]


def _sealed(parcel: Parcel) -> Parcel:
    if parcel.batch_id is None or parcel.provider.batch is None:
        return parcel
    return replace(parcel, body=letters.joined(parcel.provider.batch, parcel.letters))


def unsent(error: Exception) -> Answer:
    """Return what is known of a request that an error of our own kept from leaving."""
    return Answer(Verdict.NOT_SENT, error_class=type(error).__name__)


def _companions(written: tuple[Provider, Letter]) -> tuple[int, str]:
    provider, letter = written
    return Lane.of(letter.claim.message.priority), provider.name


def _split(provider: Provider, together: Sequence[Letter]) -> Iterator[tuple[Letter, ...]]:
    """Part letters into those that travel in batches and those that go alone: a repeat always does."""
    fit = [each for each in together if _fits(provider, each)]
    size = _batch_size(provider)
    if size < ENOUGH or len(fit) < ENOUGH:
        fit = []
    for start in range(0, len(fit), size):
        yield tuple(fit[start : start + size])
    alone = set(map(id, fit))
    yield from ((each,) for each in together if id(each) not in alone)


def _batch_size(provider: Provider) -> int:
    """Return how many letters one request may carry, each as heavy as one in a batch may be."""
    if provider.batch is None:
        return 1
    return min(provider.batch.most, provider.batch.largest // SMALL, settings.MAIL_BATCH_SIZE)


def _fits(provider: Provider, letter: Letter) -> bool:
    """Tell whether a letter may travel with others: first attempts of what is small.

    What may have been accepted, or was at hand when a worker died, goes alone: so it can harm itself only, and has the
    key that it had before.
    """
    message = letter.claim.message
    return bool(
        provider.batch
        and (provider.key is None or provider.batch.keyed)
        and message.attempts == message.crashes == 0
        and letter.claim.doubted_for is None
        and len(letter.parameters["data"]) <= SMALL
        and provider.batch.fits(letter.payload)
    )
