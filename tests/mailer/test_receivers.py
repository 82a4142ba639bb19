"""Which mails follow from what users do."""

from datetime import timedelta

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.models import update_last_login
from django.core import serializers
from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django.utils import timezone

from mailer import receivers, sender
from mailer.kinds import KINDS
from mailer.models import Message
from users import challenges, credentials, registration
from users.models import EmailChallenge, User
from users.signals import challenge_requested, registration_repeated

pytestmark = pytest.mark.django_db


def kinds() -> list[str]:
    return list(Message.objects.order_by("pk").values_list("kind", flat=True))


@pytest.fixture
def user() -> User:
    """Somebody who has registered, and had the mail about it."""
    user = User.objects.create_user("Ada@Example.com", "correct horse battery")
    Message.objects.all().delete()
    return user


@pytest.fixture
def verified(user) -> User:
    user.email_verified_at = timezone.now()
    user.save()
    Message.objects.all().delete()
    return user


# --- Saves ----------------------------------------------------------------------------------------------


def test_a_new_user_gets_a_verification():
    user = User.objects.create_user("Ada@Example.com", locale="de")

    message, challenge = Message.objects.get(), EmailChallenge.objects.get()
    assert (message.kind, message.user, message.locale) == ("verification", user, "de")
    assert message.context == {"challenge_id": str(challenge.pk)}
    assert message.expires_at == challenge.expires_at
    assert message.deliveries.get().recipient == "Ada@Example.com"


def test_a_user_who_gets_verified_gets_a_welcome(user):
    user.email_verified_at = timezone.now()
    user.save(update_fields=["email_verified_at"])

    assert kinds() == ["welcome"]
    assert Message.objects.get().user == user


def test_a_user_who_is_read_and_then_verified_gets_a_welcome(user):
    again = User.objects.get(pk=user.pk)
    again.email_verified_at = timezone.now()
    again.save()

    assert kinds() == ["welcome"]


def test_a_user_read_without_the_field_and_then_verified_gets_a_welcome(user):
    again = User.objects.defer("email_verified_at").get(pk=user.pk)
    again.email_verified_at = timezone.now()
    again.save()

    assert kinds() == ["welcome"]


def test_a_second_welcome_is_never_sent(user):
    for _ in range(3):
        user.email_verified_at = timezone.now()
        user.save()
        user.email_verified_at = None
        user.save()

    assert kinds() == ["welcome"]


def test_a_user_created_verified_gets_a_welcome_alone():
    User.objects.create_user("ada@example.com", email_verified_at=timezone.now())

    assert kinds() == ["welcome"]


def test_a_raw_save_sends_nothing():
    fields = {"email": "ada@example.com", "email_canonical": "ada@example.com", "date_joined": "2020-02-02T00:00Z"}
    fixture = [{"model": "users.user", "pk": 7, "fields": {**fields, "email_verified_at": "2020-02-03T00:00Z"}}]

    for loaded in serializers.deserialize("python", fixture):
        loaded.save()

    assert User.objects.filter(pk=7).exists()
    assert kinds() == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("who", ["user", "verified"])
def test_a_save_of_other_fields_sends_nothing(request, who):
    user = request.getfixturevalue(who)

    user.locale = "de"
    user.save()
    user.save(update_fields=["locale"])
    User.objects.get(pk=user.pk).save()

    assert kinds() == []


def test_a_save_that_leaves_the_verification_out_sends_nothing(user):
    user.email_verified_at = timezone.now()
    user.save(update_fields=["locale"])
    assert kinds() == []

    user.save(update_fields=["email_verified_at"])
    assert kinds() == ["welcome"]


@pytest.mark.parametrize("who", ["user", "verified"])
def test_a_login_sends_nothing(request, who):
    request.getfixturevalue(who)

    user = authenticate(username="ada@example.com", password="correct horse battery")
    assert user is not None
    update_last_login(User, user)

    assert kinds() == []


def test_a_rehashed_password_sends_nothing(user):
    user.set_password("another horse battery")
    user.save()

    assert kinds() == []


@pytest.mark.django_db(transaction=True)
def test_a_registration_rolled_back_sends_nothing():
    with transaction.atomic():
        User.objects.create_user("ada@example.com")
        assert kinds() == ["verification"]
        transaction.set_rollback(True)

    assert kinds() == []


@pytest.mark.django_db(transaction=True)
def test_a_receiver_that_raises_leaves_no_user(monkeypatch):
    def breaks(*_, **__):
        raise RuntimeError("no outbox today")

    monkeypatch.setattr(receivers.outbox, "enqueue", breaks)

    with pytest.raises(RuntimeError, match="no outbox today"):
        User.objects.create_user("ada@example.com")

    assert not User.objects.exists()
    assert not EmailChallenge.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_refused_registration_sends_nothing(user):
    with pytest.raises(IntegrityError):
        User.objects.create_user("ADA@example.com")

    assert kinds() == []


# --- Requests -------------------------------------------------------------------------------------------


def test_a_new_link_that_is_asked_for_is_sent(user):
    EmailChallenge.objects.update(created_at=Now() - challenges.RESEND_AFTER - timedelta(seconds=1))

    registration.request_verification("ada@example.com")

    message, challenge = Message.objects.get(), EmailChallenge.objects.order_by("pk").last()
    assert (message.kind, message.context) == ("verification", {"challenge_id": str(challenge.pk)})
    assert message.expires_at == challenge.expires_at


def test_a_challenge_is_sent_once(user):
    challenge = challenges.issue(user, EmailChallenge.Purpose.VERIFY_EMAIL)

    for _ in range(2):
        challenge_requested.send(EmailChallenge, challenge=challenge)

    assert kinds() == ["verification"]


@pytest.fixture
def tried(user) -> EmailChallenge:
    """The challenge of somebody who tried to register the user's address."""
    return challenges.issue(None, EmailChallenge.Purpose.VERIFY_EMAIL, email=user.email_canonical)


def test_a_repeated_registration_is_told_to_the_owner_once(user, tried):
    for _ in range(3):
        registration_repeated.send(User, user=user, challenge=tried)

    message = Message.objects.get()
    assert (message.kind, message.user, message.deliveries.get().recipient) == ("account_exists", user, user.email)


def test_a_repeated_registration_is_told_as_a_verification_is_sent(user, tried):
    registration_repeated.send(User, user=user, challenge=tried)
    challenge_requested.send(EmailChallenge, challenge=challenges.issue(user, tried.purpose))

    exists, verification = Message.objects.order_by("pk")
    assert (exists.kind, verification.kind) == ("account_exists", "verification")
    assert (exists.priority, exists.flow, exists.state) == (verification.priority, verification.flow, "pending")
    assert exists.expires_at == tried.expires_at
    assert KINDS["account_exists"].despite == KINDS["verification"].despite


def test_owner_who_was_deactivated_is_told_like_any_other(user, tried):
    user.is_active = False
    user.save()

    registration_repeated.send(User, user=user, challenge=tried)

    assert kinds() == ["account_exists"]


# --- Nobody to write to ---------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", EmailChallenge.Purpose)
def test_what_nobody_is_to_get_is_a_row_that_goes_nowhere(db, simulator, purpose):
    challenge = challenges.issue(None, purpose, email="nobody@example.com")

    challenge_requested.send(EmailChallenge, challenge=challenge)

    message = Message.objects.get()
    assert (message.state, message.error_class, message.user) == ("cancelled", "withheld", None)
    assert message.finished_at is not None
    assert [*message.deliveries.values_list("recipient", "status", "events__event_type")] == [
        ("", "cancelled", "cancelled")
    ]
    assert "nobody@" not in str([*Message.objects.values(), *message.deliveries.values()])
    assert sender.drain() == 0
    assert simulator.accepted() == []


# --- Changes --------------------------------------------------------------------------------------------


def recipients() -> list[tuple[str, str]]:
    return [*Message.objects.order_by("pk").values_list("kind", "deliveries__recipient")]


def test_a_new_address_gets_the_link_and_the_present_one_a_notice(user):
    credentials.request_change(user, "Lovelace@Example.net")

    assert recipients() == [
        ("email_change_requested", "Ada@Example.com"),
        ("email_change", "Lovelace@Example.net"),
    ]


def test_a_former_address_is_told_that_it_is_one(user):
    credentials.request_change(user, "Lovelace@Example.net")
    Message.objects.all().delete()

    credentials.confirm_change(challenges.link_token(EmailChallenge.objects.get(purpose="change_email")))

    assert sorted(recipients()) == [("email_changed", "Ada@Example.com"), ("welcome", "Lovelace@Example.net")]


def test_each_new_password_is_told(user):
    for password in ("another horse battery", "a third horse battery"):
        credentials.change_password(user, password)

    assert recipients() == [("password_changed", "Ada@Example.com")] * 2


@pytest.mark.parametrize("kind", ["email_change_requested", "email_changed", "password_changed"])
def test_what_happened_to_an_account_is_told_to_those_who_complained(kind):
    assert KINDS[kind].despite == {"complaint", "unsubscribe"}
    assert KINDS[kind].at_least_once
