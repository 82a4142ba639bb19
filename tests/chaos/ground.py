"""What a part of the run stands on: durable PostgreSQL and Valkey, and the providers' stand-in, all of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import psycopg
import requests

from project.answers import spelled_for_redis_py
from project.arrangement import ports
from project.embedded import RUN
from project.postgres import Postgres
from project.processes import claim, tethered, wipe
from project.servers import Server
from project.valkey import Valkey
from tests.chaos.brokers import BROKERS, Broker
from tests.chaos.hardware import Clock, Disk, unmount

ServerT = TypeVar("ServerT", bound=Server)

ROOT = RUN.parent
# Seconds that a program has to start or to end, on a machine that is busy with all the others.
PATIENCE = 60.0
# Rows of the provider's log that are asked for at once.
PAGE = 1000
# The provider's clock runs faster, so that what takes it minutes (a second delivery of a webhook) takes seconds.
TIME_SCALE = "0.01"

# The web server, as compose.yaml has it; the interface and the application follow, and the port.
GRANIAN = (
    *("-m", "granian", "--http", "1", "--no-ws", "--host", "127.0.0.1", "--log-level", "error"),
    *("--workers", "2", "--respawn-failed-workers", "--workers-kill-timeout", "25"),
)

HOOK_PASSWORD = "the-hook-s-own-password"
SVIX_SECRET = "whsec_Y2hhb3MnIG93biBzZWNyZXQsIGtub3duIHRvIG5vYm9keQ=="
# Its private half was never kept: no webhook of SendGrid's is taken here.
SENDGRID_PUBLIC_KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEi8ebnY8dbLhWgswNLDDrpPX9D1"
    "L+V+J+XCfSXAEQRHu9zeubmVN9QkW6Kp3PiYhS4V2h0bd2LM03kvZ1koG9gQ=="
)


@dataclass
class Program:
    """A program that is started, killed, frozen and started again, in a process group of its own."""

    name: str
    command: list[str]
    environ: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    kills: int = 0

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                tethered([sys.executable, *self.command], signal.SIGTERM),
                cwd=ROOT,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        """Signal it and all that it has started."""
        if self.process:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """Kill it as a machine that loses its power would, and wait for its end."""
        if self.process:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.kills += 1

    def stop(self) -> None:
        """End it in order, and by force what is left."""
        if self.process:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
            self.signal(signal.SIGKILL)
            self.process.wait()

    def run(self) -> None:
        """Run it to its end. Raises `RuntimeError` with what it said where that was not a good one."""
        self.start()
        if self.process and self.process.wait(PATIENCE) != 0:
            raise RuntimeError(f"{self.name} failed: {self.log.read_text()[-2000:]}")


@dataclass
class Provider:
    """The simulator, asked over HTTP."""

    url: str
    session: requests.Session = field(default_factory=requests.Session)

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        answer = self.session.request(method, self.url + path, json=body, params=query, timeout=PATIENCE)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def is_up(self) -> bool:
        with suppress(requests.RequestException):
            return bool(self.ask("GET", "/healthz"))
        return False

    def faults(self, **faults: Any) -> None:
        """Put these faults in the place of all others."""
        self.ask("PUT", "/faults", faults)

    def accepted(self) -> Iterator[dict[str, Any]]:
        """Return every mail that was accepted, oldest first."""
        return self._pages("/log.json", "accepted")

    def requests(self) -> Iterator[dict[str, Any]]:
        """Return what was done to each message of each request, accepted or not, oldest first."""
        return self._pages("/requests.json", "requests")

    def _pages(self, path: str, name: str) -> Iterator[dict[str, Any]]:
        after: int | None = 0
        while after is not None:
            page = self.ask("GET", path, after=after, limit=PAGE)
            yield from page[name]
            after = page.get("next")

    def webhooks_due(self) -> int:
        """Count the webhooks that are still to be posted."""
        return int(self.counts()["webhooks"].get("pending", 0))

    def counts(self) -> dict[str, Any]:
        """Return how many mails there are, and webhooks by state."""
        return dict(self.ask("GET", "/counts.json"))

    def webhooks(self) -> Iterator[dict[str, Any]]:
        """Return every webhook that was planned, with what became of it."""
        return self._pages("/webhooks.json", "webhooks")


@dataclass
class Ground:
    """Servers that run, and the environment of a service on them."""

    directory: Path
    postgres: Postgres
    broker: Broker
    provider: Provider
    port: int
    environ: dict[str, str]
    disk: Disk | None = None
    clock: Clock | None = None

    @property
    def url(self) -> str:
        """Where the web server is to be."""
        return f"http://127.0.0.1:{self.port}"

    def database(self, name: str) -> str:
        """Return the URL of a database of this server."""
        return urlsplit(self.postgres.url)._replace(path=f"/{quote(name)}").geturl()

    def program(self, name: str, *command: str, **environ: str) -> Program:
        return Program(name, list(command), self.environ | environ, self.directory / f"{name}.log")


@dataclass(frozen=True)
class Kit:
    """What the servers are, beyond the usual."""

    broker: str = "valkey"
    full_disk: bool = False
    clock_jumps: bool = False


USUAL: Final = Kit()


@contextmanager
def standing(directory: Path, *, webhooks: bool, providers: str, kit: Kit = USUAL, **environ: str) -> Iterator[Ground]:
    """Start the servers in a directory, emptied first; stop them in the end. Raises `Unavailable`."""
    with ExitStack() as stack:
        stack.enter_context(claim(directory))
        unmount(directory / "disk")
        wipe(directory)
        disk = stack.enter_context(Disk.mounted(directory / "disk")) if kit.full_disk else None
        postgres = _started(stack, Postgres((disk.directory if disk else directory) / "postgres"))
        broker = BROKERS[kit.broker](directory / kit.broker)
        _started(stack, broker.server)
        is_redis = isinstance(broker.server, Valkey)
        cache = broker.server if is_redis else _started(stack, Valkey(directory / "cache"))
        port = ports(fixed=False)
        provider = Provider(f"http://127.0.0.1:{port['SIMULATOR_PORT']}")
        clock = Clock(directory) if kit.clock_jumps else None
        ground = Ground(directory, postgres, broker, provider, port["WEB_PORT"], {}, disk, clock)
        ground.environ = {
            **os.environ,
            **simulator_environ(ground.url if webhooks else ""),
            **service_environ(provider.url, ground.url, providers),
            "SIMULATOR_DATA": str(directory / "simulator"),
            "SIMULATOR_PORT": str(port["SIMULATOR_PORT"]),
            "DATABASE_URL": postgres.url,
            "CELERY_BROKER_URL": broker.server.url,
            "REDIS_URL": spelled_for_redis_py(cache.url),
            "TMPDIR": str(_made(directory / "tmp")),  # what is killed leaves files there
            **environ,
        }
        stack.enter_context(serving(ground.program("simulator", "-m", "simulator"), provider))
        yield ground


def _started(stack: ExitStack, server: ServerT) -> ServerT:
    stack.callback(server.stop)
    server.start()
    return server


@contextmanager
def serving(simulator: Program, provider: Provider) -> Iterator[None]:
    """Run a simulator."""
    simulator.start()
    try:
        until(provider.is_up, PATIENCE, "the simulator to answer")
        yield
    finally:
        simulator.stop()


def simulator_environ(hooks: str) -> dict[str, str]:
    """Return the simulator's settings; it posts webhooks where `hooks` names a web server."""
    accounts = {
        "SIMULATOR_POSTMARK_TOKEN": "postmark-token",
        "SIMULATOR_RESEND_KEY": "re_key",
        "SIMULATOR_SENDGRID_KEY": "sendgrid-key",
        "SIMULATOR_RESEND_SECRET": SVIX_SECRET,
        "SIMULATOR_TIME_SCALE": TIME_SCALE,
    }
    if not hooks:
        return accounts
    host = urlsplit(hooks).netloc
    return accounts | {
        "SIMULATOR_POSTMARK_WEBHOOK": f"http://hook:{HOOK_PASSWORD}@{host}/webhooks/postmark/",
        "SIMULATOR_RESEND_WEBHOOK": f"http://{host}/webhooks/resend/",
    }


def service_environ(simulator: str, public: str, providers: str) -> dict[str, str]:
    """Return the service's settings: its own defaults, but for short leases and sweeps."""
    return {
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "SECRET_KEY": "chaos-signs-with-this-and-nobody-else-does-0123456789",
        "PUBLIC_URL": public,
        "SITE_NAME": "Example",
        "DEFAULT_FROM_EMAIL": "Accounts <accounts@example.com>",
        "MAIL_PROVIDERS": providers,
        "THROTTLES": "0",  # all who register come from one address
        "MAIL_GRACE_SECONDS": "1",
        "ANYMAIL_POSTMARK_API_URL": f"{simulator}/postmark/",
        "ANYMAIL_POSTMARK_SERVER_TOKEN": "postmark-token",
        "ANYMAIL_RESEND_API_URL": f"{simulator}/resend/",
        "ANYMAIL_RESEND_API_KEY": "re_key",
        "ANYMAIL_SENDGRID_API_URL": f"{simulator}/sendgrid/",
        "ANYMAIL_SENDGRID_API_KEY": "sendgrid-key",
        "WEBHOOK_SECRET_POSTMARK": f"hook:{HOOK_PASSWORD}",
        "WEBHOOK_SECRET_RESEND": SVIX_SECRET,
        "WEBHOOK_SECRET_SENDGRID": SENDGRID_PUBLIC_KEY,
        "WEBHOOK_SECRET_MAILJET": f"hook:{HOOK_PASSWORD}",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "INFO",
        "PYTHONWARNINGS": "ignore:You're running the worker with superuser privileges",
    }


def deadlocks(ground: Ground) -> int:
    """Count the deadlocks that PostgreSQL has seen: in its log, since its statistics do not outlive a crash."""
    return ground.postgres.log.read_text(errors="replace").count("ERROR:  deadlock detected")


def connect(url: str) -> psycopg.Connection[Any]:
    """Open a session that commits each statement."""
    return psycopg.connect(url, autocommit=True)


def until(condition: Any, seconds: float, what: str) -> Any:
    """Return the first true value of `condition()`. Raises `TimeoutError` where there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.02)
    return value


def until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait for a web server. Raises `RuntimeError` where it has ended, `TimeoutError` where it does not answer."""

    def answers() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"what was to answer at {url} has ended")
        with suppress(requests.RequestException):
            return requests.get(f"{url}/healthz", timeout=PATIENCE).ok
        return False

    until(answers, PATIENCE, f"an answer from {url}")


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory
