"""What runs on one machine: with which secrets, on which ports, in which environment, by which commands."""

import base64
import json
import os
import secrets
import socket
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from project.processes import Unavailable
from simulator.commands import environment as reporting

HOST = "127.0.0.1"
LAST_PORT = 65535
DEFAULT_PORTS = {"WEB_PORT": 8000, "SIMULATOR_PORT": 8025}


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


def load_secrets(file: Path) -> Secrets:
    """Read the secrets, or make them in a file that only its owner can read."""
    if file.exists():
        return Secrets(**json.loads(file.read_text()))
    made = Secrets()
    keep_private(file, asdict(made))
    return made


def keep_private(file: Path, values: dict[str, str]) -> None:
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
