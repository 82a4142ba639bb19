"""What is told, and when: of mails that were accepted by their addresses, of any mail as somebody asks."""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime

import orjson

from simulator.behaviour import BEHAVIOURS, UNTOLD, behaviour_of
from simulator.faults import Dice
from simulator.log import Hook, State
from simulator.mail import Mail
from simulator.reports import REPORTS, Happening, Reports
from simulator.reports.base import Event

Told = tuple[Happening, Event]


class Planner:
    """Makes webhooks of what happens; they wait for nothing but to be logged and posted.

    ``told`` are the providers that have an address to post to; ``number`` gives each webhook its number in the log.
    """

    def __init__(
        self, number: Callable[[], int], told: Collection[str], time_scale: float = 1.0, *, on: bool = True
    ) -> None:
        self._number, self._told, self._scale, self._on = number, told, time_scale, on

    def follow(self, mails: Iterable[Mail], dice: Dice) -> list[Hook]:
        """List every webhook that will follow from mails, each due when it happens or as faults shift it."""
        if not self._on:
            return []
        return [hook for mail in mails if mail.provider in REPORTS for hook in self._follow(mail, dice)]

    def _follow(self, mail: Mail, dice: Dice) -> list[Hook]:
        accepted_at, scale = mail.accepted_at.timestamp(), 0 if dice.faults.webhook_early else self._scale
        reports = REPORTS[mail.provider]
        hooks: list[Hook] = []
        once: set[str] = set()
        for recipient in mail.recipients:
            behaviour = behaviour_of(recipient)
            state: State = "pending" if behaviour != UNTOLD and mail.provider in self._told else "withheld"
            for step in BEHAVIOURS[behaviour]:
                if step.word in once:
                    continue
                once |= reports.once & {step.word}
                at = accepted_at + step.after * scale
                happened = Happening(mail, recipient, step.word, datetime.fromtimestamp(at, UTC))
                hooks += [self._hook(reports, [told], at, dice, state) for told in _told_of(reports, happened)]
        if dice.faults.webhook_shuffle:
            _shuffle(hooks, dice)
        return hooks

    def report(self, happened: Sequence[Happening], batch: int, dice: Dice) -> list[Hook]:
        """List the webhooks that tell of some happenings to one provider's mails, due now or as faults shift them.

        Up to ``batch`` events go in one where the provider does so at all. Raises KeyError for a word of which it tells
        nothing.
        """
        reports, now = REPORTS[happened[0].mail.provider], time.time()
        told = [each for happening in happened for each in _told_of(reports, happening, strictly=True)]
        if dice.faults.webhook_shuffle:
            dice.random.shuffle(told)
        size = max(min(batch, reports.batch), 1)
        parts = [told[start : start + size] for start in range(0, len(told), size)]
        return [self._hook(reports, part, now, dice) for part in parts]

    def _hook(self, reports: Reports, told: Sequence[Told], due: float, dice: Dice, state: State = "pending") -> Hook:
        happened = [happening for happening, _ in told]
        return Hook(
            seq=self._number(),
            id=reports.new_id(),
            mail=happened[0].mail.seq,
            provider=reports.name,
            event=_joined(reports.kind(event) for _, event in told),
            recipient=_joined(happening.recipient for happening in happened),
            happened_at=min(happening.at for happening in happened).timestamp(),
            due=due + _lateness(dice),
            body=orjson.dumps(reports.whole([event for _, event in told])).decode(),
            times=2 if dice.hit("webhook_duplicate") else 1,
            forged=dice.hit("webhook_forged"),
            state=state,
        )


def _told_of(reports: Reports, happened: Happening, *, strictly: bool = False) -> list[Told]:
    builds = reports.events[happened.word] if strictly else reports.events.get(happened.word, ())
    return [(happened, build(happened)) for build in builds]


def _joined(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _lateness(dice: Dice) -> float:
    faults = dice.faults
    if faults.webhook_early:
        return 0
    jitter = dice.random.uniform(0, faults.webhook_late_ms) if faults.webhook_late_ms else 0
    return (faults.webhook_delay_ms + jitter) / 1000


def _shuffle(hooks: list[Hook], dice: Dice) -> None:
    """Deal the due times out anew, so that later news may come first; what happened when stays true."""
    dues = [hook.due for hook in hooks]
    while len(set(dues)) > 1 and dues == [hook.due for hook in hooks]:
        dice.random.shuffle(dues)
    for hook, due in zip(hooks, dues, strict=True):
        hook.due = due
