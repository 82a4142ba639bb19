"""Forget what providers reported and is kept no longer."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from mailer.management.console import days, listed, progress
from webhooks import retention
from webhooks.providers import KEY_DAYS, NONCE_DAYS


class Command(BaseCommand):
    """Apply the rules of `webhooks.retention`, in small batches."""

    help = (
        "Delete the raw webhooks of providers after some days, the events they reported after more, and the names that "
        "their requests came under. Deliveries keep their statuses and counters. What waits to be tried again is never "
        "touched. Runs daily by beat, and a little with every sweep; may be stopped at any time."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take other ages than the settings', and whether to count only."""
        parser.add_argument("--dry-run", action="store_true", help="count what would go, and change nothing")
        for what, setting in (
            ("receipt", "WEBHOOK_RECEIPT_DAYS"),
            ("event", "WEBHOOK_EVENT_DAYS"),
            ("nonce", "WEBHOOK_NONCE_DAYS"),
        ):
            parser.add_argument(
                f"--{what}-days", type=days, metavar="N", help=f"delete {what}s after N days (default: {setting})"
            )

    def handle(
        self,
        *,
        dry_run: bool,
        receipt_days: float | None,
        event_days: float | None,
        nonce_days: float | None,
        **_: Any,
    ) -> None:
        """Count, then forget."""
        receipts = settings.WEBHOOK_RECEIPT_DAYS if receipt_days is None else receipt_days
        events = settings.WEBHOOK_EVENT_DAYS if event_days is None else event_days
        if events < receipts + KEY_DAYS:
            raise CommandError(
                f"By its events a webhook that comes again is known: {events:g} days are fewer than {receipts:g} and"
                f" {KEY_DAYS:g} more."
            )
        if nonce_days is not None and nonce_days < NONCE_DAYS:
            raise CommandError(f"Signatures are taken for longer: at least {NONCE_DAYS:g} days for nonces.")
        rules = retention.rules(receipts, events, nonce_days)
        if dry_run:
            for rule in rules:
                self.stdout.write(f"{rule.name}: {listed(rule.count())}")
            return
        with progress(sum(sum(rule.count().values()) for rule in rules), "rows") as bar:
            taken = retention.cleanup(rules, seen=bar.update)
        for name, count in taken.items():
            self.stdout.write(f"{name}: {count}")
