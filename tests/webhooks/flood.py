"""A flood of events through the real door: shuffled, doubled, from many senders, some before their mail is known.

    python -m tests.webhooks.flood [--events 100000 --deliveries 20000]

runs on the servers that the environment names (`make flood` starts some), in a database that it fills. Its last line is
a JSON object of what was found; it exits with 1 where a status is not the fold of its events, or anything was lost.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import django
import requests

from project.arrangement import ports
from project.processes import tethered
from tests.chaos.ground import PATIENCE, ROOT, until_it_answers
from tests.webhooks.genuine import ENVIRON, REQUESTS, Event

SENDERS: Final = 8
LARGEST: Final = 1000
DOUBLED: Final = 0.2
# Deliveries that are made once all events about them are here.
LATE: Final = 0.1
# Of SendGrid's words: the status that each speaks for.
SPEAKS: Final = {
    "processed": "queued",
    "deferred": "deferred",
    "delivered": "delivered",
    "open": "delivered",
    "click": "delivered",
    "bounce": "bounced",
    "spamreport": "complained",
}
# As likely as they are: most mails are delivered.
WEIGHTS: Final = (3, 2, 6, 4, 2, 1, 1)
WEB: Final = (
    *("-m", "granian", "--interface", "asginl", "--http", "1", "--no-ws", "--log-level", "error"),
    *("--workers", "2", "--host", "127.0.0.1", "project.asgi:application"),
)
WORKER: Final = ("-m", "celery", "--quiet", "-A", "project", "worker", "-c", "2")
# Seconds between two looks at what is waited for.
PAUSE: Final = 0.02


def environment(port: int) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "SECRET_KEY": "the-flood-signs-with-this-and-nobody-else-does-0123456789",
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "DEFAULT_FROM_EMAIL": "accounts@example.com",
        "DATABASE_POOL_SIZE": "8",
        "LOG_LEVEL": "ERROR",
        **ENVIRON,
    }


@contextmanager
def serving(port: int) -> Iterator[str]:
    """Run the web server as it is deployed, and a worker that reads what is large; return the door's URL."""
    processes = [
        subprocess.Popen(tethered([sys.executable, *words], signal.SIGTERM), cwd=ROOT, env=os.environ)
        for words in ((*WEB, "--port", str(port)), WORKER)
    ]
    url = f"http://127.0.0.1:{port}"
    try:
        until_it_answers(url, processes[0])
        yield f"{url}/webhooks/sendgrid/"
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(PATIENCE)


def drawn(draw: random.Random, count: int, deliveries: int, prefix: str) -> list[Event]:
    """Draw events of as many deliveries; each has one at least, and no two of one at one time."""
    numbers = [*range(deliveries), *(draw.randrange(deliveries) for _ in range(count - deliveries))]
    now = int(time.time()) - 10 * count
    return [
        Event(kind, f"{number}@{prefix}.example.com", f"{prefix}-{number}", now + place)
        for place, (number, kind) in enumerate(
            zip(numbers, draw.choices(list(SPEAKS), WEIGHTS, k=len(numbers)), strict=True)
        )
    ]


def batches(draw: random.Random, events: Sequence[Event]) -> list[list[Event]]:
    """Shuffle events, double some, and cut them into batches of 1 to `LARGEST`, small ones as often as large ones."""
    all_of_them = [*events, *draw.sample(events, int(len(events) * DOUBLED))]
    draw.shuffle(all_of_them)
    cut = []
    while all_of_them:
        size = int(LARGEST ** draw.random())
        cut.append(all_of_them[:size])
        del all_of_them[:size]
    return cut


def make(prefix: str, numbers: Sequence[int]) -> None:
    """Make deliveries that their provider has accepted."""
    from django.db import transaction  # wants Django to be set up, as all below

    from mailer.models import DeliveryStatus, Message
    from tests.mailer.conftest import new_delivery

    with transaction.atomic():
        for number in numbers:
            # Sent, or the worker would send it.
            message = Message.objects.create(kind="welcome", dedupe_key=f"{prefix}-{number}", state="sent")
            delivery = new_delivery(recipient=f"{number}@{prefix}.example.com", message=message)
            DeliveryStatus.objects.filter(pk=delivery).update(provider="sendgrid", esp_message_id=f"{prefix}-{number}")


def send(url: str, mine: Sequence[Sequence[Event]]) -> Counter[int]:
    """Post batches one after another; return how often each status was answered."""
    answers: Counter[int] = Counter()
    with requests.Session() as session:
        for batch in mine:
            body, headers = REQUESTS["sendgrid"](batch)
            answers[session.post(url, body, headers=headers, timeout=PATIENCE).status_code] += 1
    return answers


def expected(events: Sequence[Event]) -> dict[str, tuple[str, int]]:
    """Return, by the provider's id, the status that the fold of the events gives, and how many they are."""
    from mailer.status import Mark, Status, fold

    marks = defaultdict(list)
    for event in events:
        at = datetime.fromtimestamp(event.at, UTC)
        marks[event.esp_message_id].append(Mark(Status(SPEAKS[event.kind]), at, ""))
    folded = {identifier: fold(theirs) for identifier, theirs in marks.items()}
    return {identifier: (mark.status.value, len(marks[identifier])) for identifier, mark in folded.items()}


def match() -> int:
    """Match what is parked, all of it, as the sweep does in so many rounds; return how many were."""
    from mailer import parked
    from mailer.models import DeliveryEvent

    rounds = 2 + DeliveryEvent.objects.filter(delivery=None).count() // (parked.LIMIT // 2)
    return sum(len(parked.match()) for _ in range(rounds))


def judge(events: Sequence[Event], prefix: str) -> dict[str, int]:
    """Count the statuses that are not the fold of their events, and the events that are not there."""
    from django.db.models import Count, Q

    from mailer.models import DeliveryEvent, DeliveryStatus

    wanted = expected(events)
    deliveries = DeliveryStatus.objects.filter(esp_message_id__startswith=f"{prefix}-").annotate(
        heard=Count("events", filter=Q(events__source="webhook"))
    )
    found = {row[0]: row[1:] for row in deliveries.values_list("esp_message_id", "status", "heard")}
    return {
        "deliveries": len(found),
        "wrong": sum(found.get(identifier, ("",))[0] != status for identifier, (status, _) in wanted.items()),
        "miscounted": sum(found.get(identifier, ("", 0))[1] != heard for identifier, (_, heard) in wanted.items()),
        "parked": DeliveryEvent.objects.filter(delivery=None, esp_message_id__startswith=f"{prefix}-").count(),
    }


def deadlocks() -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_stat_clear_snapshot(), deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
        return int(cursor.fetchone()[1])


def play(count: int, deliveries: int, seed: int, port: int) -> dict[str, Any]:
    """Send the flood; return the figures."""
    from webhooks.models import WebhookReceipt

    draw, prefix = random.Random(seed), f"flood{UUID(int=random.getrandbits(128)).hex[:8]}"
    events = drawn(draw, count, deliveries, prefix)
    early = int(deliveries * (1 - LATE))
    make(prefix, range(early))
    cut = batches(draw, events)
    before = deadlocks(), WebhookReceipt.objects.count()
    with serving(port) as url, ThreadPoolExecutor(SENDERS + 1) as pool:
        begin = time.monotonic()
        matching = pool.submit(_make_late, prefix, range(early, deliveries))
        answers = sum(pool.map(lambda place: send(url, cut[place::SENDERS]), range(SENDERS)), Counter[int]())
        seconds = time.monotonic() - begin
        matched = matching.result()
        _until(_is_read, begin + PATIENCE)
        recorded = time.monotonic() - begin
        matched += match()
    return {
        "events": count,
        "requests": len(cut),
        "answers": dict(answers),
        "seconds": round(seconds, 1),
        "seconds_until_recorded": round(recorded, 1),
        "matched_later": matched,
        "receipts": WebhookReceipt.objects.count() - before[1],
        "unprocessed": WebhookReceipt.objects.exclude(state="processed").count(),
        "deadlocks": deadlocks() - before[0],
        **judge(events, prefix),
    }


def _until(condition: Callable[[], bool], end: float) -> None:
    while time.monotonic() < end and not condition():
        time.sleep(PAUSE)


def _is_read() -> bool:
    from webhooks.models import DUE, WebhookReceipt

    return not WebhookReceipt.objects.filter(state__in=DUE).exists()


def _make_late(prefix: str, numbers: Sequence[int]) -> int:
    """Make the late deliveries while events about them come in, and match what was parked meanwhile."""
    from django.db import connection

    try:
        matched = 0
        _until_some_came_early(prefix)
        for start in range(0, len(numbers), 100):
            make(prefix, numbers[start : start + 100])
            matched += match()
        return matched
    finally:
        connection.close()


def _until_some_came_early(prefix: str) -> None:
    """Wait until an event about a delivery that is not made yet is here, else nothing may be left to match."""
    from mailer.models import DeliveryEvent

    early = DeliveryEvent.objects.filter(delivery=None, esp_message_id__startswith=f"{prefix}-")
    _until(early.exists, time.monotonic() + PATIENCE)


def is_good(found: dict[str, Any]) -> bool:
    faults = ("unprocessed", "deadlocks", "wrong", "miscounted", "parked")
    return (
        found["answers"] == {200: found["requests"]}
        and found["receipts"] == found["requests"]
        and not any(found[name] for name in faults)
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.webhooks.flood")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--deliveries", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--migrate", action="store_true", help="prepare the database first")
    options = parser.parse_args()
    port = ports(fixed=False)["WEB_PORT"]
    os.environ |= environment(port)
    django.setup()
    if options.migrate:
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
    found = play(options.events, options.deliveries, options.seed, port)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0 if is_good(found) else 1


if __name__ == "__main__":
    sys.exit(main())
