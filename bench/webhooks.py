"""Events a second through our door, and through a plain Anymail receiver, side by side.

    python -m project.embedded --name bench -- python -m bench.webhooks [--rounds 5]

All run on granian with two workers of eight threads, on one durable PostgreSQL, each on a database of its own. The
plain one is there twice: with the settings of a new Django project, which connect anew for each request, and with our
pool of eight connections. The rounds are interleaved, so that what else the machine does meets all. Every event is new
and about a mail that is known; ours stores each request, too. A request of more than WEBHOOK_AT_ONCE events is answered
once it is stored, and a worker records what it says. So ours has three figures: events a second until every request is
answered, while the worker is held still, as it were on another machine, and while it works beside the web server; and
until every status is right, with the worker's work. The plain one's are the same, as it has no worker.
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
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import psycopg

from bench.load import request, send_all
from bench.workers import still
from project.arrangement import ports
from project.processes import tethered
from tests.chaos.ground import ROOT, until_it_answers
from tests.webhooks.genuine import ENVIRON, POSTMARK_SECRET, REQUESTS, Event

# Enough that no plan reads the whole table.
MAILS: Final = 100_000
CONNECTIONS: Final = 8
GRANIAN: Final = ("-m", "granian", "--http", "1", "--no-ws", "--log-level", "error", "--workers", "2")
START: Final = 60.0
# Seconds between two looks at whether all is recorded.
PAUSE: Final = 0.005
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
    Case("100 events", "sendgrid", 100, 64, 25),
    Case("1,000 events", "sendgrid", 1000, 16, 45),
)


@dataclass
class Side:
    """One of the three: how it is served, how its database is filled, and the seconds that each case took."""

    name: str
    settings: str
    serve: tuple[str, ...]
    fill: str
    pool: int = 8
    worker: tuple[str, ...] = ()
    waiting: str = ""
    port: int = 0
    database: str = ""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    answered: dict[str, list[float]] = field(default_factory=dict)
    beside: dict[str, list[float]] = field(default_factory=dict)
    recorded: dict[str, list[float]] = field(default_factory=dict)


_PLAIN: Final = ("--interface", "wsgi", "--blocking-threads", "8", "bench.wsgi:application")
OURS: Final = Side(
    "ours",
    "project.settings",
    ("--interface", "asginl", "project.asgi:application"),
    "ours",
    worker=("-m", "celery", "--quiet", "-A", "project", "worker", "-c", "2"),
    waiting="SELECT EXISTS (SELECT FROM webhooks_webhookreceipt WHERE state IN ('waiting', 'retry'))",
)
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
    side.database = urlsplit(url)._replace(path=f"/bench_{side.name}").geturl()
    environ = environment(side, side.database)
    subprocess.run([sys.executable, "-m", "bench.fill", side.fill, str(MAILS)], cwd=ROOT, env=environ, check=True)
    web = (*GRANIAN, "--port", str(side.port), *side.serve)
    side.processes = [
        subprocess.Popen(
            tethered([sys.executable, *words], signal.SIGTERM), cwd=ROOT, env=environ, stderr=subprocess.DEVNULL
        )
        for words in (web, side.worker)
        if words
    ]
    try:
        until_it_answers(f"http://127.0.0.1:{side.port}", side.processes[0])
        yield
    finally:
        for process in side.processes:
            process.terminate()
        for process in side.processes:
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
                with still(side.processes[1:]):
                    answered = send_all(side.port, drawn(case, draw), CONNECTIONS)
                _until_recorded(side)
                if number:  # the first warms up
                    side.answered.setdefault(case.name, []).append(answered)
            for case in cases:
                beside = send_all(OURS.port, drawn(case, draw), CONNECTIONS)
                recorded = beside + _until_recorded(OURS)
                if number:
                    OURS.beside.setdefault(case.name, []).append(beside)
                    OURS.recorded.setdefault(case.name, []).append(recorded)
    heads = "".join(f"{head:>22}" for head in ("ours, events/s", "plain", "pooled"))
    say(f"{'a request':14}{'ours until':13}{heads}{'times plain':>18}{'times pooled':>18}  goal\n")
    return all([_rows(case, say) for case in cases])  # noqa: C419  # each is shown


def _until_recorded(side: Side) -> float:
    """Wait until nothing that was answered waits for a worker; return the seconds."""
    begin = time.perf_counter()
    if side.waiting:
        with psycopg.connect(side.database, autocommit=True) as sql:
            while sql.execute(side.waiting).fetchone() == (True,):
                time.sleep(PAUSE)
    return time.perf_counter() - begin


def _rows(case: Case, say: Callable[[str], Any]) -> bool:
    answered = _row(case, "answered", OURS.answered[case.name], say)
    _row(case, "with worker", OURS.beside[case.name], say)
    _row(case, "recorded", OURS.recorded[case.name], say)
    return answered >= case.goal


def _row(case: Case, what: str, ours: Sequence[float], say: Callable[[str], Any]) -> float:
    """Print a row, and return how many times the plain one's rate is ours."""
    events = case.size * case.requests
    rates = [[events / taken for taken in each] for each in (ours, *(peer.answered[case.name] for peer in PEERS))]
    times = [[ours / theirs for ours, theirs in zip(rates[0], each, strict=True)] for each in rates[1:]]
    cells = "".join(f"{_spread(each, 0):>22}" for each in rates) + "".join(f"{_spread(each, 1):>18}" for each in times)
    say(f"{case.name:14}{what:13}{cells}  {case.goal:g}\n")
    return statistics.median(times[0])


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
