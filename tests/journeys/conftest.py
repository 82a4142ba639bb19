"""The service as it is deployed: web, workers, relay and beat as processes, a broker of their own, a provider."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress

import pytest
import requests

from project.processes import tethered
from project.valkey import Valkey
from tests.conftest import PATIENCE, ROOT, Simulator, free_port, wait_until

# Not in the password list, and found in no other text.
PASSWORD = "a-violet-Zeppelin-over-Lisbon"
HOOK_PASSWORD = "the-hook-s-own-password"
SVIX_SECRET = "whsec_dGhlIGpvdXJuZXlzJyBvd24gc2VjcmV0"

GRANIAN = ("-m", "granian", "--interface", "asginl", "--http", "1", "--no-ws", "--log-level", "error")
CELERY = ("-m", "celery", "--quiet", "-A", "project")

# What Celery writes to the terminal at its end, past all logging.
FAREWELL = re.compile(r"|worker: (Warm|Cold|Soft) shutdown.*|celery beat .* is (starting|shutting down)\.?")


class Service:
    """Processes of ours, each in a group of its own so that it can be killed as a whole, each with a log."""

    def __init__(self, directory, environment):
        self.directory = directory
        self.environment = environment
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._stack = ExitStack()
        self._count = 0

    def web(self, **environment):
        command = [*GRANIAN, "--host", "127.0.0.1", "--port", str(self.port), "project.asgi:application"]
        process = self.start("web", *command, **environment)
        # Where the application does not load, granian says why and stays.
        wait_until(lambda: process.poll() is not None or self._answers() or "Traceback" in self.text())
        assert self._answers(), self.text()
        return process

    def worker(self):
        return self.start("worker", *CELERY, "worker", "-c", "2")

    def relay(self):
        return self.start("relay", "manage.py", "relay", "--interval", "0.5")

    def beat(self):
        schedule = self.directory / "beat-schedule"
        return self.start("beat", *CELERY, "beat", "-s", str(schedule))

    def start(self, name, *command, **environment):
        self._count += 1
        with (self.directory / f"{self._count:02}-{name}.log").open("wb") as log:
            process = subprocess.Popen(
                tethered([sys.executable, *command], signal.SIGTERM),
                cwd=ROOT,
                env=self.environment | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._stack.callback(_end, process)
        return process

    def stop(self):
        self._stack.close()

    def _answers(self):
        with suppress(requests.RequestException):
            return self.call("GET", "/healthz").ok

    def call(self, method, path, *, token=None, timeout=PATIENCE, **how):
        headers = {"Authorization": f"Token {token}"} if token else {}
        return requests.request(method, self.url + path, headers=headers, timeout=timeout, allow_redirects=False, **how)

    def register(self, email, **how):
        return self.call("POST", "/api/v1/accounts/register", json={"email": email, "password": PASSWORD}, **how)

    def token(self, email):
        answer = self.call("POST", "/api/v1/auth/tokens", json={"email": email, "password": PASSWORD})
        assert answer.status_code == 201, answer.text
        return answer.json()["token"]

    def deliveries(self, token):
        """Return the caller's own deliveries by kind."""
        answer = self.call("GET", "/api/v1/accounts/me/deliveries", token=token).json()
        return {delivery["kind"]: delivery for delivery in answer["results"]}

    def text(self):
        """Return all that any of the processes wrote."""
        return "".join(log.read_text() for log in sorted(self.directory.glob("*.log")))

    def entries(self):
        """Return the log's entries, of all processes. Fails where a line is no JSON object."""
        lines = [line for line in self.text().splitlines() if not FAREWELL.fullmatch(line)]
        return [json.loads(line) for line in lines]


def kill(process):
    """Kill a process and all it has started, as a machine that loses its power does."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end(process):
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def broker(tmp_path):
    """A broker that only this test's processes know, to be killed or frozen."""
    valkey = Valkey(tmp_path / "valkey", volatile=True)
    valkey.start()
    yield valkey
    with suppress(RuntimeError):  # it was killed, and stayed so
        valkey.process.send_signal(signal.SIGCONT)
    valkey.stop()


def journey_environment(base, broker):
    """Return the environment of every process but for what tells of the web server's and simulator's ports."""
    return {
        **base,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "CELERY_BROKER_URL": broker.url,
        "REDIS_URL": broker.redis_url,
        "WEBHOOK_SECRET_POSTMARK": f"hook:{HOOK_PASSWORD}",
        "WEBHOOK_SECRET_RESEND": SVIX_SECRET,
        "MAIL_PROVIDERS": "resend,postmark",
        "MAIL_LEASE_SECONDS": "60",
        "SWEEP_SECONDS": "0.5",
        "WEB_THREADS": "4",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "INFO",
    }


@contextmanager
def deployed(directory, environment, *, time_scale="0.02"):
    """Prepare a service and the provider that reports to it; nothing of the service is started yet."""
    (directory / "logs").mkdir()
    (directory / "simulator").mkdir()
    service = Service(directory / "logs", environment)
    hooks = f"127.0.0.1:{service.port}/webhooks"
    with Simulator.started(
        directory / "simulator",
        SIMULATOR_TIME_SCALE=time_scale,
        SIMULATOR_POSTMARK_WEBHOOK=f"http://hook:{HOOK_PASSWORD}@{hooks}/postmark/",
        SIMULATOR_RESEND_WEBHOOK=f"http://{hooks}/resend/",
        SIMULATOR_RESEND_SECRET=SVIX_SECRET,
    ) as provider:
        service.environment = environment | provider.environment | {"PUBLIC_URL": service.url}
        try:
            yield service, provider
        finally:
            service.stop()


@pytest.fixture
def deployment(tmp_path, environment, broker):
    """(service, provider) on this test's database."""
    with deployed(tmp_path, journey_environment(environment, broker)) as both:
        yield both


@pytest.fixture
def service(deployment):
    return deployment[0]


@pytest.fixture
def provider(deployment):
    return deployment[1]


def mail_to(provider, address, subject=""):
    """Wait for a mail to an address, and return it."""
    return wait_until(lambda: next((mail for mail in provider.inbox(address) if subject in mail["subject"]), None))


def link_in(mail):
    """Return the path, with its query, of the one link in a mail."""
    [link] = {link for link in mail["links"] if "token=" in link}
    return "/" + link.split("/", 3)[3]


def elapsed(work):
    """Return what `work()` returns, and the seconds that it took."""
    begin = time.monotonic()
    return work(), time.monotonic() - begin
