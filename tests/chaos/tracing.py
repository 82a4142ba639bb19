"""A process that dies at one exact line."""

import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from types import CodeType, FrameType
from typing import Any

from tests.chaos.ground import ROOT

# Whose lines are points: the service's own code.
TRACED = tuple(f"{ROOT / app}{os.sep}" for app in ("api", "mailer", "users", "webhooks"))
# Seconds after which a child that neither ends nor dies is taken to hang.
HANGS = 60


@dataclass(frozen=True)
class Ended:
    """How a forked operation ended: `lines` it was traced for, and `where` it was killed, if it was."""

    lines: int
    where: str

    @property
    def killed(self) -> bool:
        return bool(self.where)


class Countdown:
    """Counts the lines of traced code, in all threads together, and kills the process at one of them."""

    def __init__(self, report: int, kill_at: int, traced: tuple[str, ...] = TRACED) -> None:
        self._report = report
        self._kill_at = kill_at
        self._traced = traced
        self._numbers = count(1)
        self._is_traced: dict[CodeType, bool] = {}
        self.lines = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Trace this thread, and those that it starts, in here."""
        threading.settrace(self._enter)
        sys.settrace(self._enter)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]  # None ends it

    def _enter(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        code = frame.f_code
        if code not in self._is_traced:
            self._is_traced[code] = code.co_filename.startswith(self._traced)
        return self._step if self._is_traced[code] else None

    def _step(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            self.lines = next(self._numbers)
            if self.lines == self._kill_at:
                self.strike(f"{os.path.relpath(frame.f_code.co_filename, ROOT)}:{frame.f_lineno}")
        return self._step

    def strike(self, where: str) -> None:
        """Kill the process, having reported where."""
        os.write(self._report, f"{self.lines} {where}".encode())
        os.kill(os.getpid(), signal.SIGKILL)


def spawn(act: Callable[[], None]) -> int:
    """Run `act` in a child, and return its number at once."""
    child = os.fork()
    if child == 0:
        _be_the_child(act)
    return child


def forked(act: Callable[[Countdown], None], kill_at: int = 0, traced: tuple[str, ...] = TRACED) -> Ended:
    """Run `act` in a child that dies at its `kill_at`-th line of what is traced; 0 lets it live, and counts them.

    Raises `RuntimeError` where it failed, or hung, before that.
    """
    reading, writing = os.pipe()

    def counted() -> None:
        countdown = Countdown(writing, kill_at, traced)
        act(countdown)
        os.write(writing, str(countdown.lines).encode())

    child = spawn(counted)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines, _, where = pipe.read().partition(" ")
    code = ended(child)
    if code == 0:
        where = ""  # another thread was faster to end the process than the kill was
    elif code != -signal.SIGKILL or not where:
        raise RuntimeError(f"the operation ended with {code} before its point {kill_at}")
    return Ended(int(lines), where)


def ended(child: int) -> int:
    """Wait for a child; return its exit code, -n where signal n ended it."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _be_the_child(act: Callable[[], None]) -> None:
    """Act, and leave without any cleaning up that is the parent's. Never returns."""
    signal.alarm(HANGS)
    random.seed()  # else every child of one parent draws the same
    code = 1
    try:
        act()
        code = 0
    except BaseException:  # noqa: BLE001  # whatever it is, the parent hears of it by the exit code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
