"""Registrations a second, side by side: ours, ours without its mail, djoser, and dj-rest-auth with allauth.

    make bench-registration ARGS="--rounds 7"

All run on granian with two workers of eight threads, on one durable PostgreSQL, each on a database of its own, and are
asked over eight connections at once. Every mail goes through Anymail to the simulator, by Resend's API, which takes
200 ms to answer: in the peers before they answer, in ours by a worker beside, whose CPU counts as ours. Addresses are
fresh, and nothing is limited on any side. The rounds are interleaved, and each ends when its last mail has left.

What the mail adds to the view is seen on another server of ours, whose worker is held still until all is answered, as
if it were on another machine. There, of three addresses one gets a mail, one a challenge alone, and one neither.
"""

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import psutil
import psycopg

from bench.load import request, time_all
from bench.quiet import NO_CHALLENGE, NO_MAIL
from bench.workers import still
from project.arrangement import ports
from project.processes import tethered
from tests.chaos.ground import PATIENCE, ROOT, Program, Provider, serving, until, until_it_answers

CONNECTIONS: Final = 8
LATENCY_MS: Final = 200
PASSWORD: Final = "a-violet-Zeppelin-over-Lisbon"  # noqa: S105  # nobody's
GRANIAN: Final = ("-m", "granian", "--http", "1", "--no-ws", "--log-level", "error", "--workers", "2")
THEIRS: Final = ROOT / ".run" / "bench-venv" / "bin" / "python"
OUR_HASHER: Final = "users.hashers.Argon2idHasher"
# Goals: by how many times as many are answered, the part of a peer's median time, and what mail may add to it.
TIMES: Final = 7.0
PART: Final = 1 / 7
ADDED: Final = 0.05
MAIL: Final = "example.com"


@dataclass(frozen=True)
class Package:
    """How registration is asked for, and served."""

    settings: str
    path: str
    expected: int
    python: Path
    serve: tuple[str, ...]
    fields: tuple[str, ...]


_ASGI: Final = ("--interface", "asginl", "project.asgi:application")
_WSGI: Final = ("--interface", "wsgi", "--blocking-threads", "8", "bench.wsgi:application")
_OWN: Final = Path(sys.executable)
OURS: Final = Package("project.settings", "/api/v1/accounts/register", 202, _OWN, _ASGI, ("password",))
QUIET: Final = Package("bench.quiet.settings", OURS.path, 202, _OWN, _ASGI, OURS.fields)
DJOSER: Final = Package("bench.peers.djoser.settings", "/auth/users/", 201, THEIRS, _WSGI, ("username", "password"))
REST_AUTH: Final = Package(
    "bench.peers.rest_auth.settings",
    "/auth/registration/",
    201,
    THEIRS,
    _WSGI,
    ("username", "password1", "password2"),
)


@dataclass
class Side:
    """One that is measured: what it runs, and what came of it, a figure a round."""

    name: str
    package: Package
    requests: int
    pool: int = 8
    hasher: str = ""
    port: int = 0
    programs: list[subprocess.Popen[bytes]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)
    slow: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    left: list[float] = field(default_factory=list)


def sides() -> list[Side]:
    """Return ours and the peers: as a new project has them, with a pool, and with that and our hasher's parameters."""
    found = [Side("ours", OURS, 240)]
    for name, package in (("djoser", DJOSER), ("dj-rest-auth", REST_AUTH)):
        found += [
            Side(name, package, 48, pool=0),
            Side(f"{name}, pool", package, 48),
            Side(f"{name}, pool, our hash", package, 96, hasher=OUR_HASHER),
        ]
    return found


@dataclass
class View:
    """Our view: the seconds that registrations took, by the domain of their addresses."""

    side: Side
    times: dict[str, list[float]] = field(default_factory=dict)


def environment(side: Side, database: str, provider: str) -> dict[str, str]:
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": side.package.settings,
        "DATABASE_URL": database,
        "DATABASE_POOL_SIZE": str(side.pool),
        "WEB_THREADS": "8",
        "THROTTLES": "0",
        "PEER_HASHER": side.hasher,
        "SECRET_KEY": "the-bench-signs-with-this-and-nobody-else-does-0123456789",
        "PUBLIC_URL": f"http://127.0.0.1:{side.port}",
        "SITE_NAME": "Example",
        "DEFAULT_FROM_EMAIL": "accounts@example.com",
        "MAIL_PROVIDERS": "resend",
        "ANYMAIL_RESEND_API_KEY": "re_key",
        "ANYMAIL_RESEND_API_URL": f"{provider}/resend/",
        "WEBHOOK_SECRET_RESEND": "whsec_dGhlIGJlbmNoJ3Mgb3duIHNlY3JldA==",
        "CELERY_QUEUE": f"bench-{side.port}",
        "PYTHONWARNINGS": "ignore",
    }


@contextmanager
def running(side: Side, name: str, directory: Path, provider: Provider) -> Iterator[None]:
    """Migrate a database of its own, and run the web server on it; for ours, a worker, too."""
    url = os.environ["DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as sql:
        sql.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        sql.execute(f"CREATE DATABASE {name}")
    side.port = ports(fixed=False)["WEB_PORT"]
    environ = environment(side, urlsplit(url)._replace(path=f"/{name}").geturl(), provider.url)
    python = str(side.package.python)
    with (directory / f"{name}.log").open("ab") as log:
        migrate = [python, "-m", "django", "migrate", "--verbosity", "0"]
        subprocess.run(migrate, cwd=ROOT, env={**environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log, check=True)
        commands = [[python, *GRANIAN, "--port", str(side.port), *side.package.serve]]
        if side.package in {OURS, QUIET}:
            commands.append([python, "-m", "celery", "--quiet", "-A", "project", "worker", "-c", "1"])
        with ExitStack() as stack:
            for command in commands:
                process = subprocess.Popen(
                    tethered(command, signal.SIGTERM), cwd=ROOT, env=environ, stdout=log, stderr=log
                )
                stack.callback(_end, process)
                side.programs.append(process)
            until_it_answers(f"http://127.0.0.1:{side.port}", side.programs[0])
            yield


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(PATIENCE)


def drawn(side: Side, *domains: str) -> list[bytes]:
    """Make requests of people who have not been here before, their addresses of these domains in turn."""
    made = []
    for _, domain in zip(range(side.requests), itertools.cycle(domains), strict=False):
        name = uuid4().hex
        known = {"email": f"{name}@{domain}", "username": name, **dict.fromkeys(_PASSWORDS, PASSWORD)}
        body = {key: known[key] for key in ("email", *side.package.fields)}
        made.append(request(side.package.path, json.dumps(body).encode(), {}))
    return made


_PASSWORDS: Final = ("password", "password1", "password2")


def cpu_of(side: Side, postmaster: psutil.Process) -> float:
    """Return the seconds of CPU that a side's processes, and PostgreSQL's, have used so far, those that ended too."""
    parents = [psutil.Process(process.pid) for process in side.programs] + [postmaster]
    return sum(_seconds(each) for parent in parents for each in [parent, *parent.children(recursive=True)])


def _seconds(process: psutil.Process) -> float:
    try:
        return sum(process.cpu_times()[:4])
    except psutil.NoSuchProcess:  # its parent has the time by now
        return 0.0


def measure(side: Side, provider: Provider, postmaster: psutil.Process) -> None:
    """Play a round of one side, until its last mail has left."""
    requests = drawn(side, MAIL)
    sent, cpu = mails(provider), cpu_of(side, postmaster)
    begin = time.perf_counter()
    times = sorted(time_all(side.port, requests, CONNECTIONS, side.package.expected))
    answered = time.perf_counter() - begin
    until(lambda: mails(provider) - sent >= side.requests, PATIENCE, "the last mail to leave")
    side.left.append(side.requests / (time.perf_counter() - begin))
    side.cpu.append((cpu_of(side, postmaster) - cpu) / side.requests * 1000)
    side.rates.append(side.requests / answered)
    side.medians.append(statistics.median(times) * 1000)
    side.slow.append(times[int(len(times) * 0.95)] * 1000)


def compare(view: View, provider: Provider) -> None:
    """Play a round of the view, with and without what a registration writes beside the user."""
    domains = (MAIL, NO_MAIL, NO_CHALLENGE)
    requests = drawn(view.side, *domains)
    sent = mails(provider)
    with still(view.side.programs[1:]):
        times = time_all(view.side.port, requests, CONNECTIONS, view.side.package.expected)
    for place, domain in enumerate(domains):
        view.times.setdefault(domain, []).extend(times[place :: len(domains)])
    written = len(requests[:: len(domains)])
    until(lambda: mails(provider) - sent >= written, PATIENCE, "the last mail to leave")


def mails(provider: Provider) -> int:
    return int(provider.counts()["mails"])


def play(rounds: int, chosen: Sequence[Side], directory: Path, say: Callable[[str], Any]) -> bool:
    """Measure, and print the table; tell whether every goal was reached."""
    with ExitStack() as stack:
        port = ports(fixed=False)["SIMULATOR_PORT"]
        provider = Provider(f"http://127.0.0.1:{port}")
        faults = json.dumps({"latency_ms": LATENCY_MS})
        environ = os.environ | {
            "SIMULATOR_PORT": str(port),
            "SIMULATOR_DATA": str(directory / "simulator"),
            "SIMULATOR_RESEND_KEY": "re_key",
            "SIMULATOR_FAULTS": faults,
            "SIMULATOR_SYNC": "off",
            "SIMULATOR_WEBHOOKS": "off",
        }
        stack.enter_context(serving(Program("simulator", ["-m", "simulator"], environ, directory / "log"), provider))
        view = View(Side("view", QUIET, 720))
        for number, side in enumerate([*chosen, view.side]):
            stack.enter_context(running(side, f"bench_registration_{number}", directory, provider))
        postmaster = _postmaster()
        for number in range(rounds + 1):
            for side in chosen if number % 2 else chosen[::-1]:
                measure(side, provider, postmaster)
            compare(view, provider)
            if not number:  # the first warms up
                view.times.clear()
                for side, figures in itertools.product(chosen, ("rates", "medians", "slow", "cpu", "left")):
                    getattr(side, figures).clear()
    reached = [_report(chosen, say), _report_view(view, say)]
    return all(reached)


def _postmaster() -> psutil.Process:
    with psycopg.connect(os.environ["DATABASE_URL"]) as sql:
        [directory] = sql.execute("SHOW data_directory").fetchone() or [""]
    return psutil.Process(int((Path(directory) / "postmaster.pid").read_text().split()[0]))


def _report(chosen: Sequence[Side], say: Callable[[str], Any]) -> bool:
    heads = ("registrations/s", "p50 ms", "p95 ms", "CPU ms each", "times ours/s", "part p50")
    say(f"{'':28}" + "".join(f"{head:>22}" for head in heads) + "\n")
    ours = chosen[0]
    goals = []
    for side in chosen:
        times = [mine / theirs for mine, theirs in zip(ours.rates, side.rates, strict=True)]
        part = [mine / theirs for mine, theirs in zip(ours.medians, side.medians, strict=True)]
        cells = [(side.rates, 1), (side.medians, 0), (side.slow, 0), (side.cpu, 0), (times, 2), (part, 3)]
        say(f"{side.name:28}" + "".join(f"{_spread(values, digits):>22}" for values, digits in cells) + "\n")
        if side is not ours and not side.hasher:
            goals += [statistics.median(times) >= TIMES, statistics.median(part) <= PART]
    say(f"{'ours, to the last mail':28}{_spread(ours.left, 1):>22}\n\n")
    return all(goals)


def _report_view(view: View, say: Callable[[str], Any]) -> bool:
    say(
        f"{'our view, worker still':28}"
        + "".join(f"{head:>22}" for head in ("registrations", "p25 ms", "p50 ms", "p75 ms", "p50 with mail"))
        + "\n"
    )
    with_mail = statistics.median(view.times[MAIL])
    for name, domain in (("with mail", MAIL), ("without mail", NO_MAIL), ("nor a challenge", NO_CHALLENGE)):
        quartiles = statistics.quantiles(view.times[domain], n=4)
        cells = "".join(f"{1000 * value:>22.1f}" for value in quartiles)
        say(f"{name:28}{len(view.times[domain]):>22}{cells}{100 * (with_mail / quartiles[1] - 1):>+20.1f} %\n")
    return with_mail / statistics.median(view.times[NO_MAIL]) <= 1 + ADDED


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.registration")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="some of the peers, by name")
    options = parser.parse_args()
    directory = ROOT / ".run" / "bench-registration"
    directory.mkdir(parents=True, exist_ok=True)
    chosen = [
        side for side in sides() if options.only is None or side.name.startswith("ours") or side.name in options.only
    ]
    reached = play(options.rounds, chosen, directory, sys.stdout.write)
    sys.stdout.write(json.dumps({"reached": reached}) + "\n")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
