"""The way of a hint through each broker the service may be deployed with: while it is well, dead, frozen and wiped."""

import os
import threading
from contextlib import contextmanager

import pytest
from amqp.exceptions import ChannelError, MessageNacked
from celery import current_app
from django.conf import settings
from kombu.exceptions import KombuError
from structlog.testing import capture_logs

from mailer import doorbell, outbox, tasks
from mailer.doorbell import Line
from mailer.models import Message
from tests.brokers import AWS, BROKERS, EACH, WITHOUT_RABBITMQ, RabbitMQ, Sqs, dead, frozen, spoken_to, waiting
from tests.conftest import PATIENCE, running, wait_until
from tests.mailer.conftest import enqueue, read
from users import challenges
from users.models import EmailChallenge

WORKER = (
    "-m",
    "celery",
    "--quiet",
    "-A",
    "project",
    "worker",
    "--pool",
    "solo",
    "--without-mingle",
    "--loglevel",
    "INFO",
)
# A poll outlives its worker at the server, as moto plays it, and a hint may be given to it.
SHORT_POLLS = {"CELERY_BROKER_TRANSPORT_OPTIONS": '{"wait_time_seconds": 1}'}
PASSWORD = "a-violet-Zeppelin-over-Lisbon"


@pytest.fixture(scope="module", params=EACH)
def server(request, tmp_path_factory):
    """Each broker in its turn, shared by the tests of this module."""
    server = BROKERS[request.param](tmp_path_factory.mktemp(request.param) / "server", volatile=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def broker(server, monkeypatch):
    """The broker of this process: it runs, and no hint waits there."""
    monkeypatch.setattr(doorbell, "DOWN", 0.05)
    monkeypatch.setattr(doorbell, "TIMEOUT", 2.0)
    # One that knows of no outage: a test before may have ended in one, of which no second word is lost.
    publish = doorbell.Ringer(lambda: doorbell._line(os.getpid(), doorbell.DELIVER).publish())
    monkeypatch.setattr(doorbell._delivery, "_ringer", publish)
    with spoken_to(server.url):
        with current_app.connection_for_write() as connection:
            for queue in current_app.amqp.queues.values():
                empty(queue(connection.default_channel))
        if isinstance(server, RabbitMQ):
            wait_until(lambda: all(server.has_kept(queue) for queue in current_app.amqp.queues))
        yield server


def empty(queue):
    """Take what waits in a queue. Not by a purge: SQS allows that once a minute."""
    while queue.queue_declare().message_count:
        if message := queue.get():
            message.ack()


@pytest.fixture
def line():
    """A line of this test's own, to the broker that this process speaks to."""
    line = Line()
    yield line
    line.hang_up()


@pytest.fixture
def worker(broker, environment, simulator, tmp_path):
    """A function that runs a worker process at the broker, ready for hints and done with its first sweep."""

    @contextmanager
    def run():
        log = tmp_path / "worker.log"
        begin = log.stat().st_size if log.exists() else 0
        known = {"CELERY_BROKER_URL": broker.url, **simulator.environment}
        if isinstance(broker, Sqs):
            known |= AWS | SHORT_POLLS
        with running(*WORKER, env=environment | known, log=log) as process:
            wait_until(lambda: process.poll() is not None or "mailer.tasks.sweep" in log.read_text()[begin:])
            wait_until(lambda: process.poll() is not None or "task_succeeded" in log.read_text()[begin:])
            assert process.poll() is None, log.read_text()
            yield process

    return run


def is_sent(message):
    return read(message).state == Message.State.SENT


# --- To a worker ------------------------------------------------------------------------------------------


def test_hint_has_a_worker_send(worker, simulator):
    with worker():
        messages = []
        for _ in range(3):
            messages.append(enqueue())
            wait_until(lambda: is_sent(messages[-1]))

    assert len(simulator.accepted()) == 3


def test_hint_of_a_while_without_workers_is_heard_by_the_next(worker):
    with worker() as first:
        first.kill()
        message = enqueue()

    def rung():
        doorbell.ring()  # SQS may have given one to the poll of the worker that is dead
        return waiting()

    wait_until(rung)
    with worker():
        wait_until(lambda: is_sent(message))
        wait_until(lambda: not waiting())


def test_worker_hears_hints_again_once_the_broker_is_back(worker, broker):
    with worker() as process:
        for happens in (dead, frozen):
            with capture_logs() as logs, happens(broker):
                lost = enqueue()
                wait_until(lambda logs=logs: [entry for entry in logs if entry["event"] == "hint_lost"])

            def heard(lost=lost):
                doorbell.ring()
                return is_sent(lost)

            wait_until(heard, 2 * PATIENCE)
            message = enqueue()
            wait_until(lambda message=message: is_sent(message))

        assert process.poll() is None


def test_hint_tells_nothing_of_whom_it_is_about(broker, client, transactional_db):
    asked = {"email": "ada@example.com", "password": PASSWORD}
    assert client.post("/api/v1/accounts/register", asked, content_type="application/json").status_code == 202
    challenge = EmailChallenge.objects.get()
    secrets = [*asked.values(), challenges.link_token(challenge), challenges.code(challenge), str(challenge.pk)]

    wait_until(waiting)
    with current_app.connection_for_read() as connection:
        hint = current_app.amqp.queues[doorbell.queue_of(doorbell.DELIVER)](connection.default_channel).get()
        hint.ack()

    told = repr([hint.body, hint.headers, hint.properties])
    assert doorbell.DELIVER in told
    assert [secret for secret in secrets if secret in told] == []


# --- While the broker is away -----------------------------------------------------------------------------


@pytest.mark.parametrize("happens", [dead, frozen])
def test_registration_waits_for_no_broker(broker, line, client, transactional_db, monkeypatch, happens):
    """It returns while the doorbell's thread, whose patience is made endless, still waits for a broker's answer."""
    monkeypatch.setattr(doorbell, "TIMEOUT", 3600.0)
    begun, ended = threading.Event(), threading.Event()

    def publish():
        begun.set()
        try:
            line.publish()
        finally:
            ended.set()

    monkeypatch.setattr(doorbell._delivery, "_ringer", doorbell.Ringer(publish))

    with happens(broker):
        for number in range(3):
            body = {"email": f"ada{number}@example.com", "password": PASSWORD}
            answer = client.post("/api/v1/accounts/register", body, content_type="application/json")

            assert answer.status_code == 202
            assert begun.wait(30)
            assert happens is dead or not ended.is_set()

    assert outbox.oldest_due() is not None
    assert ended.wait(30)


@pytest.mark.parametrize("happens", [dead, frozen])
def test_line_gives_up_a_broker_that_is_away_and_finds_it_again(broker, line, happens):
    line.publish()

    with happens(broker):
        for _ in range(2):
            with pytest.raises((KombuError, OSError)):
                line.publish()

    line.publish()
    assert waiting() > 0


def test_line_survives_a_restart_of_the_broker_between_two_rings(broker, line):
    line.publish()

    with dead(broker):
        pass

    kept = 1 if isinstance(broker, RabbitMQ) else 0  # the others are told to keep nothing here
    wait_until(lambda: waiting() == kept)
    line.publish()
    wait_until(lambda: waiting() == kept + 1)


def test_line_hangs_up_a_frozen_broker(broker, line):
    line.publish()

    with frozen(broker):
        line.hang_up()

    line.publish()
    assert waiting() == 2


# --- While no worker runs -----------------------------------------------------------------------------------


def test_burst_of_rings_becomes_a_few_hints(broker):
    for _ in range(1000):
        doorbell.ring()

    wait_until(waiting)
    assert waiting() < 100


def test_hints_that_nobody_takes_have_an_end(broker, line, monkeypatch):
    monkeypatch.setattr(doorbell, "CROWD", 5)
    for _ in range(10):
        line.publish()
        tasks.sweep.delay()

    assert waiting() == 5


# --- What only one of them can do ---------------------------------------------------------------------------


ONLY_RABBITMQ = pytest.mark.parametrize(
    "server", [pytest.param("rabbitmq", marks=WITHOUT_RABBITMQ)], indirect=True, scope="module"
)


@ONLY_RABBITMQ
@pytest.mark.parametrize("by", ["the doorbell", "beat"])
def test_rabbitmq_says_that_it_refused_a_hint(broker, line, monkeypatch, by):
    """A full queue answers a publication with a nack, which only a channel in confirm mode gets."""
    monkeypatch.setitem(settings.CELERY_TASK_ROUTES, doorbell.DELIVER, {"queue": "narrow"})
    full = {"x-max-length": 1, "x-overflow": "reject-publish"}

    def fill():
        for _ in range(10):
            if by == "beat":
                tasks.deliver.apply_async(queue="narrow", retry=False)
            else:
                line.publish()

    with spoken_to(broker.url, queues=["narrow"], **full), pytest.raises((KombuError, MessageNacked)):
        fill()


@ONLY_RABBITMQ
def test_rabbitmq_says_that_a_hint_fits_into_no_queue(broker, line, monkeypatch):
    line.publish()
    connection = line._connection

    def lose_the_queue(*_):
        current_app.amqp.queues[settings.HINTS_QUEUE](connection.default_channel).delete()

    monkeypatch.setattr(doorbell, "is_crowded", lose_the_queue)
    with pytest.raises((KombuError, ChannelError)):
        line._publish(connection)


# --- At the end, since no queue is the one it was: RabbitMQ may lose one that is new when it crashes ----------


def test_line_needs_no_queue_to_be_there(broker, line):
    line.publish()
    with current_app.connection_for_write() as connection:
        for queue in current_app.amqp.queues.values():
            bound = queue(connection.default_channel)
            bound.declare()
            bound.delete()

    line.publish()

    assert waiting() == 1
