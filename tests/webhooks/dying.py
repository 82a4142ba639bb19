"""Ingestion that is struck at its lines, one after another: the process is killed, or the database server.

    python -m tests.webhooks.dying process PROVIDER
    python -m tests.webhooks.dying database PROVIDER --points 20 --directory D

Each request is posted, struck, and posted again as its provider would; the last line on stdout is a JSON object of what
was found. It is a process of its own, since it forks, or loses its database.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import django

from project.embedded import Postgres
from tests.chaos.tracing import Countdown, forked
from tests.webhooks.genuine import REQUESTS, Event

# Events of a request, where it may hold several.
SEVERAL = 3


@dataclass
class Found:
    """What came of it. `halves` and `lost` have to stay empty: a request half stored, and a 200 without its row."""

    lines: int = 0
    struck: int = 0
    refused: int = 0
    halves: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)


class Outage(Countdown):
    """Kills the database server, and not the process, when the countdown is over."""

    def __init__(self, server: Postgres, kill_at: int) -> None:
        super().__init__(0, kill_at)
        self._server = server
        self.struck = False

    def strike(self, where: str) -> None:
        self._server.kill()
        self.struck = True


class Ingestion:
    """Requests of one provider."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._made = 0

    def request(self) -> tuple[list[Any], bytes, dict[str, str]]:
        """Make deliveries and a request about them."""
        from mailer.models import Message  # wants Django to be set up, as the next
        from tests.mailer.conftest import new_delivery

        count = SEVERAL if self._provider == "sendgrid" else 1
        deliveries, events = [], []
        for number in range(self._made, self._made + count):
            address = f"{number}@example.com"
            deliveries.append(delivery := _delivery(new_delivery(recipient=address)))
            events.append(Event("delivered", address, f"mail-{number}", int(time.time()) - 60, delivery.message_id))
        self._made += count
        mine = [delivery.message_id for delivery in deliveries]
        Message.objects.filter(pk__in=mine).update(provider=self._provider)  # as the intent to send does
        return deliveries, *REQUESTS[self._provider](events)

    def post(self, body: bytes, headers: dict[str, str]) -> int:
        from django.test import Client

        path = f"/webhooks/{self._provider}/"
        visitor = Client(SERVER_NAME="127.0.0.1")
        return int(visitor.post(path, body, content_type="application/json", headers=headers).status_code)


def _delivery(identifier: Any) -> Any:
    from mailer.models import DeliveryStatus

    return DeliveryStatus.objects.get(pk=identifier)


def is_whole(body: bytes, deliveries: list[Any]) -> bool | None:
    """Tell whether a request is stored and each of its events recorded once; None for one without the other."""
    from webhooks.models import WebhookReceipt

    stored = WebhookReceipt.objects.filter(body=body, state="processed").exists()
    now = [_delivery(delivery.pk) for delivery in deliveries]
    recorded = {(delivery.status, delivery.events.filter(source="webhook").count()) for delivery in now}
    if recorded == {("delivered", 1)}:
        return True if stored else None
    return None if stored or recorded != {("queued", 0)} else False


def spread(lines: int, points: int) -> range:
    """Return lines to strike, evenly spread and the last among them; each where no number of points is given."""
    stride = max(1, lines // points) if points else 1
    return range(lines, 0, -stride)


def strike_the_process(provider: str, points: int, _directory: Path) -> Found:
    from django.db import connection

    ingestion = Ingestion(provider)
    found = Found()

    def struck_at(number: int) -> int:
        deliveries, body, headers = ingestion.request()
        connection.close()  # a child that is forked must find no session

        def act(countdown: Countdown) -> None:
            with countdown.counting():
                status = ingestion.post(body, headers)
            if status != 200:
                raise RuntimeError(f"answered {status}")

        end = forked(act, kill_at=number)
        found.struck += end.killed
        before = is_whole(body, deliveries)
        if before is None:
            found.halves.append(number)
        again = ingestion.post(body, headers)
        if (not before and not end.killed) or again != 200 or not is_whole(body, deliveries):
            found.lost.append(number)
        return end.lines

    struck_at(0)  # loads what is loaded at first use
    found.lines = struck_at(0)
    for number in spread(found.lines, points):
        struck_at(number)
    return found


def strike_the_database(provider: str, points: int, directory: Path) -> Found:
    server = Postgres(directory)
    os.environ["DATABASE_URL"] = server.start()
    django.setup()
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", verbosity=0)
    ingestion = Ingestion(provider)
    found = Found()

    def struck_at(number: int) -> int:
        deliveries, body, headers = ingestion.request()
        outage = Outage(server, number)
        with outage.counting():
            status = ingestion.post(body, headers)
        if outage.struck:
            found.struck += 1
            server.start()
            connection.close()  # its other end is gone
        found.refused += status == 503
        before = is_whole(body, deliveries)
        if before is None:
            found.halves.append(number)
        again = ingestion.post(body, headers)
        if status not in {200, 503} or (status == 200 and not before) or again != 200 or not is_whole(body, deliveries):
            found.lost.append(number)
        return outage.lines

    try:
        struck_at(0)
        found.lines = struck_at(0)
        for number in spread(found.lines, points):
            struck_at(number)
    finally:
        server.stop()
    return found


WAYS: dict[str, Callable[[str, int, Path], Found]] = {
    "process": strike_the_process,
    "database": strike_the_database,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.webhooks.dying")
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("provider", choices=REQUESTS)
    parser.add_argument("--points", type=int, default=0, help="about so many, evenly spread (default: each line)")
    parser.add_argument("--directory", type=Path, default=Path(), help="for the database server that is killed")
    options = parser.parse_args()
    if options.way == "process":
        django.setup()
    found = WAYS[options.way](options.provider, options.points, options.directory)
    sys.stdout.write(json.dumps(asdict(found)) + "\n")


if __name__ == "__main__":
    main()
