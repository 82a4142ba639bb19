"""A code is as good as its link, for five tries."""

from collections import Counter
from datetime import timedelta

import pytest
from django.db.models.functions import Now
from uuid_utils.compat import uuid7

from tests.conftest import in_threads
from users import challenges, registration
from users.challenges import CODE_DIGITS, CODE_TRIES, Outcome, code, link_token
from users.models import EmailChallenge, User

pytestmark = pytest.mark.django_db

VERIFY = EmailChallenge.Purpose.VERIFY_EMAIL


@pytest.fixture
def registered(user) -> EmailChallenge:
    """The user's registration."""
    return user.challenges.get()


def wrong(challenge: EmailChallenge) -> str:
    return f"{(int(code(challenge)) + 1) % 10**CODE_DIGITS:0{CODE_DIGITS}}"


def tries(challenge: EmailChallenge, *codes: str) -> list[Outcome]:
    return [registration.verify_by_code(challenge.pk, each) for each in codes]


def verified(user: User) -> bool:
    return User.objects.get(pk=user.pk).email_verified_at is not None


# --- What it is -------------------------------------------------------------------------------------------


def test_a_code_is_eight_digits_and_the_same_every_time(registered):
    again = EmailChallenge.objects.get(pk=registered.pk)

    assert code(registered) == code(again)
    assert code(registered).isdigit()
    assert len(code(registered)) == CODE_DIGITS


def test_codes_of_many_challenges_hardly_repeat_and_may_begin_with_naught(user):
    challenge = challenges.issue(user, VERIFY)
    codes = set()
    for _ in range(500):
        challenge.pk = uuid7()
        codes.add(code(challenge))

    assert len(codes) >= 499
    assert any(each.startswith("0") for each in codes)


def test_a_code_is_not_in_the_database(registered):
    assert code(registered) not in str([*EmailChallenge.objects.values(), *User.objects.values()])


def test_a_code_and_a_link_share_nothing(registered):
    assert code(registered) not in link_token(registered)


def test_a_code_from_before_the_key_was_rotated(registered, settings):
    before = code(registered)

    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "a-new-key" * 8, [settings.SECRET_KEY]

    assert code(registered) != before
    assert tries(registered, before) == [Outcome.VERIFIED]


def test_a_code_made_with_a_key_that_was_dropped(registered, settings):
    before = code(registered)

    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "a-new-key" * 8, []

    assert tries(registered, before) == [Outcome.INVALID]


# --- What it does -----------------------------------------------------------------------------------------


def test_a_code_verifies_once(user, registered):
    assert tries(registered, code(registered)) == [Outcome.VERIFIED]
    assert verified(user)
    assert tries(registered, code(registered)) == [Outcome.ALREADY_VERIFIED]


def test_a_link_and_its_code_are_one_challenge(registered):
    assert registration.verify(link_token(registered)) is Outcome.VERIFIED

    assert tries(registered, code(registered)) == [Outcome.ALREADY_VERIFIED]


def test_the_newest_mails_code_counts_and_every_mails_link(user, registered):
    EmailChallenge.objects.update(created_at=Now() - timedelta(minutes=2))
    registration.request_verification(user.email_canonical)
    newest = EmailChallenge.objects.latest("pk")

    assert newest.renews == registered
    assert tries(registered, code(registered)) == [Outcome.INVALID]
    assert tries(registered, code(newest)) == [Outcome.VERIFIED]
    assert registration.verify(link_token(registered)) is Outcome.ALREADY_VERIFIED


def test_a_code_of_another_registration(registered):
    other = User.objects.create_user("eve@example.com").challenges.get()

    assert tries(registered, code(other)) == [Outcome.INVALID]


def test_a_code_for_a_registration_that_never_was(registered):
    assert registration.verify_by_code(uuid7(), code(registered)) is Outcome.INVALID


def test_a_code_of_another_purpose(user):
    reset = challenges.issue(user, EmailChallenge.Purpose.RESET_PASSWORD)

    assert tries(reset, code(reset)) == [Outcome.INVALID]
    assert not verified(user)


def test_a_code_after_its_time(user, registered):
    EmailChallenge.objects.update(expires_at=Now() - timedelta(seconds=1))
    registered.refresh_from_db()

    assert tries(registered, code(registered)) == [Outcome.EXPIRED]
    assert not verified(user)


def test_a_code_of_one_who_is_banned(user, registered):
    user.is_active = False
    user.save()

    assert tries(registered, code(registered)) == [Outcome.INVALID]


# --- Tries ------------------------------------------------------------------------------------------------


def test_five_wrong_codes_are_the_end_of_the_code_and_not_of_the_link(user, registered):
    outcomes = tries(registered, *[wrong(registered)] * CODE_TRIES, code(registered))

    assert outcomes == [Outcome.INVALID] * CODE_TRIES + [Outcome.SPENT]
    assert not verified(user)
    assert registration.verify(link_token(registered)) is Outcome.VERIFIED


def test_the_last_try_may_be_the_right_one(registered):
    outcomes = tries(registered, *[wrong(registered)] * (CODE_TRIES - 1), code(registered))

    assert outcomes[-1] is Outcome.VERIFIED


def test_another_mail_has_a_code_with_tries_of_its_own(user, registered):
    tries(registered, *[wrong(registered)] * CODE_TRIES)
    EmailChallenge.objects.update(created_at=Now() - timedelta(minutes=2))
    registration.request_verification(user.email_canonical)

    assert tries(registered, code(EmailChallenge.objects.latest("pk"))) == [Outcome.VERIFIED]


@pytest.mark.django_db(transaction=True)
def test_fifty_wrong_codes_at_once_are_five_tries():
    registered = User.objects.create_user("ada@example.com").challenges.get()

    outcomes = Counter(in_threads(50, lambda _: registration.verify_by_code(registered.pk, wrong(registered))))

    assert outcomes == {Outcome.INVALID: CODE_TRIES, Outcome.SPENT: 50 - CODE_TRIES}
    registered.refresh_from_db()
    assert registered.attempts == CODE_TRIES


@pytest.mark.django_db(transaction=True)
def test_of_fifty_different_codes_at_once_five_are_compared(monkeypatch):
    registered = User.objects.create_user("ada@example.com").challenges.get()
    compared = []
    real = challenges.constant_time_compare
    monkeypatch.setattr(
        challenges, "constant_time_compare", lambda given, right: compared.append(given) or real(given, right)
    )

    in_threads(50, lambda number: registration.verify_by_code(registered.pk, f"{number:0{CODE_DIGITS}}"))

    assert len(compared) == CODE_TRIES


@pytest.mark.django_db(transaction=True)
def test_the_right_code_by_five_at_once_verifies_once():
    registered = User.objects.create_user("ada@example.com").challenges.get()

    outcomes = Counter(in_threads(5, lambda _: registration.verify_by_code(registered.pk, code(registered))))

    assert outcomes == {Outcome.VERIFIED: 1, Outcome.ALREADY_VERIFIED: 4}
