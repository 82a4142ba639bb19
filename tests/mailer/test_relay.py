"""The relay: a real process that needs no broker, and the same in this process."""

import os
import signal
import threading
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models.functions import Now

from mailer.management.commands import relay
from mailer.models import Message
from tests.conftest import free_port, running, wait_until
from tests.mailer.conftest import change, claim_one, enqueue, read

NAME = "relay-under-test"
# Far longer than any test: what happens within it was not waited for.
INTERVAL = "3600"


def sessions(name: str = NAME) -> dict[int, str]:
    """Return the state and the last statement of each database session of a program, by process id."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid, state || ' ' || query FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = %s",
            [name],
        )
        return dict(cursor.fetchall())


def has_nothing_to_do(name: str = NAME) -> bool:
    """Tell whether no database session of a program has said anything for a second: between two rounds it says much."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT bool_and(state = 'idle' AND clock_timestamp() - state_change > interval '1 s')"
            " FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s",
            [name],
        )
        return cursor.fetchone() == (True,)


def terminate(pid: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])


def sent(*messages: Message) -> bool:
    return all(read(message).state == "sent" for message in messages)


@pytest.fixture
def started(environment, simulator, tmp_path):
    """Run a relay whose broker does not exist; yields its process and its log."""

    @contextmanager
    def started(*options: str):
        nobody = f"redis://127.0.0.1:{free_port()}/0"
        env = {
            **environment,
            **simulator.environment,
            "CELERY_BROKER_URL": nobody,
            "REDIS_URL": nobody,
            "PGAPPNAME": NAME,
        }
        log = tmp_path / "relay.log"
        with running("manage.py", "relay", "--interval", INTERVAL, *options, env=env, log=log) as process:
            wait_until(lambda: log.exists() and "relay_started" in log.read_text())
            yield process, log

    return started


def test_relay_sends_without_a_broker(started, simulator):
    message = enqueue()

    with started():
        wait_until(lambda: sent(message))

    assert len(simulator.accepted(message.pk)) == 1


def test_relay_wakes_as_a_message_is_committed(started, simulator):
    with started():
        wait_until(has_nothing_to_do)
        messages = [enqueue() for _ in range(3)]

        wait_until(lambda: sent(*messages))

    assert len(simulator.accepted()) == 3


def test_relay_sweeps_when_it_starts(started):
    message = enqueue()
    claim_one(message)
    change(message, lease_until=Now() - timedelta(hours=1))

    with started():
        wait_until(lambda: sent(message))

    assert read(message).crashes == 1


def test_relay_survives_the_loss_of_its_database_connection(started):
    with started() as (process, log):
        (lost,) = wait_until(sessions)

        terminate(lost)
        wait_until(lambda: "database_lost" in log.read_text())
        wait_until(sessions)
        message = enqueue()

        wait_until(lambda: sent(message))
        assert process.poll() is None


def test_relay_shows_that_it_lives(started, tmp_path):
    alive = tmp_path / "alive"

    with started("--alive-file", str(alive)):
        wait_until(alive.exists)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_relay_ends_when_it_is_told_to(started, signum):
    with started() as (process, log):
        process.send_signal(signum)

        assert process.wait(30) == 0

    assert "relay_stopped" in log.read_text()
    assert "Traceback" not in log.read_text()


# --- In this process ------------------------------------------------------------------------------------


@pytest.fixture
def signals():
    """Put back what the relay does with signals."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def test_relay_once_sweeps_and_drains_and_ends(db, simulator):
    waiting, left = enqueue(), enqueue()
    claim_one(left)
    Message.objects.filter(state="leased").update(lease_until=Now() - timedelta(hours=1))

    call_command("relay", "--once")

    assert sent(waiting, left)


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf", "soon"])
def test_relay_with_an_interval_in_which_it_could_send_nothing(interval):
    with pytest.raises(CommandError, match="--interval: invalid seconds value"):
        call_command("relay", f"--interval={interval}", "--once")


@pytest.mark.django_db(transaction=True)
def test_relay_goes_on_after_its_connection_was_lost(simulator, signals, monkeypatch):
    monkeypatch.setattr(relay, "DATABASE_DOWN", 0.05)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (own,) = cursor.fetchone()
    seen, ended = [], []

    def disturb():
        try:
            wait_until(lambda: listens(own))
            terminate(own)
            message = enqueue()
            wait_until(lambda: sent(message))
            seen.append(message.pk)
        finally:
            connection.close()
            if not ended:
                os.kill(os.getpid(), signal.SIGTERM)

    def listens(pid: int) -> bool:
        with connection.cursor() as cursor:
            cursor.execute("SELECT state FROM pg_stat_activity WHERE pid = %s", [pid])
            return cursor.fetchone() == ("idle",)

    other = threading.Thread(target=disturb)
    other.start()
    try:
        call_command("relay", interval=3600.0)
    finally:
        ended.append(True)
        other.join()

    assert seen == list(Message.objects.values_list("pk", flat=True))


def test_relay_that_has_much_to_send_sweeps_in_between(db, simulator):
    message = enqueue()

    assert not relay._drain_for(0, threading.Event())
    assert read(message).state == "pending"

    assert relay._drain_for(30, threading.Event())
    assert read(message).state == "sent"
