"""Mail an address no more, or again."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from mailer import suppressions
from mailer.management.console import days as number_of_days
from mailer.models import Suppression
from users.addresses import canonical


class Command(BaseCommand):
    """Write or release suppressions of one address."""

    help = (
        "Mail an address no more: messages to it get the status suppressed, those about an account's safety excepted "
        "where it only complained or unsubscribed. With --release, mail it again."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the address, and why."""
        parser.add_argument("address", help="in any spelling")
        parser.add_argument(
            "--reason", choices=Suppression.Reason.values, help="why (default: manual); with --release: only this one"
        )
        parser.add_argument("--days", type=number_of_days, metavar="N", help="for so long (default: for ever)")
        parser.add_argument("--detail", default="", help="a note for whoever looks at it later")
        parser.add_argument("--release", action="store_true", help="mail it again")

    def handle(
        self, *, address: str, reason: str | None, days: float | None, detail: str, release: bool, **_: Any
    ) -> None:
        """Do it, and say what has changed."""
        if days is not None and (release or days <= 0):
            raise CommandError("--days is how long it is suppressed: more than 0, and not with --release.")
        if release:
            count = suppressions.release(
                address, by="operator", reasons=[reason] if reason else Suppression.Reason.values
            )
            self.stdout.write(f"{count} suppressions released.")
            return
        try:
            # What is no address would hold back nobody, such as one with a name before it.
            canonical(address)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        is_new = suppressions.suppress(
            address,
            reason or Suppression.Reason.MANUAL,
            source="operator",
            detail=detail,
            expires_at=None if days is None else timezone.now() + timedelta(days=days),
        )
        self.stdout.write("Suppressed." if is_new else "It was suppressed for that already; its end was put off.")
