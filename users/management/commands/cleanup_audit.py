"""Forget what happened to accounts long ago."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from users import audit


class Command(BaseCommand):
    """Delete old entries of the audit, in small batches."""

    help = (
        "Delete the entries of the audit after some days. Runs daily by beat; may be stopped at any time. Entries of "
        f"the last {audit.MIN_DAYS} days cannot be deleted: the database refuses."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take another age than the setting's."""
        parser.add_argument("--days", type=float, metavar="N", help="delete after N days (default: AUDIT_DAYS)")

    def handle(self, *, days: float | None, **_: Any) -> None:
        """Delete, and say how many."""
        age = settings.AUDIT_DAYS if days is None else days
        if not age >= audit.MIN_DAYS:  # also true of NaN
            raise CommandError(f"Entries are kept for {audit.MIN_DAYS} days at least.")
        self.stdout.write(f"audit entries: {sum(audit.forget(age))}")
