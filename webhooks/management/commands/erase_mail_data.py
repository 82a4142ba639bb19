"""Erase a person's data from all mail."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from mailer import retention
from mailer.management.console import confirm, listed, progress


class Command(BaseCommand):
    """Erase an address from the tables of `mailer`."""

    help = (
        "Erase an address, however it is spelled, from all mail, with what was written to it; cancel what waits to be "
        "sent to it. Counts and statuses stay, without a person. The account itself, and the webhook receipts, are "
        "not touched. This cannot be undone."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the address."""
        parser.add_argument("address", help="whose data is erased")
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *, address: str, yes: bool, **_: Any) -> None:
        """Count, ask, erase, and say what was done."""
        if "@" not in address:
            raise CommandError("That is no address.")
        found = retention.holdings(address)
        self.stdout.write(f"Found: {listed(found)}.")
        if not any(found.values()):
            return
        confirm("Erase them for good?", yes=yes)
        with progress(found["deliveries"], "deliveries") as bar:
            erased = retention.erase(address, seen=bar.update)
        self.stdout.write(
            f"Erased: {erased.deliveries} deliveries, {erased.events} events, {erased.bodies} bodies,"
            f" {erased.suppressions} suppressions; {erased.cancelled} messages cancelled."
        )
        if erased.under_way:
            raise CommandError(f"{erased.under_way} deliveries are under way at this moment: run it again in a minute.")
