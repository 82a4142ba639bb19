"""Draining the queue once, by hand."""

from datetime import timedelta

from django.db.models.functions import Now

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


def test_send_queued_mail_takes_no_more_when_its_time_is_over(db):
    enqueue()

    assert run("send_queued_mail", "--seconds", 0) == "0 messages taken, 1 due.\n"
