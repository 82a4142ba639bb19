"""What carries the hints, and what can be done to it."""

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import django
import psutil
import redis
from kombu import Connection

from project.answers import spelled_for_redis_py
from project.processes import Unavailable
from project.servers import Server
from project.valkey import Valkey

# Seconds that a broker has to empty itself.
PATIENCE: Final = 60.0
# As project/settings.py has them.
QUEUES: Final = ("celery", "celery-hints")


@dataclass(frozen=True)
class Broker:
    """A broker that can be frozen and emptied."""

    server: Server
    empty: Callable[[str], None]

    def flush(self) -> None:
        """Have it forget all hints."""
        self.empty(self.server.url)

    def freeze(self) -> None:
        """Have it hear nothing and say nothing; nobody's connection is closed."""
        self.server.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.server.process.send_signal(signal.SIGCONT)

    @property
    def is_frozen(self) -> bool:
        return psutil.Process(self.server.process.pid).status() == psutil.STATUS_STOPPED


def _flush_valkey(url: str) -> None:
    with redis.Redis.from_url(spelled_for_redis_py(url), socket_timeout=PATIENCE) as client:
        client.flushall()


def _purge_rabbitmq(url: str) -> None:
    with Connection(url, connect_timeout=PATIENCE) as connection:
        for queue in QUEUES:
            connection.default_channel.queue_purge(queue)


def _rabbitmq(directory: Path) -> Broker:
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()  # which the brokers of the tests want
    from tests.brokers import RABBITMQ, RabbitMQ

    if not RABBITMQ.exists():
        raise Unavailable("rabbitmq-server is not installed: apt-get install rabbitmq-server")
    return Broker(RabbitMQ(directory), _purge_rabbitmq)


# Each by its name; raises `Unavailable` where it is not installed.
BROKERS: Final[Mapping[str, Callable[[Path], Broker]]] = {
    "valkey": lambda directory: Broker(Valkey(directory), _flush_valkey),
    "rabbitmq": _rabbitmq,
}
