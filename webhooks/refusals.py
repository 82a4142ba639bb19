"""Requests that were refused, counted for the whole fleet: every SQL that moves a `RefusalCount`.

Anyone can be refused as often as he likes, so what that costs is bounded: a process writes at most once a second, and
brings along what it has refused meanwhile. What the last second of a burst refused is written with the next refusal,
and lost with its process.
"""

import threading
import time
from collections import Counter
from typing import Final

import structlog
from django.db import Error as DatabaseError
from django.db import connection

from webhooks.models import RefusalCount

log = structlog.get_logger(__name__)

# Seconds between two writes of a process.
PAUSE: Final = 1.0


class Tally:
    """What a process has refused and not written yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: Counter[tuple[str, str, int]] = Counter()
        self._next = 0.0

    def add(self, provider: str, reason: str, code: int) -> None:
        """Count one."""
        with self._lock:
            self._waiting[provider, reason, code] += 1

    def take(self, now: float) -> Counter[tuple[str, str, int]]:
        """Return what is to be written at a time, in seconds: nothing until `PAUSE` has passed since the last time."""
        with self._lock:
            if now < self._next:
                return Counter()
            self._next = now + PAUSE
            taken, self._waiting = self._waiting, Counter()
            return taken

    def give_back(self, taken: Counter[tuple[str, str, int]]) -> None:
        """Let what could not be written wait for the next time."""
        with self._lock:
            self._waiting += taken


_tally: Final = Tally()


def count(provider: str, code: int, reason: str) -> None:
    """Count a refusal, and write what is due. Without the database it waits: whoever was refused gets his answer."""
    _tally.add(provider, reason[:100], code)
    taken = _tally.take(time.monotonic())
    if not taken:
        return
    try:
        _write(taken)
    except DatabaseError as error:
        _tally.give_back(taken)
        log.warning("refusals_not_counted", error_class=type(error).__name__)


def _write(taken: Counter[tuple[str, str, int]]) -> None:
    """Add counts to those of the other processes. In the order of the keys, so that two never wait for each other."""
    rows = sorted(taken.items())
    with connection.cursor() as cursor:
        cursor.execute(
            _ADD,
            [
                [provider for (provider, _, _), _ in rows],
                [reason for (_, reason, _), _ in rows],
                [code for (_, _, code), _ in rows],
                [number for _, number in rows],
            ],
        )


_TABLE: Final = RefusalCount._meta.db_table

_ADD: Final = f"""
INSERT INTO {_TABLE} AS r (provider, reason, code, count)
SELECT * FROM unnest(%s::text[], %s::text[], %s::int[], %s::bigint[])
ON CONFLICT (provider, reason) DO UPDATE SET count = r.count + excluded.count, last_at = statement_timestamp()"""
