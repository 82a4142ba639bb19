"""What forks hear of accounts: once it is committed, and without harm."""

import pytest
from django.db import IntegrityError, connection, transaction

from tests.mailer.conftest import signal_receiver
from tests.webhooks.test_signals import Ear
from users import challenges, registration
from users.challenges import Outcome
from users.models import User
from users.signals import email_verified, registered

pytestmark = pytest.mark.django_db(transaction=True)


class CommittedEar(Ear):
    """One that looks whether what it hears of is committed."""

    def __call__(self, sender, **what):
        assert not connection.in_atomic_block
        super().__call__(sender, **what)


def verify(user):
    return registration.verify(challenges.link_token(user.challenges.get()))


def test_registered_is_told_once_it_is_committed():
    ear = CommittedEar()

    with signal_receiver(registered, ear), transaction.atomic():
        user = User.objects.create_user("ada@example.com")
        assert ear.heard == []

    [(sender, what)] = ear.heard
    assert (sender, what["user"]) == (User, user)


def test_what_is_rolled_back_is_not_told():
    ear = Ear()
    User.objects.create_user("ada@example.com")

    with signal_receiver(registered, ear), pytest.raises(IntegrityError):
        User.objects.create_user("ada@example.com")

    assert ear.heard == []


def test_an_address_that_is_verified_is_told_once():
    user, ear = User.objects.create_user("ada@example.com"), CommittedEar()

    with signal_receiver(email_verified, ear):
        outcomes = [verify(user), verify(user)]
        user.refresh_from_db()
        user.save()

    assert outcomes == [Outcome.VERIFIED, Outcome.ALREADY_VERIFIED]
    [(sender, what)] = ear.heard
    assert (sender, what["user"].email_verified_at is None) == (User, False)


def test_other_changes_are_not_told():
    user, ear = User.objects.create_user("ada@example.com"), Ear()

    with signal_receiver(registered, ear), signal_receiver(email_verified, ear):
        user.is_active = False
        user.save()
        user.delete()

    assert ear.heard == []


@pytest.mark.parametrize(("signal", "act"), [(registered, User.objects.create_user), (email_verified, None)])
def test_a_receiver_that_raises_is_logged_without_what_it_says_and_harms_nothing(caplog, signal, act):
    raising, ear = Ear(ValueError("let-slip@example.com")), Ear()
    user = User.objects.create_user("ada@example.com")

    with signal_receiver(signal, raising), signal_receiver(signal, ear):
        if act:
            act("grace@example.com")
        else:
            assert verify(user) is Outcome.VERIFIED

    failures = [record.msg for record in caplog.records if "receiver_failed" in record.getMessage()]
    assert [(failure["error_class"], failure["receiver"]) for failure in failures] == [("ValueError", "Ear")]
    assert "let-slip" not in caplog.text
    assert len(raising.heard) == len(ear.heard) == 1
