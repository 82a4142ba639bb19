"""Enqueue the mails of users that were written without a signal."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from mailer import missing
from mailer.management.console import progress


class Command(BaseCommand):
    """Find users without their mails, and enqueue them."""

    help = (
        "Enqueue the mails that users miss after bulk_create or update, which tell nobody: the verification mail of an "
        "active user who is not verified and never got one, the welcome mail of one who was verified and never got "
        "one. Only of the last days, so that nobody who came from an older system is greeted now."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take how far to look back, and whether to count only."""
        parser.add_argument(
            "--days",
            type=float,
            default=7,
            metavar="N",
            help="users who joined, or were verified, in the last N days (default: %(default)s)",
        )
        parser.add_argument("--dry-run", action="store_true", help="count who misses what, and change nothing")

    def handle(self, *, days: float, dry_run: bool, **_: Any) -> None:
        """Count, or enqueue."""
        try:
            gaps = missing.gaps(days)
        except ValueError as error:
            raise CommandError(f"--days: {error}") from error
        for gap in gaps:
            users = gap.users.count()
            if not dry_run:
                self._fill(gap, users)
            elif users:
                self.stdout.write(f"{gap.kind}: {users} users miss it")
            else:
                self.stdout.write(f"{gap.kind}: nobody misses it")

    def _fill(self, gap: missing.Gap, users: int) -> None:
        mails = 0
        with progress(users, "users") as bar:
            for seen, enqueued in gap.fill():
                mails += enqueued
                bar.update(seen)
        self.stdout.write(f"{gap.kind}: {mails} mails enqueued")
