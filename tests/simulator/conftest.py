"""A real simulator in a process of its own, and a real receiver for its webhooks."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

ROOT = Path(__file__).parents[2]
SECRET = "whsec_c2ltdWxhdG9yLXRlc3Qtc2VjcmV0LTAxMjM0NTY3"
TOKEN, KEY, MAILJET, SENDGRID = "server-token", "re_key", ("mailjet-key", "mailjet-secret"), "sendgrid-key"
PROVIDERS = ("postmark", "resend", "mailjet", "sendgrid")
PATIENCE = 20.0


def wait_until(condition: Callable[[], Any]) -> Any:
    """Return what ``condition`` returns once it is true; fail the test after a long time."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {PATIENCE} s in vain")
        threading.Event().wait(0.02)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Takes webhooks. ``answers`` are the status codes of the next requests, 200 after those; a gate holds them."""

    port: int = 0
    answers: list[int] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def serving(self) -> Iterator["Receiver"]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append(Received(self.path, headers, body))
                status = receiver.answers.pop(0) if receiver.answers else 200
                receiver.gate.wait(PATIENCE)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Keep the test's output clean."""

        self.gate.set()
        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.port = server.server_port
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            yield self
            self.gate.set()
            server.shutdown()
            thread.join()


class Simulator:
    """One running simulator, with short ways to talk to it."""

    def __init__(self, process: "subprocess.Popen[str]", port: int, ca: str = "") -> None:
        self.process = process
        self.url = f"{'https' if ca else 'http'}://127.0.0.1:{port}"
        self.port = port
        self.verify: str | bool = ca or True

    def send(self, provider: str, to: str = "delivered@example.com", message_id: str = "m-1") -> requests.Response:
        """Send one mail through any provider."""
        posts = {"postmark": self.postmark, "resend": self.resend, "mailjet": self.mailjet, "sendgrid": self.sendgrid}
        return posts[provider](MAILS[provider](to, message_id))

    def postmark(self, payload: Any, path: str = "email", token: str | None = TOKEN) -> requests.Response:
        headers = {"X-Postmark-Server-Token": token} if token else {}
        return requests.post(f"{self.url}/postmark/{path}", json=payload, headers=headers, timeout=PATIENCE)

    def resend(
        self, payload: Any, key: str | None = None, path: str = "emails", token: str | None = KEY
    ) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {"Idempotency-Key": key} if key is not None else {}
        return requests.post(f"{self.url}/resend/{path}", json=payload, headers=headers, timeout=PATIENCE)

    def mailjet(self, payload: Any, auth: tuple[str, str] = MAILJET) -> requests.Response:
        return requests.post(f"{self.url}/mailjet/send", json=payload, auth=auth, timeout=PATIENCE)

    def sendgrid(self, payload: Any, token: str = SENDGRID) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"}
        return requests.post(f"{self.url}/sendgrid/mail/send", json=payload, headers=headers, timeout=PATIENCE)

    def done(self) -> list[tuple[str, str, str]]:
        """Return what was done to each message of each request: provider, our id, and what."""
        rows = self.get("/requests.json")["requests"]
        return [(row["provider"], row["message_id"], row["done"]) for row in rows]

    def get(self, path: str, **query: str) -> Any:
        response = requests.get(f"{self.url}{path}", params=query, timeout=PATIENCE, verify=self.verify)
        response.raise_for_status()
        return response.json()

    def count(self, **query: str) -> int:
        count: int = self.get("/log.json", **query)["count"]
        return count

    def webhooks(self, **query: str) -> list[dict[str, Any]]:
        hooks: list[dict[str, Any]] = self.get("/webhooks.json", **query)["webhooks"]
        return hooks

    def faults(self, **faults: Any) -> None:
        requests.put(f"{self.url}/faults", json=faults, timeout=PATIENCE).raise_for_status()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def run(*arguments: str, **env: str) -> "subprocess.Popen[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SIMULATOR_")}
    return subprocess.Popen(
        [sys.executable, "-m", "simulator", *arguments],
        cwd=ROOT,
        env=clean | env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def running(data: Path, *arguments: str, ca: str = "", **env: str) -> Iterator[Simulator]:
    """Run a simulator until the end of the block; ``env`` adds to its settings. It may be stopped before.

    ``ca`` is the file that its certificate is trusted by; it then speaks TLS.
    """
    port = free_port()
    settings = {
        "SIMULATOR_PORT": str(port),
        "SIMULATOR_DATA": str(data),
        "SIMULATOR_POSTMARK_TOKEN": TOKEN,
        "SIMULATOR_RESEND_KEY": KEY,
        "SIMULATOR_MAILJET_KEY": ":".join(MAILJET),
        "SIMULATOR_SENDGRID_KEY": SENDGRID,
        "SIMULATOR_TIME_SCALE": "0.02",
    }
    with run(*arguments, **settings | env) as process:
        simulator = Simulator(process, port, ca)
        try:
            wait_until(lambda: process.poll() is not None or _is_up(simulator))
            assert process.poll() is None, process.communicate()[1]
            yield simulator
        finally:
            if process.poll() is None:
                simulator.stop()


def _is_up(simulator: Simulator) -> bool:
    try:
        return requests.get(f"{simulator.url}/healthz", timeout=PATIENCE, verify=simulator.verify).ok
    except requests.ConnectionError:
        return False


Start = Callable[..., Simulator]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver().serving() as receiver:
        yield receiver


@pytest.fixture
def start(receiver: Receiver, tmp_path: Path) -> Iterator[Start]:
    """Start a simulator that posts to the receiver; later ones share its data directory."""
    webhooks = {
        "SIMULATOR_POSTMARK_WEBHOOK": f"http://us%40er:pass@127.0.0.1:{receiver.port}/webhooks/postmark/",
        "SIMULATOR_RESEND_WEBHOOK": f"http://127.0.0.1:{receiver.port}/webhooks/resend/",
        "SIMULATOR_RESEND_SECRET": SECRET,
    }
    with ExitStack() as stack:
        yield lambda *arguments, **env: stack.enter_context(running(tmp_path / "data", *arguments, **webhooks | env))


@pytest.fixture
def simulator(start: Start) -> Simulator:
    """A new simulator that posts to the receiver."""
    return start()


@pytest.fixture(scope="session")
def one_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with running(tmp_path_factory.mktemp("simulator")) as simulator:
        yield simulator


@pytest.fixture
def quiet(one_for_all: Simulator) -> Simulator:
    """An emptied simulator that posts nothing: quicker to have than a new one."""
    one_for_all.faults()
    requests.post(f"{one_for_all.url}/reset", timeout=PATIENCE).raise_for_status()
    return one_for_all


def postmark_mail(to: str = "delivered@example.com", **more: Any) -> dict[str, Any]:
    return {
        "From": "Shop <shop@example.com>",
        "To": to,
        "Subject": "Hello",
        "TextBody": "Open https://example.com/verify?token=abc.",
        "Metadata": {"message_id": "m-1"},
    } | more


def resend_mail(to: str = "delivered@example.com", **more: Any) -> dict[str, Any]:
    return {
        "from": "Shop <shop@example.com>",
        "to": [to],
        "subject": "Hello",
        "text": "Open https://example.com/verify?token=abc.",
        "headers": {"X-Metadata": '{"message_id": "m-1"}'},
    } | more


def mailjet_mail(to: str = "delivered@example.com", **more: Any) -> dict[str, Any]:
    return {
        "From": {"Email": "shop@example.com", "Name": "Shop"},
        "To": [{"Email": to}],
        "Subject": "Hello",
        "TextPart": "Open https://example.com/verify?token=abc.",
        "EventPayload": '{"message_id": "m-1"}',
    } | more


def sendgrid_mail(to: str = "delivered@example.com", **more: Any) -> dict[str, Any]:
    return {
        "from": {"email": "shop@example.com"},
        "personalizations": [{"to": [{"email": to}]}],
        "subject": "Hello",
        "content": [{"type": "text/plain", "value": "Open https://example.com/verify?token=abc."}],
        "custom_args": {"message_id": "m-1"},
    } | more


MAILS: dict[str, Callable[[str, str], Any]] = {
    "postmark": lambda to, message_id: postmark_mail(to, Metadata={"message_id": message_id}),
    "resend": lambda to, message_id: resend_mail(to, headers={"X-Metadata": json.dumps({"message_id": message_id})}),
    "mailjet": lambda to, message_id: {
        "Messages": [mailjet_mail(to, EventPayload=json.dumps({"message_id": message_id}))]
    },
    "sendgrid": lambda to, message_id: sendgrid_mail(to, custom_args={"message_id": message_id}),
}
