"""Cancel what waits to be sent."""

from argparse import ArgumentParser
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from mailer import operators


class Command(BaseCommand):
    """Cancel messages that wait."""

    help = (
        "Cancel mail that waits to be sent, by the ids of its messages. What a worker has at this moment is on its "
        "way, and what has ended stays as it is. retry_mail lets it go after all."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take ids."""
        parser.add_argument("ids", nargs="+", type=UUID, metavar="ID", help="ids of messages")

    def handle(self, *, ids: list[UUID], **_: Any) -> None:
        """Cancel them, and say which were not."""
        cancelled = operators.stop(ids, operators.WAITING)
        self.stdout.write(f"{len(cancelled)} messages cancelled.")
        if left := [str(each) for each in ids if each not in cancelled]:
            raise CommandError(f"Not waiting: {', '.join(left)}.")
