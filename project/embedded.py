"""Private PostgreSQL and Valkey servers, for development, the tests and the demo.

The servers come as wheels and listen on Unix sockets only. Their data, logs and sockets stand under one
directory, `.run/<name>/`. They are children of the process that started them and end with it, also when it is
killed.

    python -m project.embedded --name test --volatile -- python -m pytest

runs a command with `DATABASE_URL`, `CELERY_BROKER_URL` and `REDIS_URL` in its environment. A server that the
environment already names is used as it is, and nothing private is started in its place.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from project.answers import QUESTIONS, check_given, spelled_for_redis_py
from project.postgres import Postgres
from project.processes import Interrupted, Unavailable, claim, interrupt_once, run_command
from project.servers import Server
from project.valkey import Valkey

RUN = Path(__file__).resolve().parent.parent / ".run"


@dataclass(slots=True)
class Serving:
    """The servers' URLs by the variable that names them, and the private ones among the servers."""

    urls: dict[str, str]
    private: list[Server] = field(default_factory=list)


@contextmanager
def serving(directory: Path, *, volatile: bool = False, fresh: bool = False) -> Iterator[Serving]:
    """Start a private server for each that the environment does not name, and stop them in the end.

    Raises `Unavailable` when one does not start, or a named one does not answer.
    """
    urls = {variable: os.environ[variable] for variable in QUESTIONS if os.environ.get(variable)}
    check_given(urls)
    broker = urls.get("CELERY_BROKER_URL", "")
    if broker.startswith(("redis", "unix")):
        urls.setdefault("REDIS_URL", spelled_for_redis_py(broker))
    postgres = Postgres(directory / "postgres", volatile=volatile, fresh=fresh)
    valkey = Valkey(directory / "valkey", volatile=volatile, fresh=fresh)
    result = Serving(urls)
    with ExitStack() as started:
        if "DATABASE_URL" not in urls:
            started.callback(postgres.stop)
            urls["DATABASE_URL"] = postgres.start()
            result.private.append(postgres)
        if not urls.keys() >= {"CELERY_BROKER_URL", "REDIS_URL"}:
            started.callback(valkey.stop)
            urls.setdefault("CELERY_BROKER_URL", valkey.start())
            urls.setdefault("REDIS_URL", valkey.redis_url)
            result.private.append(valkey)
        yield result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m project.embedded",
        description="Run a command with private PostgreSQL and Valkey servers, and stop them after it.",
    )
    parser.add_argument("--name", default="test", help="the servers live in .run/NAME (default: %(default)s)")
    parser.add_argument("--volatile", action="store_true", help="begin empty, and be fast instead of durable")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="what to run, after --")
    options = parser.parse_args(arguments)
    interrupt_once()
    try:
        with (
            claim(RUN / options.name),
            serving(RUN / options.name, volatile=options.volatile, fresh=options.volatile) as servers,
        ):
            return run_command(options.command, os.environ | servers.urls)
    except Unavailable as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except Interrupted as interruption:
        return 128 + interruption.number


if __name__ == "__main__":
    sys.exit(main())
