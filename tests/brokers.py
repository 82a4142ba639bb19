"""Private brokers to test the hint path with: real servers, to be killed, frozen and emptied by one test alone."""

import os
import shutil
import signal
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from celery import current_app

from mailer import doorbell
from project import brokers
from project.answers import ask_broker
from project.servers import Server
from project.valkey import Valkey
from tests.conftest import free_port

RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # where Debian has it: the one on the PATH changes the user


class OnAPort(Server):
    """A server that listens on a TCP port of its own, at the loopback address only."""

    variable = "CELERY_BROKER_URL"
    socket_name = "none"
    stop_signal = signal.SIGTERM

    def __init__(self, directory: Path, *, volatile: bool = False) -> None:
        super().__init__(directory, volatile=volatile)
        self.port = free_port()


class Epmd(OnAPort):
    """Erlang's port mapper, for one node alone: else that would start one which outlives it."""

    title = "epmd"

    @property
    def url(self) -> str:
        return f"epmd://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        # `-names` asks the mapper on the port that the environment names.
        asked = {"ERL_EPMD_PORT": str(self.port), "ERL_EPMD_ADDRESS": "127.0.0.1"}
        return os.spawnve(os.P_WAIT, self._program(), ["epmd", "-names"], asked) == 0

    def _command(self):
        return [self._program(), "-port", str(self.port), "-address", "127.0.0.1"]

    def _program(self) -> str:
        return str(shutil.which("epmd"))


class RabbitMQ(OnAPort):
    """A RabbitMQ node with data, ports, cookie and port mapper of its own. Takes some seconds to start."""

    title = "RabbitMQ"

    def __init__(self, directory: Path, *, volatile: bool = False) -> None:
        super().__init__(directory, volatile=volatile)
        self._distribution = free_port()
        self._mapper = Epmd(directory.with_name(f"{directory.name}-epmd"), volatile=volatile)

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def answers(self) -> bool:
        return ask_broker(self.url) is None

    def has_kept(self, queue: str) -> bool:
        """Tell whether a quorum queue would survive a crash.

        Its name is written some seconds after it was declared. Without that, it comes back with no leader
        (https://github.com/rabbitmq/rabbitmq-server/issues/15725).
        """
        names = self.directory / "data/hints@localhost/quorum/hints@localhost/names.dets"
        return names.exists() and queue.encode() in names.read_bytes()

    def start(self) -> str:
        if self._mapper._process is None:
            self._mapper.start()
        return super().start()

    def stop(self) -> None:
        super().stop()
        self._mapper.stop()

    def _command(self):
        home = self.directory
        (home / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\n")
        (home / "plugins").write_text("[].\n")
        (home / "environment.conf").touch()
        variables = {
            "HOME": home,  # where the cookie is
            "ERL_EPMD_PORT": self._mapper.port,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "hints@localhost",
            "RABBITMQ_DIST_PORT": self._distribution,
            "RABBITMQ_CONF_ENV_FILE": home / "environment.conf",
            "RABBITMQ_CONFIG_FILE": home / "rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": home / "plugins",
            "RABBITMQ_MNESIA_BASE": home / "data",
            "RABBITMQ_LOG_BASE": home / "logs",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none",
            "RUNNING_UNDER_SYSTEMD": "true",  # so that the script becomes the server, and signals reach it
        }
        return ["/usr/bin/env", *(f"{name}={value}" for name, value in variables.items()), str(RABBITMQ)]


class Moto(OnAPort):
    """Amazon's services as moto plays them: the real wire formats, and nothing kept when it ends."""

    title = "moto"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.port}/moto-api/data.json", timeout=3).ok
        except requests.RequestException:
            return False

    def _command(self):
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]


class Sqs(Moto):
    """Amazon's SQS."""

    @property
    def url(self) -> str:
        return f"sqs://nobody:nothing@127.0.0.1:{self.port}"


BROKERS: Mapping[str, type[Server]] = {"valkey": Valkey, "rabbitmq": RabbitMQ, "sqs": Sqs}
WITHOUT_RABBITMQ = pytest.mark.skipif(not RABBITMQ.exists(), reason="rabbitmq-server is not installed")
EACH = [pytest.param(name, marks=[WITHOUT_RABBITMQ] if name == "rabbitmq" else []) for name in BROKERS]

# What boto3 would else look for in files and on the network.
AWS = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}


@contextmanager
def spoken_to(url: str, queues: Collection[str] = (), **queue_arguments: Any) -> Iterator[None]:
    """Let this process's Celery speak to another broker, with the settings that a process of ours would have there.

    But for the names of its queues, or arguments that these have besides, where any are given.
    """
    broker, conf = brokers.of(url), current_app.conf
    arguments = {**broker.queue_arguments, **queue_arguments}
    before = {name: conf[name] for name in ("broker_transport_options", "task_queues")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**AWS, "CELERY_BROKER_URL": url}.items():
            patch.setenv(name, value)
        conf.update(
            broker_transport_options=dict(broker.options),
            task_queues={name: {"queue_arguments": arguments} for name in queues or before["task_queues"]},
        )
        _forget()
        try:
            yield
        finally:
            doorbell._line(os.getpid(), doorbell.DELIVER).hang_up()
            conf.update(before)
            _forget()


def _forget() -> None:
    """Forget what Celery, and the doorbell, have kept of a broker."""
    current_app.__dict__.pop("amqp", None)
    current_app._pool = None
    doorbell._line.cache_clear()


def waiting() -> int:
    """Return how many hints wait at the broker that this process speaks to."""
    with current_app.connection_for_read() as connection:
        queue = current_app.amqp.queues[current_app.conf.task_routes[doorbell.DELIVER]["queue"]]
        return int(queue(connection.default_channel).queue_declare().message_count)


@contextmanager
def dead(server: Any) -> Iterator[None]:
    """Kill a server, and start it again."""
    server.kill()
    try:
        yield
    finally:
        server.start()


@contextmanager
def frozen(server: Any) -> Iterator[None]:
    """Have a server say nothing for a while."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)
