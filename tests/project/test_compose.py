"""The deployment, without an engine to run it: the file's schema, and each of its commands on real servers."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import yaml
from django.db import connection

from tests.conftest import free_port, wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service.get("image") == "accounts"]
BIN = Path(sys.executable).parent


def dotenv():
    lines = (line for line in (ROOT / ".env.example").read_text().splitlines() if "=" in line and line[0] != "#")
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


def database_url():
    return urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{connection.settings_dict['NAME']}").geturl()


class Container:
    """What compose would make of a service: its environment and command, with this test's servers, ports and /tmp."""

    def __init__(self, name, tmp_path):
        self.service = SERVICES[name]
        self.tmp = tmp_path
        self.ports = {port: free_port() for port in ("8000", "5555")}
        urls = ("DATABASE_URL", "CELERY_BROKER_URL", "REDIS_URL")
        values = dotenv()
        given = {key: substituted(value, values) for key, value in self.service["environment"].items()}
        self.environment = {
            **values,
            **given,
            "DATABASE_URL": database_url(),
            **{name: os.environ[name] for name in urls[1:]},
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOSTNAME": socket.gethostname(),
            "HOME": str(tmp_path),
        }

    def here(self, text):
        text = text.replace("/tmp", str(self.tmp)).replace("$$", "$").replace("0.0.0.0", "127.0.0.1")
        return re.sub(r"\b(8000|5555)\b", lambda match: str(self.ports[match[1]]), text)

    @contextmanager
    def up(self):
        with (self.tmp / "log").open("wb") as log:
            command = [self.here(word) for word in self.service["command"]]
            process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)
            try:
                yield process
            finally:
                family = (
                    [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
                )
                if family:
                    process.terminate()
                    process.wait(30)
                assert not [child for child in family[1:] if child.is_running() and child.status() != "zombie"]

    def healthy(self):
        kind, *words = [self.here(word) for word in self.service["healthcheck"]["test"]]
        command = ["sh", "-c", words[0]] if kind == "CMD-SHELL" else words
        return subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, check=False).returncode == 0


def substituted(value, values):
    return re.sub(r"\$\{(\w+)[^}]*\}", lambda match: values[match[1]], value)


def test_compose_file_is_valid_by_the_specification():
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "compose.yaml"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


def test_every_service_restarts_and_every_lasting_one_has_a_health_check():
    assert all("restart" in service for service in SERVICES.values())
    assert {name for name, service in SERVICES.items() if "healthcheck" not in service} == {"migrate"}


def test_every_directory_of_the_image_exists_and_none_of_the_apps_is_missing():
    copied = re.findall(r"^COPY (\w+) \1$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)

    assert set(copied) == {"project", "users", "mailer", "webhooks", "api", "templates"}
    assert all((ROOT / name).is_dir() for name in copied)


@pytest.mark.django_db(transaction=True)
def test_deployment_check_is_clean_with_the_settings_of_compose(tmp_path):
    container = Container("web", tmp_path)

    done = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=ROOT, env=container.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


@pytest.mark.django_db(transaction=True)
def test_migrate_command_of_compose_succeeds(tmp_path):
    container = Container("migrate", tmp_path)

    with container.up() as process:
        assert process.wait(60) == 0, (tmp_path / "log").read_text()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", [name for name in OURS if name != "migrate"])
def test_command_of_compose_becomes_healthy_and_stops_when_told(name, tmp_path):
    container = Container(name, tmp_path)

    with container.up() as process:
        wait_until(
            lambda: process.poll() is not None or container.healthy(),
            timeout=60,
        )

        assert process.poll() is None, (tmp_path / "log").read_text()


def test_collectstatic_of_the_image_needs_no_server(tmp_path):
    words = re.search(
        r"^RUN (SECRET_KEY=.*?collectstatic --noinput)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE | re.DOTALL
    )
    copy = tmp_path / "app"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "staticfiles", "tests", "__pycache__"))

    done = subprocess.run(
        ["sh", "-c", words[1]],
        cwd=copy, env={"PATH": f"{BIN}:{os.environ['PATH']}"}, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    manifest = json.loads((copy / "staticfiles" / "staticfiles.json").read_text())
    assert any("swagger-ui" in name for name in manifest["paths"])
