"""The whole service on one machine: private servers, web, worker, beat, relay, and a simulator of providers.

    python -m project.stack run     starts all of it and stays up
    python -m project.stack demo    starts it with data of its own and plays the main job (`project.demo`)
    python -m project.stack manage -- COMMAND...    runs `manage.py COMMAND...` on what `run` has started

The web server's and the simulator's ports come from WEB_PORT and SIMULATOR_PORT.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import django
import requests
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.utils import timezone

from project import demo
from project.arrangement import HOST, environment, keep_private, load_secrets, ports, programs
from project.embedded import RUN, serving
from project.processes import (
    Interrupted,
    Supervisor,
    Unavailable,
    claim,
    interrupt_once,
    is_claimed,
    run_command,
    tethered,
    wipe,
)

CHECKOUT = RUN.parent
STAFF_EMAIL = "staff@example.com"
READY_SECONDS = 60
PROBE_SECONDS = 3

# The line of a traceback that names the exception, such as `django.db.utils.OperationalError: ...`.
EXCEPTION = re.compile(r"[a-z]\w*(\.\w+)+: ")


@dataclass(frozen=True, slots=True)
class Mode:
    """How a stack is run: on the well-known ports or on any, with earlier data or none, its logs where."""

    fixed_ports: bool
    fresh: bool
    to_terminal: bool
    time_scale: str  # of the simulator: factor on its events' delays and its webhooks' retries


RUN_MODE = Mode(fixed_ports=True, fresh=False, to_terminal=True, time_scale="1")
DEMO_MODE = Mode(fixed_ports=False, fresh=True, to_terminal=False, time_scale="0.2")


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack, as somebody outside sees it."""

    directory: Path
    web_url: str
    simulator_url: str
    staff_email: str
    staff_password: str
    supervisor: Supervisor


@contextmanager
def running(name: str, mode: Mode, say: Callable[[str], None]) -> Iterator[Stack]:
    """Start everything in `.run/<name>/`, wait until it is ready, and stop it in the end.

    Raises `Unavailable` with one line that says what to do.
    """
    port = ports(fixed=mode.fixed_ports)
    directory = RUN / name
    logs = directory / "logs"
    with ExitStack() as started:
        started.enter_context(claim(directory))
        if mode.fresh:
            # What a killed stack left of its servers goes when they start: they may still be about to end.
            wipe(directory, keep={"postgres", "valkey"})
        logs.mkdir(exist_ok=True)
        say("getting PostgreSQL and Valkey ready")
        servers = started.enter_context(serving(directory, fresh=mode.fresh))
        keys = load_secrets(directory / "secrets.json")
        environ = environment(port, keys, servers.urls, directory / "simulator")
        environ["LOG_FORMAT"] = "console" if mode.to_terminal else "json"
        environ.setdefault("SIMULATOR_TIME_SCALE", mode.time_scale)
        environ["TMPDIR"] = str(directory / "tmp")  # killed workers leave files there
        (directory / "tmp").mkdir(exist_ok=True)
        say("migrating the database")
        _prepare_database(environ, logs / "prepare.log")
        say("starting " + ", ".join(programs(port, directory)))
        supervisor = Supervisor(None if mode.to_terminal else logs)
        started.callback(supervisor.stop)
        for server in servers.private:
            supervisor.watch(server.title, server.process)
        for program, command in programs(port, directory).items():
            supervisor.start(program, command, environ, CHECKOUT)
        stack = Stack(
            directory,
            web_url=environ["PUBLIC_URL"],
            simulator_url=f"http://{HOST}:{port['SIMULATOR_PORT']}",
            staff_email=STAFF_EMAIL,
            staff_password=keys.staff_password,
            supervisor=supervisor,
        )
        wait_until_ready(f"{stack.simulator_url}/healthz", supervisor)
        wait_until_ready(f"{stack.web_url}/readyz", supervisor)
        started.callback(_tell(directory, environ).unlink, missing_ok=True)
        yield stack


# What the service's settings read, where whoever started the stack has set some: the rest of a shell is its own.
SETTINGS = ("ANYMAIL_", "CELERY_", "DATABASE_", "EMAIL_", "MAIL_", "REDIS_", "WEBHOOK_")
# Of the processes of a stack alone: a command by hand shall not give its users the password of the staff login.
PRIVATE = frozenset({"DJANGO_SUPERUSER_PASSWORD"})


def _told(directory: Path) -> Path:
    return directory / "environment.json"


def _tell(directory: Path, environ: dict[str, str]) -> Path:
    """Write down what makes the processes' environment, for `manage`; return the file."""
    file = _told(directory)
    file.unlink(missing_ok=True)  # of a stack that was killed
    theirs = {
        name: value
        for name, value in environ.items()
        if (name.startswith(SETTINGS) or os.environ.get(name) != value) and name not in PRIVATE
    }
    keep_private(file, theirs)
    return file


def manage(name: str, arguments: list[str]) -> int:
    """Run `manage.py` with the servers and settings of a running stack; return its exit code.

    Raises `Unavailable` where that is not running, or not ready yet.
    """
    told = _told(RUN / name)
    if not (is_claimed(RUN / name) and told.exists()):
        raise Unavailable(
            f"Nothing runs in {os.path.relpath(RUN / name)}: start `make {name}`, and wait until it is up"
        )
    environ = os.environ | json.loads(told.read_text())
    return run_command([sys.executable, str(CHECKOUT / "manage.py"), *arguments], environ)


def _prepare_database(environ: dict[str, str], log: Path) -> None:
    command = tethered([sys.executable, "-m", "project.stack", "prepare"], signal.SIGTERM)
    with log.open("w") as out:
        done = subprocess.run(command, check=False, cwd=CHECKOUT, env=environ, stdout=out, stderr=out)
    if done.returncode != 0:
        lines = log.read_text().splitlines() or ["it said nothing"]
        reason = next((line for line in reversed(lines) if EXCEPTION.match(line)), lines[-1])
        raise Unavailable(f"the database could not be prepared: {reason} (more in {log})")


def prepare() -> None:
    """Migrate, and see to it that the staff login exists and has the password of this stack."""
    django.setup()
    call_command("migrate", verbosity=0)
    users = get_user_model()._default_manager
    staff = users.filter(email=STAFF_EMAIL).first()
    password = os.environ["DJANGO_SUPERUSER_PASSWORD"]
    if staff is None:
        users.create_superuser(STAFF_EMAIL, password, email_verified_at=timezone.now())
    elif not staff.check_password(password):
        staff.set_password(password)
        staff.save(update_fields=["password"])


def wait_until_ready(url: str, supervisor: Supervisor) -> None:
    """Probe until the answer is good. Raises `Unavailable` when a program ends or READY_SECONDS are over."""
    session = demo.local_session()
    deadline = time.monotonic() + READY_SECONDS
    while (reason := _probe(session, url)) is not None:
        supervisor.wait(0.1)
        if time.monotonic() > deadline:
            raise Unavailable(f"{url} is not ready after {READY_SECONDS} s: {reason}")


def _probe(session: requests.Session, url: str) -> str | None:
    try:
        session.get(url, timeout=PROBE_SECONDS).raise_for_status()
    except requests.RequestException as error:
        return str(error)
    return None


BLOCK = """
  The service is up. Ctrl-C stops it; its data stays in {directory}.

    REST API        {web}/api/v1/
    API docs        {web}/api/docs/
    Admin           {web}/admin/
    Sent mails      {simulator}/   (the simulator's inbox)
    Staff login     {email}   password: {password}

"""


def run(name: str) -> int:
    """Keep a stack up until a signal ends it, or one of its programs does."""
    with running(name, RUN_MODE, _say) as stack:
        block = BLOCK.format(
            directory=os.path.relpath(stack.directory),
            web=stack.web_url,
            simulator=stack.simulator_url,
            email=stack.staff_email,
            password=stack.staff_password,
        )
        sys.stdout.write(block)
        sys.stdout.flush()
        stack.supervisor.wait()
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"  {line} ...\n")
    sys.stdout.flush()


def play(name: str) -> int:
    """Play the main job on a fresh stack; the programs' logs are JSON lines in files."""
    screen = demo.Screen()
    try:
        with running(name, DEMO_MODE, screen.progress) as stack:
            login = (stack.staff_email, stack.staff_password)
            if demo.play(stack.web_url, stack.simulator_url, login, screen, stack.supervisor.wait):
                return 0
            screen.console.print(f"  The logs of its processes are in {os.path.relpath(stack.directory / 'logs')}.")
            return 1
    finally:
        screen.close()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m project.stack", description="Run the whole service here.")
    parser.add_argument("action", choices=["run", "demo", "manage", "prepare"])
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="what `manage` hands to manage.py, after --")
    parser.add_argument("--name", help="data and logs live in .run/NAME (default: the action, for `manage` run)")
    options = parser.parse_args(arguments)
    if options.action == "prepare":
        prepare()
        return 0
    if options.arguments and options.action != "manage":
        parser.error("arguments are for `manage` only")
    name = options.name or {"manage": "run"}.get(options.action, options.action)
    interrupt_once()
    try:
        if options.action == "manage":
            return manage(name, options.arguments)
        return run(name) if options.action == "run" else play(name)
    except Unavailable as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except Interrupted as interruption:
        # Being stopped is how `run` ends; a demo that is stopped has shown nothing.
        return 0 if options.action == "run" else 128 + interruption.number


if __name__ == "__main__":
    sys.exit(main())
