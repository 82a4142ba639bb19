"""Mails of users whom no signal told of."""

import pytest
from django.core.management import CommandError
from django.db.models.functions import Now

from mailer.models import Message
from tests.mailer.commands.conftest import run
from users.models import User


@pytest.fixture
def unsignalled(db) -> None:
    names = [f"user-{number}@example.com" for number in range(3)]
    User.objects.bulk_create([User(email=name, email_canonical=name) for name in names])
    User.objects.filter(email=names[0]).update(email_verified_at=Now())


def test_enqueue_missing_dry_run_counts(unsignalled):
    output = run("enqueue_missing", "--dry-run")

    assert output == "verification: 2 users miss it\nwelcome: 1 users miss it\n"
    assert not Message.objects.exists()


def test_enqueue_missing_enqueues_once(unsignalled):
    assert run("enqueue_missing") == "verification: 2 mails enqueued\nwelcome: 1 mails enqueued\n"
    assert run("enqueue_missing") == "verification: 0 mails enqueued\nwelcome: 0 mails enqueued\n"
    assert run("enqueue_missing", "--dry-run") == "verification: nobody misses it\nwelcome: nobody misses it\n"

    assert Message.objects.count() == 3


def test_enqueue_missing_beyond_the_histories(db):
    with pytest.raises(CommandError, match=r"--days: .*MAIL_HISTORY_DAYS"):
        run("enqueue_missing", "--days", 4000)
