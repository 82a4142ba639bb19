"""The doorbell costs its caller nothing, whatever the broker does, and reaches it when it is there."""

import json
import os
import select
import signal
import socket
import threading
import time
from base64 import b64decode

import pytest
import redis
import structlog
from django.conf import settings
from kombu.exceptions import OperationalError

from mailer import doorbell
from mailer.doorbell import Line, Ringer
from project.valkey import Valkey
from tests.conftest import PATIENCE, free_port, wait_until

# Seconds that a ring may take, and those that many of them may: far more than any needs, far less than a broker's.
SOON = 0.05
QUEUE = settings.HINTS_QUEUE
# Those of a test's ringers.
LINES: list[Line] = []


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Valkey(tmp_path_factory.mktemp("valkey"), volatile=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def broker(server, monkeypatch):
    """A Valkey of this test's own, empty, as the broker of this process."""
    monkeypatch.setenv("CELERY_BROKER_URL", server.url)
    doorbell._line.cache_clear()  # this process may have a line to another one
    with redis.Redis.from_url(server.redis_url) as client:
        client.flushall()
        client.config_set("maxmemory", 0)
        yield client
        for line in (doorbell._line(os.getpid(), doorbell.DELIVER), *LINES):  # else a later test finds them there
            line.hang_up()
        LINES.clear()
        client.config_set("maxmemory", 0)


@pytest.fixture
def impatient(monkeypatch):
    """Have a broker that cannot be reached be tried again soon."""
    monkeypatch.setattr(doorbell, "DOWN", 0.05)
    monkeypatch.setattr(doorbell, "TIMEOUT", 0.2)


@pytest.fixture
def frozen():
    """The URL of a broker that takes connections and never says a word."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield f"redis://127.0.0.1:{silent.getsockname()[1]}/0"


def ringer() -> Ringer:
    line = Line()
    LINES.append(line)
    return Ringer(line.publish, line.hang_up)


def seconds_of(ring, times: int = 1) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        ring()
    return time.perf_counter() - begin


class Bell:
    """Counts publications, and notes what the context held; fails as often as it is told to."""

    def __init__(self, failures: int = 0, error: Exception | None = None) -> None:
        self.seen: list[str | None] = []
        self.failures = failures
        self.error = error or OperationalError("down")

    def __call__(self) -> None:
        self.seen.append(structlog.contextvars.get_contextvars().get("request_id"))
        if len(self.seen) <= self.failures:
            raise self.error


# --- The ringer -----------------------------------------------------------------------------------------


def test_ring_publishes_once_and_then_waits_for_the_next():
    bell = Bell()
    ringer = Ringer(bell)

    for count in (1, 2, 3):
        ringer.ring()
        wait_until(lambda count=count: len(bell.seen) == count)


def test_ring_makes_a_burst_one_publication_or_two():
    bell = Bell()
    ringer = Ringer(bell)
    free = threading.Event()
    ringer._publish = lambda: (bell(), free.wait(PATIENCE))

    for _ in range(1000):
        ringer.ring()
    wait_until(lambda: bell.seen)
    for _ in range(1000):
        ringer.ring()
    free.set()
    wait_until(lambda: len(bell.seen) == 2)

    assert not ringer._wanted.is_set()


def test_ring_takes_the_context_along():
    bell = Bell()
    ringer = Ringer(bell)

    with structlog.contextvars.bound_contextvars(request_id="request-7"):
        ringer.ring()

    wait_until(lambda: bell.seen)
    assert bell.seen == ["request-7"]


@pytest.mark.parametrize("error", [OperationalError("down"), ConnectionRefusedError(), TimeoutError()])
def test_ring_works_again_after_a_failure(impatient, error):
    bell = Bell(failures=2, error=error)
    ringer = Ringer(bell)

    for count in (1, 2, 3):
        ringer.ring()
        wait_until(lambda count=count: len(bell.seen) == count)


def test_ring_from_many_threads_starts_one_publisher():
    bell = Bell()
    ringer = Ringer(bell)
    before = threading.active_count()
    start = threading.Barrier(8)

    callers = [threading.Thread(target=lambda: (start.wait(PATIENCE), ringer.ring())) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()

    wait_until(lambda: bell.seen)
    assert threading.active_count() == before + 1


# Python 3.12 and later warn that a fork of a process with threads may deadlock: that it does not is the point.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_ring_after_a_fork_has_a_publisher_of_its_own():
    reader, writer = os.pipe()
    ringer = Ringer(lambda: os.write(writer, str(os.getpid()).encode()))
    ringer.ring()
    assert os.read(reader, 100) == str(os.getpid()).encode()

    child = os.fork()
    if child == 0:  # nothing of pytest may run here
        try:
            ringer.ring()
            time.sleep(PATIENCE)  # the parent ends this as soon as it has heard
        finally:
            os._exit(1)
    try:
        ready, _, _ = select.select([reader], [], [], PATIENCE)
        assert ready, "the child's ring was not heard"
        assert os.read(reader, 100) == str(child).encode()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


# --- The broker -----------------------------------------------------------------------------------------


def test_ring_reaches_the_broker(broker):
    with structlog.contextvars.bound_contextvars(request_id="request-7"):
        ringer().ring()

    wait_until(lambda: broker.llen(QUEUE))
    (raw,) = broker.lrange(QUEUE, 0, -1)
    task = json.loads(raw)
    assert task["headers"]["task"] == doorbell.DELIVER
    assert task["headers"]["__django_structlog__"]["request_id"] == "request-7"
    assert json.loads(b64decode(task["body"]))[:2] == [[], {}]


def test_the_apps_own_bell_reaches_the_broker(broker):
    doorbell.ring()

    wait_until(lambda: broker.llen(QUEUE))


def test_ring_keeps_its_connection_for_the_next_one(broker):
    bell = ringer()
    seen = []
    for count in (1, 2, 3):
        bell.ring()
        wait_until(lambda count=count: broker.llen(QUEUE) == count)
        seen.append({client["id"] for client in broker.client_list()})

    bell._hang_up()  # else a later test finds it there
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) > 1


def test_ring_hangs_up_once_there_was_none_for_a_while(broker, monkeypatch):
    monkeypatch.setattr(doorbell, "IDLE", 0.05)
    bell = ringer()
    for count in (1, 2, 3):
        bell.ring()
        wait_until(lambda count=count: broker.llen(QUEUE) == count)
        wait_until(lambda: len(broker.client_list()) == 1)


def test_ring_costs_nothing_while_the_broker_is_dead(monkeypatch, impatient):
    monkeypatch.setenv("CELERY_BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    bell = ringer()

    assert min(seconds_of(bell.ring) for _ in range(3)) < SOON
    assert seconds_of(bell.ring, times=1000) < 20 * SOON


def test_ring_costs_nothing_while_the_broker_is_frozen(monkeypatch, impatient, frozen):
    monkeypatch.setenv("CELERY_BROKER_URL", frozen)
    bell = ringer()

    assert min(seconds_of(bell.ring) for _ in range(3)) < SOON
    assert seconds_of(bell.ring, times=1000) < 20 * SOON


def test_ring_gives_up_a_frozen_broker_in_time(monkeypatch, impatient, frozen):
    monkeypatch.setenv("CELERY_BROKER_URL", frozen)
    lost = threading.Event()

    def publish():
        try:
            Line().publish()
        finally:
            lost.set()

    Ringer(publish).ring()

    assert lost.wait(PATIENCE)


def test_ring_is_heard_again_once_the_broker_is_back(server, broker, impatient):
    bell = ringer()
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        bell.ring()
        wait_until(lambda: not bell._wanted.is_set())
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    broker.delete(QUEUE)

    def heard():
        bell.ring()
        return broker.llen(QUEUE)

    wait_until(heard)


def test_ring_is_heard_again_once_a_full_broker_has_room(broker, impatient, caplog):
    bell = ringer()
    broker.config_set("maxmemory", 1)
    bell.ring()
    wait_until(lambda: "hint_lost" in caplog.text)

    broker.config_set("maxmemory", 0)

    def heard():
        bell.ring()
        return broker.llen(QUEUE)

    wait_until(heard)
