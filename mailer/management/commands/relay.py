"""The relay: sweeps and sends without any broker."""

import threading
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import structlog
from django.core.management.base import BaseCommand
from django.db import connection

from mailer import doubts, outbox, sender, sweeping
from mailer.exceptions import DATABASE_LOST
from mailer.management.console import heeding, seconds

log = structlog.get_logger(__name__)

# Seconds before the database is tried again.
DATABASE_DOWN = 2.0
# What the sweep reads for a second at a time, of which there may be more than can wait for the next one.
READING = "receipts"
# Seconds before it goes on after an error that nobody foresaw.
STUMBLED = 1.0


class Command(BaseCommand):
    """Listen for new messages, sweep at intervals, send what is due. Any number may run; ends on SIGTERM or Ctrl-C."""

    help = "Send mail without a broker: listen for new messages, sweep, drain. Any number may run at once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the interval."""
        parser.add_argument(
            "--interval",
            type=seconds,
            default=5.0,
            metavar="SECONDS",
            help="the longest time between two sweeps (default: %(default)s)",
        )
        parser.add_argument(
            "--alive-file", type=Path, metavar="FILE", help="touch FILE at every sweep, for a health check to look at"
        )
        parser.add_argument("--once", action="store_true", help="sweep and drain once, then exit")

    def handle(self, *, interval: float, once: bool, alive_file: Path | None, **_: Any) -> None:
        """Run until told to stop."""
        if once:
            _tidy()
            sender.drain()
            return
        with heeding() as stop:
            log.info("relay_started", interval=interval)
            self._serve_until(stop, interval, alive_file)
        log.info("relay_stopped")

    def _serve_until(self, stop: threading.Event, interval: float, alive_file: Path | None) -> None:
        while not stop.is_set():
            try:
                self._serve(stop, interval, alive_file)
            except DATABASE_LOST as error:
                log.warning("database_lost", error_class=type(error).__name__)
                connection.close()
                stop.wait(DATABASE_DOWN)
            except Exception:
                # One that nobody foresaw, about one message perhaps: all the others are waiting.
                log.exception("relay_failed")
                stop.wait(STUMBLED)

    @staticmethod
    def _serve(stop: threading.Event, interval: float, alive_file: Path | None) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"LISTEN {outbox.CHANNEL}")
        session = connection.connection
        while not stop.is_set():
            moved = _tidy()
            if alive_file:
                alive_file.touch()
            if not _drain_for(interval, stop) or READING in moved:
                continue  # there may be more to send, or to read, but the sweep comes first
            for _ in range(max(1, round(interval / 0.5))):
                # Short waits, so that a signal to stop is heeded soon.
                if stop.is_set() or _notified(session):
                    break


def _tidy() -> dict[str, int]:
    """Sweep, and look into some of the doubts: the rest has time until the next round. Return what the sweep moved."""
    moved = sweeping.sweep()
    doubts.resolve()
    return moved


def _drain_for(seconds: float, stop: threading.Event) -> bool:
    """Send what is due, for a while at most; tell whether that was all."""
    end = time.monotonic() + seconds
    sender.drain(lambda: not stop.is_set(), seconds)
    return time.monotonic() < end


def _notified(session: Any) -> bool:
    """Wait for a notification, for half a second at most. Raises Django's errors where the connection is lost."""
    with connection.wrap_database_errors:
        return bool(list(session.notifies(timeout=0.5, stop_after=1)))
