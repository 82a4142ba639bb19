"""How far a run is, on stderr: bars at a terminal, a line now and then elsewhere."""

import sys
import threading
import time
from contextlib import AbstractContextManager
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

# Seconds between two lines where there is no terminal.
NOW_AND_THEN: Final = 15.0


class Progress(AbstractContextManager["Progress"]):
    """Counts what is done of what is to do, by name. Safe to call from any thread."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Bars(*columns, console=self._console, disable=not self._console.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._counts: dict[str, list[int]] = {}
        self._lock = threading.Lock()
        self._said = time.monotonic()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """Write a line that stays."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def add(self, name: str, to_do: int, done: int) -> None:
        """Count more to do, and more done."""
        with self._lock:
            count = self._counts.setdefault(name, [0, 0])
            count[0] += done
            count[1] += to_do
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=None)
            self._bars.update(self._tasks[name], completed=count[0], total=count[1])
            if self._bars.disable and time.monotonic() > self._said + NOW_AND_THEN:
                self._said = time.monotonic()
                self.say(", ".join(f"{each} {of[0]}/{of[1]}" for each, of in self._counts.items()))
