"""The whole service on one machine: private servers, web, worker, beat, relay, and a simulator of providers.

    python -m project.stack run     starts all of it and stays up
    python -m project.stack demo    starts it with data of its own and plays the main job (`project.demo`)
    python -m project.stack manage -- COMMAND...    runs `manage.py COMMAND...` on what `run` has started

The web server's and the simulator's ports come from WEB_PORT and SIMULATOR_PORT.
"""

import argparse
import base64
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import django
import requests
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.utils import timezone

from project import demo
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
from simulator.commands import environment as reporting

CHECKOUT = RUN.parent
HOST = "127.0.0.1"
STAFF_EMAIL = "staff@example.com"
READY_SECONDS = 60
PROBE_SECONDS = 3

LAST_PORT = 65535

# The line of a traceback that names the exception, such as `django.db.utils.OperationalError: ...`.
EXCEPTION = re.compile(r"[a-z]\w*(\.\w+)+: ")

DEFAULT_PORTS = {"WEB_PORT": 8000, "SIMULATOR_PORT": 8025}


@dataclass(frozen=True, slots=True)
class Mode:
    """How a stack is run: on the well-known ports or on any, with earlier data or none, its logs where."""

    fixed_ports: bool
    fresh: bool
    to_terminal: bool
    time_scale: str  # of the simulator: factor on its events' delays and its webhooks' retries


RUN_MODE = Mode(fixed_ports=True, fresh=False, to_terminal=True, time_scale="1")
DEMO_MODE = Mode(fixed_ports=False, fresh=True, to_terminal=False, time_scale="0.2")


def _webhook_key() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the processes of one stack share and nobody else needs to know; made once, kept with the data."""

    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    postmark_token: str = field(default_factory=secrets.token_urlsafe)
    postmark_webhook: str = field(default_factory=lambda: f"postmark:{secrets.token_urlsafe()}")
    resend_key: str = field(default_factory=lambda: f"re_{secrets.token_urlsafe()}")
    resend_webhook: str = field(default_factory=_webhook_key)
    staff_password: str = field(default_factory=lambda: secrets.token_urlsafe(12))


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack, as somebody outside sees it."""

    directory: Path
    web_url: str
    simulator_url: str
    staff_email: str
    staff_password: str
    supervisor: Supervisor


def load_secrets(file: Path) -> Secrets:
    """Read the secrets, or make them in a file that only its owner can read."""
    if file.exists():
        return Secrets(**json.loads(file.read_text()))
    made = Secrets()
    _keep(file, asdict(made))
    return made


def _keep(file: Path, values: dict[str, str]) -> None:
    """Write a new file that only its owner can read."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump(values, out, indent=2)


def ports(*, fixed: bool) -> dict[str, int]:
    """Find the stack's ports by variable: as the environment says, else the well-known ones or any free ones.

    Raises `Unavailable` with the variable to set when a port is taken.
    """
    found: dict[str, int] = {}
    with ExitStack() as held:  # all at once, so that no two get the same
        for variable, default in DEFAULT_PORTS.items():
            number = _port_number(variable, default if fixed else 0)
            listener = held.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((HOST, number))
            except OSError as error:
                reason = f"{variable}: port {number} cannot be used ({error.strerror})"
                raise Unavailable(f"{reason}; set {variable} to another one") from error
            listener.listen()
            found[variable] = listener.getsockname()[1]
    return found


def _port_number(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or int(text) > LAST_PORT:
        raise Unavailable(f"{variable} has to be a port number, not {text!r}")
    return int(text)


def environment(port: dict[str, int], keys: Secrets, urls: dict[str, str], data: Path) -> dict[str, str]:
    """Compose the environment of every process of the stack.

    The simulator stands in for both providers that mails are sent by, and can report as any other one: the secrets of
    those are new with each start, since nothing that was signed by them is kept.
    """
    web, simulator = f"{HOST}:{port['WEB_PORT']}", f"http://{HOST}:{port['SIMULATOR_PORT']}"
    service = {
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "DEBUG": "true",
        "SECRET_KEY": keys.secret_key,
        "PUBLIC_URL": f"http://{web}",
        "ALLOWED_HOSTS": f"{HOST},localhost",
        "SITE_NAME": "Example",
        "DEFAULT_FROM_EMAIL": "Accounts <accounts@example.com>",
        "MAIL_PROVIDERS": "resend,postmark",
        "ANYMAIL_RESEND_API_KEY": keys.resend_key,
        "ANYMAIL_RESEND_API_URL": f"{simulator}/resend/",
        "ANYMAIL_POSTMARK_SERVER_TOKEN": keys.postmark_token,
        "ANYMAIL_POSTMARK_API_URL": f"{simulator}/postmark/",
        "WEBHOOK_SECRET_RESEND": keys.resend_webhook,
        "WEBHOOK_SECRET_POSTMARK": keys.postmark_webhook,
        "WEB_THREADS": "16",
        "DJANGO_SUPERUSER_PASSWORD": keys.staff_password,
        # Celery warns root at length, which on a developer's machine says nothing new.
        "PYTHONWARNINGS": "ignore:You're running the worker with superuser privileges",
    }
    provider = {
        "SIMULATOR_HOST": HOST,
        "SIMULATOR_PORT": str(port["SIMULATOR_PORT"]),
        "SIMULATOR_DATA": str(data),
        "SIMULATOR_RESEND_KEY": keys.resend_key,
        "SIMULATOR_RESEND_SECRET": keys.resend_webhook,
        "SIMULATOR_RESEND_WEBHOOK": f"http://{web}/webhooks/resend/",
        "SIMULATOR_POSTMARK_TOKEN": keys.postmark_token,
        "SIMULATOR_POSTMARK_WEBHOOK": f"http://{keys.postmark_webhook}@{web}/webhooks/postmark/",
    }
    # A proxy that the environment names is not for addresses on this machine.
    direct = dict.fromkeys(("NO_PROXY", "no_proxy"), f"{HOST},localhost,{os.environ.get('NO_PROXY', '')}")
    return {**reporting(f"http://{web}"), **os.environ, **direct, **urls, **service, **provider}


def programs(port: dict[str, int], directory: Path) -> dict[str, list[str]]:
    """List what runs, by name: the command lines."""
    web = ["granian", "--interface", "asginl", "--http", "1", "--no-ws", "--log-level", "error"]
    web += ["--host", HOST, "--port", str(port["WEB_PORT"])]
    celery = ["celery", "--quiet", "-A", "project"]
    modules = {
        "simulator": ["simulator"],
        "web": [*web, "project.asgi:application"],
        "worker": [*celery, "worker", "-c", "2"],
        "beat": [*celery, "beat", "-s", str(directory / "beat-schedule")],
    }
    return {name: [sys.executable, "-m", *words] for name, words in modules.items()} | {
        "relay": [sys.executable, "manage.py", "relay"]
    }


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
    _keep(file, theirs)
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
