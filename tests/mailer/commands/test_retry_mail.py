"""Sending again what has stopped."""

from datetime import timedelta
from uuid import uuid4

import pytest
from django.core.management import CommandError
from django.db.models.functions import Now

from mailer import sender
from mailer.models import Message
from tests.mailer.commands.conftest import run
from tests.mailer.conftest import change, enqueue, read

DAY = timedelta(days=1)


def stopped(state: str, kind: str = "welcome", days: float = 0) -> Message:
    message = enqueue(kind=kind)
    change(message, state=state, created_at=Now() - days * DAY)
    return message


def test_retry_mail_by_id_asks_and_sends_again(db, simulator, answers):
    asked = answers("y")
    message = stopped("dead")

    assert run("retry_mail", message.pk) == "Stopped: 1 dead.\n1 messages go again.\n"

    assert asked == ["Send 1 messages again? [y/N] "]
    sender.drain()
    assert read(message).state == "sent"


def test_retry_mail_in_doubt_warns(db, answers):
    asked = answers("n")
    stopped("dead")
    message = stopped("unknown")

    with pytest.raises(CommandError, match="Nothing was done"):
        run("retry_mail", "--state", "unknown", "--state", "dead")

    assert asked == ["Send 2 messages again? Those in doubt may arrive twice. [y/N] "]
    assert read(message).state == "unknown"


def test_retry_mail_by_state_kind_and_time(db):
    chosen = stopped("dead")
    others = [stopped("dead", days=3), stopped("dead", kind="test"), stopped("expired"), stopped("sent")]
    since = (read(chosen).created_at - DAY).isoformat()

    output = run("retry_mail", "--state", "dead", "--kind", "welcome", "--since", since, "--yes")

    assert output.endswith("1 messages go again.\n")
    assert read(chosen).state == "retry"
    assert [read(message).state for message in others] == ["dead", "dead", "expired", "sent"]


def test_retry_mail_dry_run_changes_nothing(db):
    message = stopped("dead")

    assert run("retry_mail", "--state", "dead", "--dry-run") == "Stopped: 1 dead.\n"

    assert read(message).state == "dead"


def test_retry_mail_where_there_is_none(db):
    assert run("retry_mail", "--state", "dead") == "Stopped: none.\n"


@pytest.mark.parametrize("state", ["sent", "pending", "leased", "sending", "retry"])
def test_retry_mail_names_what_has_not_stopped(db, state):
    message, dead = stopped(state), stopped("dead")

    with pytest.raises(CommandError, match=f"{message.pk} is {state}"):
        run("retry_mail", message.pk, dead.pk, "--yes")

    assert (read(message).state, read(dead).state) == (state, "dead")


def test_retry_mail_names_what_does_not_exist(db):
    nobody = uuid4()

    with pytest.raises(CommandError, match=f"{nobody} is unheard of"):
        run("retry_mail", nobody, "--yes")


def test_retry_mail_says_what_stayed(db):
    message = stopped("cancelled")
    message.deliveries.update(recipient="")

    with pytest.raises(CommandError, match="1 do not"):
        run("retry_mail", message.pk, "--yes")


def test_retry_mail_goes_batch_by_batch(db, monkeypatch):
    monkeypatch.setattr("mailer.management.commands.retry_mail.BATCH", 2)
    for _ in range(5):
        stopped("dead")

    assert run("retry_mail", "--state", "dead", "--yes").endswith("5 messages go again.\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "by their ids, or by --state"),
        ([uuid4(), "--state", "dead"], "by their ids, or by --state"),
        ([uuid4(), "--kind", "welcome"], "by their ids, or by --state"),
        (["seven"], "invalid UUID value: 'seven'"),
        (["--state", "sent"], "invalid choice: 'sent'"),
        (["--state", "dead", "--since", "monday"], "invalid moment value: 'monday'"),
    ],
)
def test_retry_mail_with_options_that_make_no_sense(db, options, said):
    with pytest.raises(CommandError, match=said):
        run("retry_mail", *options)
