"""Erase a person's data from all mail, and from what providers reported about it."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from mailer.management.console import confirm, listed, progress
from webhooks import retention
from webhooks.models import WebhookReceipt


class Command(BaseCommand):
    """Erase an address from the tables of `mailer` and `webhooks`."""

    help = (
        "Erase an address, however it is spelled, from all mail, with what was written to it; cancel what waits to be "
        "sent to it; delete the raw webhooks that name it, for which each of them is read. Counts and statuses stay, "
        "without a person. The account itself is not touched. This cannot be undone."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the address."""
        parser.add_argument("address", help="whose data is erased")
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *, address: str, yes: bool, **_: Any) -> None:
        """Count, ask, erase, and say what was done."""
        if "@" not in address:
            raise CommandError("That is no address.")
        kept = WebhookReceipt.objects.count()
        with progress(kept, "receipts") as bar:
            found = retention.holdings(address, seen=bar.update)
        self.stdout.write(f"Found: {listed(found)}.")
        if not any(found.values()):
            return
        confirm("Erase them for good?", yes=yes)
        with progress(kept + found["deliveries"], "rows") as bar:
            erased = retention.erase(address, seen=bar.update)
        mail = erased.mail
        self.stdout.write(
            f"Erased: {mail.deliveries} deliveries, {mail.events} events, {mail.bodies} bodies,"
            f" {mail.suppressions} suppressions, {erased.receipts} webhook receipts;"
            f" {mail.cancelled} messages cancelled."
        )
        if mail.under_way:
            raise CommandError(f"{mail.under_way} deliveries are under way at this moment: run it again in a minute.")
        if erased.waiting:
            raise CommandError(f"{erased.waiting} webhook receipts wait to be tried again: run it again in two days.")
