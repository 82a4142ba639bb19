"""Forgetting what is old, by hand."""

from datetime import timedelta

import pytest
from django.core.management import CommandError
from django.db.models.functions import Now

from mailer.models import Message
from tests.mailer.commands.conftest import run
from tests.mailer.conftest import change, enqueue, read

DAY = timedelta(days=1)


@pytest.fixture
def old(db) -> list[Message]:
    messages = [enqueue(content={"text": "t"}) for _ in range(3)]
    for message, (state, days) in zip(messages, [("sent", 31), ("dead", 401), ("sent", 1)], strict=True):
        change(message, state=state, finished_at=Now() - days * DAY)
    return messages


def test_cleanup_mail_dry_run_counts_and_changes_nothing(old):
    output = run("cleanup_mail", "--dry-run")

    assert "bodies: 1 dead, 1 sent\n" in output
    assert "messages: 1 dead\n" in output
    assert "secrets: none\n" in output
    assert Message.objects.exclude(content=None).count() == 3


def test_cleanup_mail_forgets_and_says_what(old):
    output = run("cleanup_mail")

    assert "bodies: 2\n" in output
    assert "messages: 1\n" in output
    assert {message.content is None for message in Message.objects.exclude(pk=old[2].pk)} == {True}
    assert read(old[2]).content == {"text": "t"}


def test_cleanup_mail_by_state_and_other_days(old):
    change(old[0], finished_at=Now() - 41 * DAY)

    run("cleanup_mail", "--state", "sent", "--body-days", "0.5", "--history-days", "40")

    assert set(Message.objects.all()) == {old[1], old[2]}
    assert read(old[2]).content is None
    assert read(old[1]).content == {"text": "t"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--body-days", "500"], "400 days are fewer than 500"),
        # A month of receipts, and a week of what is repeated.
        (["--history-days", "36.9"], "36.9 days are fewer than 37"),
        (["--body-days", "-1"], "--body-days"),
        (["--history-days", "1e7"], "invalid days value: '1e7'"),
        (["--history-days", "soon"], "invalid days value: 'soon'"),
        (["--state", "pending"], "invalid choice: 'pending'"),
    ],
)
def test_cleanup_mail_with_options_that_make_no_sense(old, options, said):
    with pytest.raises(CommandError, match=said):
        run("cleanup_mail", *options)

    assert Message.objects.exclude(content=None).count() == 3
