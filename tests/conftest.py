"""What all tests share: the provider's stand-in as a real process, and what starting one of our own takes."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

import pytest
from django.db import connection, connections
from django.test import TransactionTestCase

from mailer import letters
from project.processes import tethered

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
# Seconds that a process has to start, to answer or to end, also on a machine that is busy with other tests.
PATIENCE = 30.0


def wait_until(condition: Callable[[], T], timeout: float = PATIENCE) -> T:
    """Return the first true value of `condition`. Fails the test when there is none in time."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout:g} s in vain")
        time.sleep(0.02)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(*command: str, env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python program from the checkout; end it, by force where it does not heed SIGTERM."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            tethered([sys.executable, *command], signal.SIGTERM), cwd=ROOT, env=env, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Simulator:
    """A provider's stand-in under test: what it accepted, and what is to go wrong at it."""

    start: Callable[[], None]
    process: subprocess.Popen[bytes]

    TOKEN, KEY = "postmark-token", "re_key"
    MAILJET, SENDGRID = ("mailjet-key", "mailjet-secret"), "sendgrid-key"

    def __init__(self, url: str, ca: str = "") -> None:
        self.url = url
        self._trust = ssl.create_default_context(cafile=ca) if ca else None
        # What Django's ANYMAIL setting, and the environment of a process, need to send through it.
        self.anymail = {
            "POSTMARK_API_URL": f"{url}/postmark/",
            "POSTMARK_SERVER_TOKEN": self.TOKEN,
            "RESEND_API_URL": f"{url}/resend/",
            "RESEND_API_KEY": self.KEY,
            "MAILJET_API_URL": f"{url}/mailjet/",
            "MAILJET_API_KEY": self.MAILJET[0],
            "MAILJET_SECRET_KEY": self.MAILJET[1],
            "SENDGRID_API_URL": f"{url}/sendgrid/",
            "SENDGRID_API_KEY": self.SENDGRID,
        }
        self.environment = {f"ANYMAIL_{name}": value for name, value in self.anymail.items()}

    @classmethod
    @contextmanager
    def started(cls, directory: Path, ca: str = "", **env: str) -> Iterator["Simulator"]:
        """Run one, with its data in a directory; `env` may add its SIMULATOR_* variables, such as webhooks.

        `ca` is the file by which the certificate is trusted that its variables name: it then speaks TLS.
        """
        port = free_port()
        simulator = cls(f"{'https' if ca else 'http'}://127.0.0.1:{port}", ca)
        environ = {
            **os.environ,
            "SIMULATOR_POSTMARK_TOKEN": cls.TOKEN,
            "SIMULATOR_RESEND_KEY": cls.KEY,
            "SIMULATOR_MAILJET_KEY": ":".join(cls.MAILJET),
            "SIMULATOR_SENDGRID_KEY": cls.SENDGRID,
            **env,
            "SIMULATOR_PORT": str(port),
            "SIMULATOR_DATA": str(directory),
        }
        with ExitStack() as stack:
            simulator.start = lambda: simulator._start(stack, environ, directory / "simulator.log")
            simulator.start()
            yield simulator

    def _start(self, stack: ExitStack, environ: Mapping[str, str], log: Path) -> None:
        process = stack.enter_context(running("-m", "simulator", env=environ, log=log))
        wait_until(lambda: process.poll() is not None or self.is_up())
        assert process.poll() is None, log.read_text()
        self.process = process

    def kill(self) -> None:
        """Kill it as a crash would; `start()` brings it back at the same address, with the mails it had."""
        self.process.kill()
        self.process.wait()

    def is_up(self) -> bool:
        try:
            self.ask("GET", "/healthz")
        except OSError:
            return False
        return True

    def ask(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        request = Request(
            f"{self.url}{path}?{urlencode(query)}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urlopen(request, timeout=PATIENCE, context=self._trust) as response:
            content = response.read()
        return json.loads(content) if content else None

    def reset(self) -> None:
        """Forget all mails and faults."""
        self.faults()
        self.ask("POST", "/reset")

    def faults(self, **faults: Any) -> None:
        """Put these faults in the place of all others."""
        self.ask("PUT", "/faults", faults)

    def accepted(self, message_id: object = "") -> list[dict[str, Any]]:
        """Return what the durable log holds, oldest first: of one message, by our id, or of all."""
        return self._pages("/log.json", "accepted", message_id=str(message_id))

    def requests(self) -> list[dict[str, Any]]:
        """Return what was done to each message of each request that came, oldest first, accepted or not."""
        return self._pages("/requests.json", "requests")

    def _pages(self, path: str, name: str, **query: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        after = 0
        while after is not None:
            page = self.ask("GET", path, after=str(after), **query)
            rows, after = rows + page[name], page["next"]
        return rows

    def counts(self) -> dict[str, Any]:
        """Return totals: mails, by provider, webhooks by state, and `not_once` by our id; cheap for a million."""
        return dict(self.ask("GET", "/counts.json"))

    def webhooks(self, mail: str) -> list[dict[str, Any]]:
        """Return the webhooks that are planned for a mail, by its id here, posted or not."""
        return list(self.ask("GET", "/webhooks.json", mail=mail)["webhooks"])

    def happened(self, mail: str) -> list[str]:
        """Name what has happened to a mail by now, whether or not anybody was told."""
        return [row["event"] for row in self.webhooks(mail) if row["happened_at"] <= time.time()]

    def inbox(self, to: str = "") -> list[dict[str, Any]]:
        """Return the mails to an address, or all, newest first, each with text, html and links."""
        return list(self.ask("GET", "/inbox.json", to=to)["mails"])


# What migrations write and no test does: the names of the models, and of the permissions for them.
KEPT = {"django_content_type", "auth_permission"}


@pytest.fixture(scope="session", autouse=True)
def quick_flush() -> Iterator[None]:
    """Empty the tables that a test in transactions of its own has filled, and leave all others alone.

    Django empties all of them and writes each model's permissions anew, which takes 106 ms of CPU, and this 18.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda _: empty_tables())
        yield


def empty_tables() -> None:
    tables = [table for table in sorted(connection.introspection.django_table_names()) if table not in KEPT]
    filled = " UNION ALL ".join(f"SELECT '{table}' WHERE EXISTS (SELECT FROM {table})" for table in tables)
    with connection.cursor() as cursor:
        cursor.execute(filled)
        if found := [table for (table,) in cursor.fetchall()]:
            cursor.execute(f"TRUNCATE {', '.join(found)} CASCADE")


@pytest.fixture(scope="session")
def simulator_process(tmp_path_factory) -> Iterator[Simulator]:
    with Simulator.started(tmp_path_factory.mktemp("simulator")) as simulator:
        yield simulator


@pytest.fixture
def simulator(simulator_process, settings) -> Simulator:
    """The simulator, empty and without faults; both providers of this process are pointed at it."""
    simulator_process.reset()
    letters.backend_at.cache_clear()  # an earlier test had pointed it elsewhere
    settings.ANYMAIL = {**settings.ANYMAIL, **simulator_process.anymail}
    return simulator_process


@pytest.fixture
def environment(transactional_db) -> dict[str, str]:
    """The environment in which a process of ours works on this test's database, with the service's own settings."""
    url = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{connection.settings_dict['NAME']}")
    return {**os.environ, "DATABASE_URL": url.geturl(), "DJANGO_SETTINGS_MODULE": "project.settings"}


@pytest.fixture
def boto3_at(monkeypatch, tmp_path) -> Callable[[str], None]:
    """Have boto3 speak to a server, as somebody, and find nothing else on this machine."""

    def point(url: str) -> None:
        environment = {
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_CONFIG_FILE": str(tmp_path / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return point


@pytest.fixture
def no_database(transactional_db):
    """Point this thread's connection at a port where nothing listens, as after a crash of the server."""
    wrapper = connections["default"]  # not the proxy to it
    wrapper.close()
    before = wrapper.settings_dict
    wrapper.settings_dict = before | {"HOST": "127.0.0.1", "PORT": str(free_port())}
    yield
    wrapper.close()
    wrapper.settings_dict = before


def in_threads(count: int, work: Callable[[int], T]) -> list[T]:
    """Run `work(0)`, `work(1)`, ... in threads of their own, all at once; return what they return, in that order.

    Raises what one of them raises. Each thread has its own database connection, closed in the end.
    """
    start = threading.Barrier(count)

    def one(number: int) -> T:
        try:
            start.wait(PATIENCE)
            return work(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))
