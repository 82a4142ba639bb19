"""Forget what is kept no longer."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from mailer import retention
from mailer.management.console import days, listed, progress


class Command(BaseCommand):
    """Apply the rules of `mailer.retention`, in small batches; what may still be sent is never touched."""

    help = (
        "Erase what mails said some days after they ended, and delete mails with their deliveries and events after "
        "more. Mail that may still be sent is never touched. Runs daily by beat; may be stopped at any time."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take other ages than the settings', some states only, and whether to count only."""
        parser.add_argument("--dry-run", action="store_true", help="count what would go, and change nothing")
        parser.add_argument(
            "--body-days",
            type=days,
            metavar="N",
            help="erase what mails said N days after their end (default: MAIL_BODY_DAYS)",
        )
        parser.add_argument(
            "--history-days",
            type=days,
            metavar="N",
            help="delete mails N days after their end (default: MAIL_HISTORY_DAYS)",
        )
        parser.add_argument(
            "--state",
            action="append",
            default=[],
            choices=sorted({*retention.ENDED, retention.State.UNKNOWN}),
            dest="states",
            help="only mails in this state; may be given more than once",
        )

    def handle(
        self, *, dry_run: bool, body_days: float | None, history_days: float | None, states: list[str], **_: Any
    ) -> None:
        """Count, then forget."""
        body = settings.MAIL_BODY_DAYS if body_days is None else body_days
        history = settings.MAIL_HISTORY_DAYS if history_days is None else history_days
        if history < body:
            raise CommandError(f"A mail is deleted with its body: {history:g} days are fewer than {body:g}.")
        if history < settings.WEBHOOK_KEY_DAYS:
            raise CommandError(
                f"By a mail's events a webhook that comes again is known: {history:g} days are fewer than"
                f" {settings.WEBHOOK_KEY_DAYS:g}."
            )
        rules = retention.rules(body, history, states)
        if dry_run:
            for rule in rules:
                self.stdout.write(f"{rule.name}: {listed(rule.count())}")
            return
        with progress(sum(sum(rule.count().values()) for rule in rules), "rows") as bar:
            taken = retention.cleanup(rules, seen=bar.update)
        for name, count in taken.items():
            self.stdout.write(f"{name}: {count}")
