"""Ingestion that is struck at each of its steps, one after another: the process is killed, or it loses its database.

    python -m tests.webhooks.dying [--points 20]
    python -m tests.webhooks.dying process|database [--points 20]

Requests are posted, struck, and posted again as their provider would.

    process   SIGKILL at each line of ours; works on DATABASE_URL
    database  at each line, and at each moment of each question that goes over the wire: SIGKILL of PostgreSQL, of all
              its processes, or `pg_terminate_backend` of our sessions; works on a server of its own

Each line on stdout is a JSON object of what was found in one case. It exits with 1 where anything was lost.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import django
from django.core.management import call_command
from django.db import connection

from project.embedded import RUN
from tests.chaos.ground import ROOT
from tests.chaos.tracing import Countdown, forked
from tests.webhooks.genuine import ENVIRON
from tests.webhooks.wire import lost_at_will

if TYPE_CHECKING:  # Django is not set up when this is imported
    from tests.webhooks.posting import Found, Ingestion, Request

WAYS: Final = ("process", "database")
ENVIRONMENT: Final = {
    "DJANGO_SETTINGS_MODULE": "project.settings",
    "SECRET_KEY": "the-dying-sign-with-this-and-nobody-else-does-0123456789",
    "PUBLIC_URL": "http://127.0.0.1",
    "DEFAULT_FROM_EMAIL": "accounts@example.com",
    "WEB_THREADS": "1",
    "LOG_LEVEL": "CRITICAL",
    **ENVIRON,
}


def strike_the_process(points: int, only: Sequence[str]) -> "Iterator[Found]":
    """Kill the process at about so many of its lines (0: at each), in every case that is among these."""
    from tests.webhooks.posting import Door, Ingestion, spread

    for ingestion in Ingestion.all("process lines", only):
        door = Door()
        door.post(ingestion.provider, ingestion.known)  # loads what is loaded at first use
        door.close()  # what is forked must have no threads
        ingestion.found.steps = _in_a_process(ingestion, 0)
        for number in spread(ingestion.found.steps, points):
            _in_a_process(ingestion, number)
        yield ingestion.found


def _in_a_process(ingestion: "Ingestion", number: int) -> int:
    """Post a group in a process that is killed at a line, and again in one that is not; return how many there were."""
    from tests.webhooks.posting import LINES

    lines = 0

    def post(group: "Sequence[Request]") -> list[int | None]:
        nonlocal lines
        end = forked(partial(_answer, ingestion.provider, group), number, LINES)
        lines = end.lines
        ingestion.found.struck += end.killed
        return [None if end.killed else 200] * len(group)

    def repeat(group: "Sequence[Request]") -> list[int | None]:
        forked(partial(_answer, ingestion.provider, group))
        return [200] * len(group)

    ingestion.play(number, post, repeat)
    return lines


def _answer(provider: str, group: "Sequence[Request]", countdown: Countdown) -> None:
    """Post a group. Raises `RuntimeError` where one is not answered 200."""
    from tests.webhooks.posting import Door

    door = Door()
    with countdown.counting():
        answers = door.post(provider, group)
    if set(answers) != {200}:
        raise RuntimeError(f"answered {answers}")


def strike(options: argparse.Namespace) -> "Iterator[Found]":
    """Strike in one way."""
    if options.way == "process":
        django.setup()
        yield from strike_the_process(options.points, options.only)
        return
    with lost_at_will(options.directory, forgetful=options.forgetful) as database:
        os.environ["DATABASE_URL"] = database.url
        prepare()
        from tests.webhooks import losing

        yield from losing.strike(database, options.points, options.only)


def prepare() -> None:
    """Make the tables."""
    django.setup()
    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("CHECKPOINT")  # else it is all done again after each crash


def strike_in_all(arguments: Sequence[str]) -> int:
    """Strike in both ways at once, each in a process of its own; return 0 where nothing was lost."""
    command = [sys.executable, "-m", "tests.webhooks.dying"]

    def run(way: str) -> int:
        return subprocess.run([*command, way, *arguments], cwd=ROOT, check=False).returncode

    with ThreadPoolExecutor(len(WAYS)) as pool:
        return max(pool.map(run, WAYS))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.webhooks.dying")
    parser.add_argument("way", choices=WAYS, nargs="?", help="(default: both, side by side)")
    parser.add_argument("--points", type=int, default=0, help="about so many of each case, evenly spread")
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="cases whose name has one of these")
    parser.add_argument("--migrate", action="store_true", help="prepare the database of DATABASE_URL first")
    parser.add_argument("--forgetful", action="store_true", help="run PostgreSQL so that it loses what it committed")
    parser.add_argument("--directory", type=Path, default=RUN / "dying-server", help="of the server that is killed")
    options = parser.parse_args()
    os.environ |= ENVIRONMENT
    if options.migrate and options.way != "database":  # which has a server of its own
        prepare()
    if options.way is None:
        return strike_in_all([word for word in sys.argv[1:] if word != "--migrate"])
    good = True
    for found in strike(options):
        sys.stdout.write(json.dumps(asdict(found)) + "\n")
        sys.stdout.flush()
        good &= found.is_good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
