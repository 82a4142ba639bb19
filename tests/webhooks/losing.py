"""Ingestion that loses its database: at each line of ours, and at each moment of each question that it asks.

Importing this wants Django to be set up.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import product
from typing import Any

from tests.chaos.tracing import Countdown
from tests.webhooks.posting import LINES, Door, Found, Ingestion, spread
from tests.webhooks.wire import Blow, Database, Moment


class Strike(Countdown):
    """Does something else than killing the process when the countdown is over, which runs while it is `armed`."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        super().__init__(0, number, LINES)
        self._act = act
        self._is_armed = self.struck = False

    @contextmanager
    def armed(self) -> Iterator[None]:
        self._is_armed = True
        yield
        self._is_armed = False

    def _step(self, frame: Any, event: str, argument: Any) -> Any:
        if self._is_armed:
            super()._step(frame, event, argument)
        return self._step

    def strike(self, where: str) -> None:  # its number tells the line
        self.struck = True
        self._act()


def at_lines(database: Database, ingestion: Ingestion, points: int) -> Found:
    """Lose the database at about so many lines of ours (0: at each)."""

    def play(number: int) -> int:
        strike = Strike(number, database.lose)
        with strike.counting():
            _play(database, ingestion, number, strike.armed())
        ingestion.found.struck += strike.struck
        return strike.lines

    ingestion.found.steps = play(0)
    for number in spread(ingestion.found.steps, points):
        play(number)
    return ingestion.found


def at_questions(database: Database, ingestion: Ingestion, points: int) -> Found:
    """Lose the database at each moment of about so many questions (0: of each), and of each COMMIT."""
    wire, found = database.wire, ingestion.found

    def play(blow: Blow | None = None) -> None:
        _play(database, ingestion, blow, wire.counting(blow))
        found.struck += wire.struck

    play()
    found.steps = len(wire.questions)
    commits = {number for number, question in enumerate(wire.questions, 1) if b"COMMIT" in question}
    for number, moment in product(sorted({*commits, *spread(found.steps, points)}), Moment):
        play(Blow(number, moment))
    return found


def _play(database: Database, ingestion: Ingestion, step: object, struck: AbstractContextManager[None]) -> None:
    """Post to a process that has answered before, so that its connections are open; and again to the same."""
    door = Door()
    door.post(ingestion.provider, ingestion.known)

    def post(group: Any) -> list[int]:
        with struck:
            answers = door.post(ingestion.provider, group)
        database.mend()
        return answers

    ingestion.play(step, post, partial(door.post, ingestion.provider))
    door.close()


def strike(database: Database, points: int, only: Sequence[str]) -> Iterator[Found]:
    """Lose the database in every case that is among these."""
    ways = {"server": database.crash, "sessions": database.end_sessions}
    for (way, lose), (case, play) in product(ways.items(), {"lines": at_lines, "questions": at_questions}.items()):
        database.lose = lose
        for ingestion in Ingestion.all(f"{way} {case}", only):
            yield play(database, ingestion, points)
