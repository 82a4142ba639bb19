"""Registrations: whose they are, what they bring, and what their registrants may see."""

from datetime import timedelta

import pytest
from django.contrib.auth import authenticate
from django.core.exceptions import ValidationError
from django.core.signing import Signer
from django.db.models import F
from django.db.models.functions import Now
from knox.models import AuthToken
from uuid_utils.compat import uuid7

from mailer.models import Message
from mailer.receivers import delivery_of
from users import challenges, credentials, registration
from users.challenges import MAILS_A_DAY, Outcome, link_token
from users.models import EmailChallenge, User
from users.registration import Verification, is_status_token, read, register, status_token

pytestmark = pytest.mark.django_db

FIRST, SECOND, THIRD = "correct horse battery", "another horse battery", "staple incorrect donkey"


def ada(password: str = FIRST):
    """Register the address; return the registration."""
    return EmailChallenge.objects.get(pk=register("Ada@example.com", password, "en"))


def mails() -> list[str]:
    return [*Message.objects.exclude(error_class="withheld").order_by("pk").values_list("kind", flat=True)]


def later(**by) -> None:
    """Let time pass for all that was asked for."""
    EmailChallenge.objects.update(created_at=F("created_at") - timedelta(**by))


def logs_in(password: str) -> bool:
    return authenticate(username="ada@example.com", password=password) is not None


# --- Once more --------------------------------------------------------------------------------------------


def test_the_same_password_is_the_same_registration_and_no_other_mail():
    assert ada() == ada()

    assert mails() == ["verification"]


def test_the_same_password_after_a_minute_is_the_same_registration_and_another_mail():
    registered = ada()
    later(minutes=2)

    assert ada() == registered
    assert mails() == ["verification"] * 2
    assert EmailChallenge.objects.latest("pk").renews == registered


def test_another_password_is_another_registration_and_another_mail():
    assert ada(FIRST) != ada(SECOND)

    assert mails() == ["verification"] * 2
    assert User.objects.count() == 1


def test_a_registration_of_a_verified_address_is_known_again_too():
    assert registration.verify(link_token(ada())) is Outcome.VERIFIED

    tried = ada(SECOND)

    assert ada(SECOND) == tried
    assert tried.user is None
    assert mails() == ["verification", "welcome", "account_exists"]


def test_passwords_of_two_people_do_not_share_a_salt():
    register("ada@example.com", FIRST, "en")
    register("eve@example.com", FIRST, "en")

    one, other = User.objects.values_list("password", flat=True)
    assert one != other


def test_a_password_that_was_registered_with_is_not_hashed_anew_at_the_login():
    ada()
    before = User.objects.get().password

    assert logs_in(FIRST)
    assert User.objects.get().password == before


def test_more_registrations_than_a_day_allows_send_nothing():
    for number in range(MAILS_A_DAY + 3):
        ada(f"{FIRST} {number}")

    assert mails() == ["verification"] * (MAILS_A_DAY)
    assert EmailChallenge.objects.count() == MAILS_A_DAY + 3

    later(hours=25)
    ada(SECOND)
    assert len(mails()) == MAILS_A_DAY + 1


def test_mails_of_a_day_are_shared_by_all_who_register_an_address():
    ada(FIRST)

    theirs = [ada(f"{SECOND} {number}") for number in range(MAILS_A_DAY)]

    assert [delivery_of(each) is not None for each in theirs] == [True] * (MAILS_A_DAY - 1) + [False]


def test_asking_again_does_not_use_up_the_registrations_of_a_free_address():
    for _ in range(MAILS_A_DAY + 1):
        registration.request_verification("ada@example.com")
        later(minutes=2)

    ada()

    assert mails() == ["verification"]


def test_an_operator_who_is_faster(monkeypatch):
    found = registration._owner_of
    looks = []

    def look(address):
        looks.append(address)
        return found(address) if len(looks) > 1 else None

    User.objects.create_user("ada@example.com", SECOND)
    monkeypatch.setattr(registration, "_owner_of", look)

    registered = ada()

    assert User.objects.count() == 1
    assert registered.user == User.objects.get()


def test_what_is_no_address():
    with pytest.raises(ValidationError):
        register("ada", FIRST, "en")


# --- Whose password -----------------------------------------------------------------------------------------


def test_the_mail_that_is_confirmed_brings_its_own_password():
    """Somebody was there before, with the owner's address and a password of theirs."""
    ada(FIRST)
    AuthToken.objects.create(user=User.objects.get())

    assert registration.verify(link_token(ada(SECOND))) is Outcome.VERIFIED

    assert (logs_in(FIRST), logs_in(SECOND)) == (False, True)
    assert not AuthToken.objects.exists()


def test_somebody_who_comes_later_changes_nothing_for_the_first_mail():
    registered = ada(FIRST)
    AuthToken.objects.create(user=User.objects.get())
    later_one = ada(SECOND)

    registration.verify(link_token(registered))

    assert (logs_in(FIRST), logs_in(SECOND)) == (True, False)
    assert AuthToken.objects.exists()
    assert registration.verify(link_token(later_one)) is Outcome.ALREADY_VERIFIED
    assert logs_in(FIRST)


def test_a_mail_that_was_asked_for_again_where_several_registered_has_its_reader_choose_the_password():
    ada(FIRST)
    ada(SECOND)
    later(minutes=2)
    registration.request_verification("ada@example.com")
    registration.request_verification("ada@example.com")  # too soon

    assert mails()[2:] == ["password_reset"]
    newest = EmailChallenge.objects.latest("pk")
    assert registration.verify(link_token(newest)) is Outcome.INVALID
    assert credentials.reset_password(link_token(newest), THIRD) is Outcome.DONE
    assert [logs_in(each) for each in (FIRST, SECOND, THIRD)] == [False, False, True]
    assert User.objects.get().email_verified_at


def test_a_mail_that_was_asked_for_again_belongs_to_the_only_registration():
    ada(FIRST)
    later(minutes=2)
    registration.request_verification("ada@example.com")

    registration.verify(link_token(EmailChallenge.objects.latest("pk")))

    assert logs_in(FIRST)


def test_a_registration_of_a_verified_address_brings_nothing():
    registration.verify(link_token(ada(FIRST)))
    tried = ada(SECOND)

    assert registration.verify(link_token(tried)) is Outcome.INVALID
    assert registration.verify_by_code(tried.pk, challenges.code(tried)) is Outcome.INVALID
    assert logs_in(FIRST)


# --- Whom the mail goes to ------------------------------------------------------------------------------------


def test_who_has_verified_and_asks_again_gets_nothing():
    registration.verify(link_token(ada()))
    later(minutes=2)

    registration.request_verification("ada@example.com")

    assert mails() == ["verification", "welcome"]


def test_what_a_stranger_asks_for_again_goes_to_the_owner_again():
    registration.verify(link_token(ada()))
    ada(SECOND)
    later(minutes=2)

    registration.request_verification("ada@example.com")

    assert mails() == ["verification", "welcome", "account_exists", "account_exists"]


# --- Watch ----------------------------------------------------------------------------------------------------


def test_a_status_token_is_that_of_its_registration():
    registered, other = ada(), uuid7()

    assert is_status_token(status_token(registered.pk), registered.pk)
    assert not is_status_token(status_token(other), registered.pk)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token[:-1],
        lambda token: token + "x",
        lambda token: token.partition(".")[2],
        lambda token: token.partition(".")[0],
        lambda token: "." + token.partition(".")[2],
        lambda token: uuid7().hex + "." + token.partition(".")[2],
        lambda _: "",
        lambda _: "\0",
        lambda _: "ä.ö",
    ],
)
def test_a_spoilt_status_token_is_none(spoil):
    registered = ada()

    assert not is_status_token(spoil(status_token(registered.pk)), registered.pk)


def test_a_status_token_verifies_nothing_and_a_link_shows_nothing():
    registered = ada()

    assert registration.verify(status_token(registered.pk)) is Outcome.INVALID
    assert not is_status_token(link_token(registered), registered.pk)


def test_a_status_token_from_before_the_key_was_rotated(settings, monkeypatch):
    registered = ada()
    token = status_token(registered.pk)

    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "a-new-key" * 8, [settings.SECRET_KEY]
    monkeypatch.setattr(registration, "_SIGNER", Signer(salt="users.registration.status"))

    assert status_token(registered.pk) != token
    assert is_status_token(token, registered.pk)


def standing(registered: EmailChallenge) -> Verification:
    found = read(registered.pk)
    assert found is not None
    return found.verification


def test_a_registration_is_pending_then_verified():
    registered = ada()
    assert standing(registered) is Verification.PENDING

    registration.verify(link_token(registered))
    assert standing(registered) is Verification.VERIFIED


def test_a_registration_is_verified_by_a_mail_that_was_asked_for_again():
    registered = ada()
    later(minutes=2)
    registration.request_verification("ada@example.com")

    registration.verify(link_token(EmailChallenge.objects.latest("pk")))

    assert standing(registered) is Verification.VERIFIED


def test_a_registration_expires_until_another_mail_is_asked_for():
    registered = ada()
    EmailChallenge.objects.update(created_at=Now() - timedelta(hours=9), expires_at=Now() - timedelta(hours=1))
    assert standing(registered) is Verification.EXPIRED

    registration.request_verification("ada@example.com")
    assert standing(registered) is Verification.PENDING


def test_one_who_registered_too_does_not_see_that_somebody_else_verified():
    registered, stranger = ada(FIRST), ada(SECOND)

    registration.verify(link_token(registered))

    assert standing(registered) is Verification.VERIFIED
    assert standing(stranger) is Verification.PENDING


def test_a_registration_that_never_was():
    assert read(uuid7()) is None


def test_what_renews_a_registration_is_none():
    ada()
    later(minutes=2)
    registration.request_verification("ada@example.com")

    assert read(EmailChallenge.objects.latest("pk").pk) is None
