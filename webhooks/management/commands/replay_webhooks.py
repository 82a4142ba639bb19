"""Read stored webhooks again."""

from argparse import ArgumentParser
from collections import Counter
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from mailer.management.console import confirm, listed, moment, progress
from webhooks import replaying
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS
from webhooks.replaying import Selection


class Command(BaseCommand):
    """Replay receipts, or say what that would change."""

    help = (
        "Read stored webhooks again, as this release reads them, and record what is new: after a release that reads "
        "what an older one could not, or after deliveries were lost and restored. Some, by their ids, or all that the "
        "options name together. What is known already changes nothing, and nothing is taken back. May be stopped and "
        "begun again at any time, and run beside itself. Suppressions and signals follow as when a webhook comes in."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take ids, or what to look for."""
        parser.add_argument("ids", nargs="*", type=UUID, metavar="ID", help="ids of receipts")
        parser.add_argument(
            "--provider",
            action="append",
            default=[],
            choices=sorted(WEBHOOKS),
            dest="providers",
            help="those of this provider; may be given more than once",
        )
        parser.add_argument(
            "--state",
            action="append",
            default=[],
            choices=sorted(WebhookReceipt.State.values),
            dest="states",
            help="those in this state; may be given more than once",
        )
        parser.add_argument(
            "--since",
            type=moment,
            metavar="TIME",
            help="those that came since, such as 2026-11-21 or 2026-11-21T14:00 (UTC)",
        )
        parser.add_argument("--until", type=moment, metavar="TIME", help="those that came before")
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="say which statuses would change, and change nothing; some hundred receipts at a time are looked at "
            "as if they were the only ones",
        )
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *, ids: list[UUID], dry_run: bool, yes: bool, **options: Any) -> None:
        """Count them, ask, and replay them."""
        chosen = {name: options[name] for name in ("providers", "states", "since", "until")}
        if bool(ids) == any(chosen.values()):
            raise CommandError("Name receipts by their ids, or by --provider, --state, --since and --until.")
        selection = Selection(ids=ids or None, **chosen)
        counts = selection.counts()
        self.stdout.write(f"Receipts: {listed(counts)}.")
        if lacking := len({*ids}) - sum(counts.values()) if ids else 0:
            raise CommandError(f"{lacking} of these ids are no receipts.")
        if counts and not dry_run:
            confirm(f"Replay {sum(counts.values())} receipts?", yes=yes)
        if counts:
            self._replay(selection, sum(counts.values()), dry_run=dry_run)

    def _replay(self, selection: Selection, total: int, *, dry_run: bool) -> None:
        """Show each change as it comes, then the totals. Raises `CommandError` where receipts failed."""
        changes: Counter[tuple[str, str, str]] = Counter()
        sums: Counter[str] = Counter()
        with progress(total, "receipts") as bar:
            for done in replaying.replay(selection, dry_run=dry_run):
                for change in done.changes:
                    changes[change.provider, change.old_status, change.new_status] += 1
                    self.stdout.write(
                        f"{change.provider} delivery {change.delivery_id}: {change.old_status} -> {change.new_status}"
                    )
                for identifier, error in done.failures.items():
                    self.stdout.write(f"receipt {identifier}: {error}")
                sums.update(
                    {"events": done.new_events, "parked": done.parked, "differing": done.differing},
                    failed=len(done.failures),
                )
                bar.update(done.receipts)
        for (provider, old, new), count in sorted(changes.items()):
            self.stdout.write(f"{provider}: {count} deliveries {old} -> {new}")
        self._sum_up(sums, dry_run=dry_run)

    def _sum_up(self, sums: Counter[str], *, dry_run: bool) -> None:
        would = "would be " if dry_run else ""
        self.stdout.write(f"{sums['events']} new events {would}recorded, {sums['parked']} of mails we do not know.")
        if sums["differing"]:
            self.stdout.write(f"{sums['differing']} events are known, and read otherwise now: they stay as they are.")
        if sums["failed"]:
            raise CommandError(f"{sums['failed']} receipts cannot be read or recorded.")
