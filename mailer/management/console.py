"""What the commands share: how they ask, and how they show that they get on."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandError
from django.db import InterfaceError, OperationalError, connection
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

# Seconds between two looks at what is left.
LOOK = 0.5


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless `yes` was said already. Raises `CommandError` for any answer but y, and where nobody can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{question} Say --yes where nobody can answer.")
    if input(f"{question} [y/N] ").strip().casefold() not in {"y", "yes"}:
        raise CommandError("Nothing was done.")


@contextmanager
def heeding() -> Iterator[threading.Event]:
    """Take SIGTERM and Ctrl-C for a wish to end soon, which sets the event, until the block ends.

    What is under way then can be settled; else it would be in doubt. In another thread than the main one, which no
    signal reaches, nothing sets it.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress(total: int, unit: str) -> Iterator["tqdm[Any]"]:
    """Show a progress bar on stderr, below the log, or nothing where stderr is no terminal."""
    with (
        tqdm(total=total, unit=f" {unit}", file=sys.stderr, disable=not sys.stderr.isatty()) as bar,
        ExitStack() as log,
    ):
        if not bar.disable:
            log.enter_context(logging_redirect_tqdm())
        yield bar


@contextmanager
def following(left: Callable[[], int], unit: str) -> Iterator[None]:
    """Show a bar while a block works off what `left` counts; a thread with a database connection of its own looks."""
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    total = left()
    with progress(total, unit) as bar:

        def look() -> None:
            # What is lost for the bar is lost for the block as well, which says so.
            with suppress(OperationalError, InterfaceError):
                while not ended.wait(LOOK):
                    _show(bar, total - left())
            connection.close()

        watcher = threading.Thread(target=look, name="progress")
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
        _show(bar, total - left())


def _show(bar: "tqdm[Any]", done: int) -> None:
    bar.n = max(0, done)
    bar.refresh()


def listed(counts: Mapping[str, int]) -> str:
    """Return counts as a reader likes them: `3 dead, 1 unknown`; zeros are left out."""
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


# Days that a command takes, a thousand years: before and after them PostgreSQL's and Python's time ends.
MOST_DAYS = 365_000


def days(text: str) -> float:
    """Read a number of days. Raises `ValueError` for what is none, or for too many; argparse names this function."""
    number = float(text)
    if not 0 <= number <= MOST_DAYS:
        raise ValueError
    return number


def seconds(text: str) -> float:
    """Read a number of seconds, more than 0. Raises `ValueError`; argparse names this function."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def moment(text: str) -> datetime:
    """Read a time in ISO 8601, in UTC unless it says otherwise. Raises `ValueError`; argparse names this function."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
