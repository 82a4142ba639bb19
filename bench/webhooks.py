"""Events a second through our door, and through a plain Anymail receiver, side by side.

    python -m project.embedded --name bench -- python -m bench.webhooks [--rounds 5]

All run on granian with two workers of eight threads, on one durable PostgreSQL, each on a database of its own. The
plain one is there twice: with the settings of a new Django project, which connect anew for each request, and with our
pool of eight connections. The rounds are interleaved, so that what else the machine does meets all. Every event is new
and about a mail that is known; ours stores each request, too.
"""

import argparse
import base64
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import psycopg

from bench.load import request, send_all
from project.arrangement import ports
from project.processes import tethered
from tests.chaos.ground import ROOT, until_it_answers
from tests.webhooks.genuine import ENVIRON, POSTMARK_SECRET, REQUESTS, Event

# Enough that no plan reads the whole table.
MAILS: Final = 100_000
CONNECTIONS: Final = 8
GRANIAN: Final = ("-m", "granian", "--http", "1", "--no-ws", "--log-level", "error", "--workers", "2")
START: Final = 60.0
KINDS: Final = ("processed", "delivered", "open", "click")


@dataclass(frozen=True)
class Case:
    """Requests of one size, as many a round, and by how much ours is to be faster."""

    name: str
    provider: str
    size: int
    requests: int
    goal: float


CASES: Final = (
    Case("1 event", "postmark", 1, 400, 2),
    Case("100 events", "sendgrid", 100, 32, 25),
    Case("1,000 events", "sendgrid", 1000, 8, 45),
)


@dataclass
class Side:
    """One of the two: how it is served, how its database is filled."""

    name: str
    settings: str
    serve: tuple[str, ...]
    fill: str
    pool: int = 8
    port: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)


_PLAIN: Final = ("--interface", "wsgi", "--blocking-threads", "8", "bench.plain.wsgi:application")
OURS: Final = Side("ours", "project.settings", ("--interface", "asginl", "project.asgi:application"), "ours")
PEERS: Final = (
    Side("plain", "bench.plain.settings", _PLAIN, "plain", pool=0),
    Side("pooled", "bench.plain.settings", _PLAIN, "plain"),
)
SIDES: Final = (OURS, *PEERS)


def environment(side: Side, database: str) -> dict[str, str]:
    return {
        **os.environ,
        **ENVIRON,
        "DJANGO_SETTINGS_MODULE": side.settings,
        "DATABASE_URL": database,
        "DATABASE_POOL_SIZE": str(side.pool),
        "WEB_THREADS": "8",
        "THROTTLES": "0",
        "SECRET_KEY": "the-bench-signs-with-this-and-nobody-else-does-0123456789",
        "PUBLIC_URL": f"http://127.0.0.1:{side.port}",
        "DEFAULT_FROM_EMAIL": "accounts@example.com",
        "PYTHONWARNINGS": "ignore",
    }


@contextmanager
def serving(side: Side) -> Iterator[None]:
    """Fill a database of its own, and run the web server on it."""
    url = os.environ["DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as sql:
        sql.execute(f"DROP DATABASE IF EXISTS bench_{side.name} WITH (FORCE)")
        sql.execute(f"CREATE DATABASE bench_{side.name}")
    side.port = ports(fixed=False)["WEB_PORT"]
    environ = environment(side, urlsplit(url)._replace(path=f"/bench_{side.name}").geturl())
    subprocess.run([sys.executable, "-m", "bench.fill", side.fill, str(MAILS)], cwd=ROOT, env=environ, check=True)
    command = [sys.executable, *GRANIAN, "--port", str(side.port), *side.serve]
    process = subprocess.Popen(tethered(command, signal.SIGTERM), cwd=ROOT, env=environ, stderr=subprocess.DEVNULL)
    try:
        until_it_answers(f"http://127.0.0.1:{side.port}", process)
        yield
    finally:
        process.terminate()
        process.wait(START)


_seconds = itertools.count(1_700_000_000)


def drawn(case: Case, draw: random.Random) -> list[bytes]:
    """Make the requests of a round, each about as many mails as it has events."""
    credentials = base64.b64encode(POSTMARK_SECRET.encode()).decode()
    made = []
    for _ in range(case.requests):
        events = [
            Event(
                "delivered" if case.size == 1 else draw.choice(KINDS),
                f"{number}@example.com",
                identifier(number),
                next(_seconds),
                UUID(int=number + 1),
            )
            for number in draw.sample(numbers(case.provider), case.size)
        ]
        body, headers = REQUESTS[case.provider](events)
        made.append(request(f"/webhooks/{case.provider}/", body, {**headers, "Authorization": f"Basic {credentials}"}))
    return made


def numbers(provider: str) -> range:
    """Return the mails that a provider has accepted: each has every second one."""
    return range(int(provider == "postmark"), MAILS, 2)


def identifier(number: int) -> str:
    """Return the provider's id of a mail."""
    return str(UUID(int=10**30 + number))


def play(rounds: int, cases: Sequence[Case], say: Callable[[str], Any]) -> bool:
    """Measure, and print the table; tell whether every goal was reached."""
    draw = random.Random(0)  # each run is to be the same
    with ExitStack() as stack:
        for side in SIDES:
            stack.enter_context(serving(side))
        for number in range(rounds + 1):
            for case, side in itertools.product(cases, SIDES if number % 2 else SIDES[::-1]):
                taken = send_all(side.port, drawn(case, draw), CONNECTIONS)
                if number:  # the first warms up
                    side.seconds.setdefault(case.name, []).append(taken)
    say(
        f"{'a request':14}{'events/s of: ours':>22}{'plain':>22}{'pooled':>22}{'times plain':>18}{'pooled':>18}  goal\n"
    )
    return all([_row(case, say) for case in cases])  # noqa: C419  # each is shown


def _row(case: Case, say: Callable[[str], Any]) -> bool:
    events = case.size * case.requests
    rates = [[events / taken for taken in side.seconds[case.name]] for side in SIDES]
    times = [[ours / theirs for ours, theirs in zip(rates[0], each, strict=True)] for each in rates[1:]]
    cells = "".join(f"{_spread(each, 0):>22}" for each in rates) + "".join(f"{_spread(each, 1):>18}" for each in times)
    say(f"{case.name:14}{cells}  {case.goal:g}\n")
    return statistics.median(times[0]) >= case.goal


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.webhooks")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=[case.name for case in CASES])
    options = parser.parse_args()
    cases = [case for case in CASES if options.only in {None, case.name}]
    reached = play(options.rounds, cases, sys.stdout.write)
    sys.stdout.write(json.dumps({"reached": reached}) + "\n")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
