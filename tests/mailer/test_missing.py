"""Users that were written without a signal get their mails, and nobody gets one twice."""

from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from mailer import kinds, missing
from mailer.models import Message
from tests.conftest import in_threads
from users.models import EmailChallenge, User

DAY = timedelta(days=1)


def write(name: str, **fields: Any) -> User:
    """Write a user as `bulk_create` does: no signal is sent."""
    address = f"{name}@example.com"
    (user,) = User.objects.bulk_create([User(email=address, email_canonical=address, **fields)])
    return user


def fill(days: float = 7) -> dict[str, int]:
    return {gap.kind: sum(mails for _, mails in gap.fill()) for gap in missing.gaps(days)}


def test_an_unverified_user_gets_the_verification_mail(db):
    user = write("ada", locale="de")

    assert fill() == {"verification": 1, "welcome": 0}

    message = Message.objects.get()
    challenge = EmailChallenge.objects.get(user=user)
    assert (message.kind, message.user, message.locale) == ("verification", user, "de")
    assert (message.dedupe_key, message.expires_at) == (f"verification:user:{user.pk}", challenge.expires_at)
    assert "Adresse" in kinds.render(message)["subject"]


def test_a_user_that_was_verified_by_an_update_gets_the_welcome_mail(db):
    user = User.objects.create_user("ada@example.com")
    User.objects.update(email_verified_at=Now())

    assert fill() == {"verification": 0, "welcome": 1}

    assert Message.objects.get(kind="welcome").dedupe_key == f"welcome:user:{user.pk}"


def test_filling_again_finds_nobody(db):
    write("ada")
    write("bob", email_verified_at=timezone.now())

    assert fill() == {"verification": 1, "welcome": 1}
    assert fill() == {"verification": 0, "welcome": 0}

    assert EmailChallenge.objects.count() == 1


@pytest.mark.parametrize("state", ["sent", "dead", "expired"])
def test_who_was_written_to_before_is_left_alone(db, state):
    user = write("ada")
    Message.objects.create(kind="verification", user=user, dedupe_key="verification:challenge:7", state=state)

    assert fill() == {"verification": 0, "welcome": 0}


def test_a_mail_of_another_kind_is_no_verification_mail(db):
    user = write("ada")
    Message.objects.create(kind="account_exists", user=user, dedupe_key="k")

    assert fill()["verification"] == 1


@pytest.mark.parametrize("fields", [{}, {"email_verified_at": timezone.now()}])
@pytest.mark.parametrize("flags", [{"is_active": False}, {"is_service": True}], ids=str)
def test_who_may_not_log_in_and_what_is_no_person_gets_nothing(db, flags, fields):
    write("ada", **flags, **fields)

    assert fill() == {"verification": 0, "welcome": 0}


def test_what_happened_long_ago_is_left_alone(db):
    write("ada")
    write("bob", email_verified_at=timezone.now() - 8 * DAY)
    User.objects.update(date_joined=Now() - 8 * DAY)

    assert fill() == {"verification": 0, "welcome": 0}
    assert fill(days=9) == {"verification": 1, "welcome": 1}


@pytest.mark.parametrize("days", [0, -1, 400.5, float("nan")])
def test_days_beyond_the_histories_are_refused(settings, days):
    settings.MAIL_HISTORY_DAYS = 400

    with pytest.raises(ValueError, match="at most MAIL_HISTORY_DAYS"):
        missing.gaps(days)


def test_filling_goes_batch_by_batch(db, monkeypatch):
    monkeypatch.setattr(missing, "BATCH", 2)
    for number in range(5):
        write(f"user-{number}")
    verification, _ = missing.gaps(7)

    assert list(verification.fill()) == [(2, 2), (2, 2), (1, 1)]


@pytest.mark.django_db(transaction=True)
def test_filling_by_many_at_once_writes_to_each_once(monkeypatch):
    monkeypatch.setattr(missing, "BATCH", 3)
    for number in range(30):
        write(f"user-{number}")

    in_threads(4, lambda _: fill())
    fill()

    assert Message.objects.count() == 30
    assert Message.objects.values("user").distinct().count() == 30
