"""Send what is due, once."""

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from mailer import checks, doubts, operators, sender, sweeping
from mailer.management.console import following, heeding


class Command(BaseCommand):
    """Sweep, drain and end: for cron, or to empty the outbox by hand. Runs beside workers and relay.

    Ends sooner on SIGTERM or Ctrl-C, once what is under way is settled.
    """

    help = (
        "Send all mail that is due, then exit: for cron, or by hand where no worker and no relay runs. "
        "Any number may run at once."
    )

    # Cron starts it often; the others load all URLs with what stands behind them.
    requires_system_checks = (checks.TAG,)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take a time limit."""
        parser.add_argument(
            "--seconds",
            type=float,
            default=float("inf"),
            metavar="N",
            help="take no more messages after N seconds (default: until none is due)",
        )

    def handle(self, *, seconds: float, **_: Any) -> None:
        """Send, and say how many messages were taken and how many are due still."""
        end = time.monotonic() + seconds
        with heeding() as stop:

            def keep_on() -> bool:
                return not stop.is_set() and time.monotonic() < end

            sweeping.sweep()
            while keep_on() and doubts.resolve():
                pass
            with following(operators.due().count, "messages"):
                taken = sender.drain(keep_on)
        self.stdout.write(f"{taken} messages taken, {operators.due().count()} due.")
