"""Draining the queue once, by hand."""

import signal
from datetime import timedelta

import pytest
from django.db.models.functions import Now

from mailer.models import Message
from tests.conftest import PATIENCE, running, wait_until
from tests.mailer.commands.conftest import run
from tests.mailer.conftest import change, claim_one, enqueue, read

DAY = timedelta(days=1)


def test_send_queued_mail_sends_what_is_due_and_what_was_left(db, simulator):
    left = enqueue()
    claim_one(left)
    change(left, lease_until=Now() - DAY)
    due, later = enqueue(), enqueue()
    change(later, run_at=Now() + DAY)

    assert run("send_queued_mail") == "2 messages taken, 0 due.\n"

    assert [read(message).state for message in (due, left, later)] == ["sent", "sent", "pending"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_send_queued_mail_leaves_nothing_in_doubt_when_it_is_told_to_stop(environment, simulator, tmp_path, number):
    simulator.faults(latency_ms=1000)
    messages = [enqueue(), enqueue()]
    env = {**environment, **simulator.environment, "MAIL_CONCURRENCY": "1"}
    with running("manage.py", "send_queued_mail", env=env, log=tmp_path / "log") as process:
        wait_until(lambda: Message.objects.filter(state="sending").exists())

        process.send_signal(number)

        assert process.wait(PATIENCE) == 0

    assert sorted(read(message).state for message in messages) == ["pending", "sent"]
    assert len(simulator.accepted()) == 1


def test_send_queued_mail_takes_no_more_when_its_time_is_over(db):
    enqueue()

    assert run("send_queued_mail", "--seconds", 0) == "0 messages taken, 1 due.\n"
