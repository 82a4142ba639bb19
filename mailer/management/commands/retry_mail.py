"""Send again what was given up, or is in doubt."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.db.models import Count, QuerySet

from mailer import operators
from mailer.management.console import confirm, listed, moment, progress
from mailer.models import Message

State = Message.State
# Messages of one transaction.
BATCH = 100


class Command(BaseCommand):
    """Let messages go again that have stopped."""

    help = (
        "Send mail again that was given up (dead), expired, was cancelled or suppressed, or may have been accepted "
        "(unknown): some, by their ids, or all in a state. Mail that was sent, or waits to be, is left alone."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take ids, or what to look for."""
        parser.add_argument("ids", nargs="*", type=UUID, metavar="ID", help="ids of messages")
        parser.add_argument(
            "--state",
            action="append",
            default=[],
            choices=sorted(operators.STOPPED),
            dest="states",
            help="all messages in this state; may be given more than once",
        )
        parser.add_argument("--kind", metavar="KIND", help="with --state: only of this kind")
        parser.add_argument(
            "--since",
            type=moment,
            metavar="TIME",
            help="with --state: only those written since, such as 2026-11-21 or 2026-11-21T14:00 (UTC)",
        )
        parser.add_argument("--dry-run", action="store_true", help="count them, and change nothing")
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def handle(
        self,
        *,
        ids: list[UUID],
        states: list[str],
        kind: str | None,
        since: datetime | None,
        dry_run: bool,
        yes: bool,
        **_: Any,
    ) -> None:
        """Count them, ask, and let them go."""
        if bool(ids) == bool(states) or (ids and (kind or since)):
            raise CommandError("Name messages by their ids, or by --state with --kind and --since.")
        chosen = _by_ids(ids) if ids else _by_state(states, kind, since)
        counts = dict(chosen.order_by("state").values_list("state").annotate(Count("pk")))
        self.stdout.write(f"Stopped: {listed(counts)}.")
        if dry_run or not counts:
            return
        warning = " Those in doubt may arrive twice." if counts.get(State.UNKNOWN) else ""
        confirm(f"Send {sum(counts.values())} messages again?{warning}", yes=yes)
        self._retry(list(chosen.order_by("pk").values_list("pk", flat=True)), states or operators.STOPPED)

    def _retry(self, ids: list[UUID], states: Any) -> None:
        again: set[UUID] = set()
        with progress(len(ids), "messages") as bar:
            for start in range(0, len(ids), BATCH):
                again.update(operators.retry(ids[start : start + BATCH], states))
                bar.update(len(ids[start : start + BATCH]))
        self.stdout.write(f"{len(again)} messages go again.")
        if left := len(ids) - len(again):
            raise CommandError(f"{left} do not: their time is over, their address was erased, or they have moved on.")


def _by_ids(ids: list[UUID]) -> QuerySet[Message]:
    """Return the messages. Raises `CommandError` where one does not exist or has not stopped."""
    known = dict(Message.objects.filter(pk__in=ids).values_list("pk", "state"))
    wrong = [f"{pk} is {known.get(pk, 'unheard of')}" for pk in ids if known.get(pk) not in operators.STOPPED]
    if wrong:
        raise CommandError(f"Only what has stopped can go again: {', '.join(wrong)}.")
    return Message.objects.filter(pk__in=ids, state__in=operators.STOPPED)


def _by_state(states: list[str], kind: str | None, since: datetime | None) -> QuerySet[Message]:
    # The states as words of the query, so that the index of stopped messages serves it.
    found = Message.objects.filter(state__in=states)
    if kind:
        found = found.filter(kind=kind)
    return found.filter(created_at__gte=since) if since else found
