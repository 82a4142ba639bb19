"""Another address, another password, no account any more: and what becomes of links and tokens."""

from collections import Counter
from datetime import timedelta

import pytest
from django.contrib.auth import authenticate
from django.core.exceptions import ValidationError
from django.db.models.functions import Now
from knox.models import AuthToken

from mailer.models import Message
from tests.conftest import in_threads
from users import challenges, credentials, registration
from users.challenges import MAILS_A_DAY, Outcome, link_token
from users.models import EmailChallenge, User

pytestmark = pytest.mark.django_db

Purpose = EmailChallenge.Purpose
OLD, NEW = "correct horse battery", "staple incorrect donkey"

# What uses a link, by its purpose.
USES = {
    Purpose.VERIFY_EMAIL: registration.verify,
    Purpose.CHANGE_EMAIL: credentials.confirm_change,
    Purpose.RESET_PASSWORD: lambda token: credentials.reset_password(token, NEW),
}
# What a link may bring, the first time.
GOOD = {
    Purpose.VERIFY_EMAIL: Outcome.VERIFIED,
    Purpose.CHANGE_EMAIL: Outcome.VERIFIED,
    Purpose.RESET_PASSWORD: Outcome.DONE,
}
EVERY = pytest.mark.parametrize("purpose", Purpose)


@pytest.fixture
def user() -> User:
    return User.objects.create_user("ada@example.com", OLD)


def link(user: User, purpose: Purpose) -> str:
    email = "lovelace@example.net" if purpose is Purpose.CHANGE_EMAIL else ""
    return link_token(challenges.issue(user, purpose, email=email, typed=email))


def state(user: User) -> dict:
    return User.objects.filter(pk=user.pk).values("email", "password", "email_verified_at", "is_active").get()


# --- Attacks on links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made_for", "used_for"), [(one, other) for one in Purpose for other in Purpose if one is not other]
)
def test_a_link_of_one_purpose_is_good_for_no_other(user, made_for, used_for):
    token, before = link(user, made_for), state(user)

    assert challenges.look_up(token, used_for) == (None, Outcome.INVALID)
    assert USES[used_for](token) is Outcome.INVALID
    assert state(user) == before
    assert USES[made_for](token) is GOOD[made_for]


@EVERY
def test_a_challenge_whose_purpose_was_changed_in_the_database(user, purpose):
    token = link(user, purpose)
    other = next(each for each in Purpose if each is not purpose)
    EmailChallenge.objects.update(purpose=other)

    assert USES[other](token) is Outcome.INVALID


@pytest.mark.parametrize(
    ("purpose", "again"),
    [
        (Purpose.VERIFY_EMAIL, Outcome.ALREADY_VERIFIED),
        (Purpose.CHANGE_EMAIL, Outcome.ALREADY_VERIFIED),
        (Purpose.RESET_PASSWORD, Outcome.USED),
    ],
)
def test_a_link_that_is_replayed_does_nothing_more(user, purpose, again):
    token = link(user, purpose)
    USES[purpose](token)
    before = state(user)

    assert USES[purpose](token) is again
    assert state(user) == before


@EVERY
def test_a_link_after_its_time(user, settings, purpose):
    settings.EMAIL_CHALLENGE_LIFETIME = timedelta(seconds=-1)
    before = state(user)

    assert USES[purpose](link(user, purpose)) is Outcome.EXPIRED
    assert state(user) == before


@EVERY
@pytest.mark.parametrize("saves", [True, False], ids=["saved", "updated"])
def test_a_banned_user_does_not_come_back_by_a_link(user, purpose, saves):
    token = link(user, purpose)
    if saves:
        user.is_active = False
        user.save()
    else:
        User.objects.update(is_active=False)
    before = state(user)

    assert USES[purpose](token) is Outcome.INVALID
    assert state(user) == before


@EVERY
def test_a_link_from_before_a_ban_is_dead_after_it(user, purpose):
    token = link(user, purpose)
    for is_active in (False, True):
        user.is_active = is_active
        user.save(update_fields=["is_active"])

    assert USES[purpose](token) is Outcome.INVALID


def test_a_banned_user_is_asked_for_nothing(user):
    user.is_active = False
    user.save()
    EmailChallenge.objects.all().delete()
    Message.objects.all().delete()

    registration.request_verification(user.email_canonical)
    credentials.request_reset(user.email_canonical)

    assert not EmailChallenge.objects.filter(user=user).exists()
    assert not Message.objects.exclude(error_class="withheld").exists()


@EVERY
def test_a_link_from_before_the_address_changed_is_dead(user, purpose):
    token = link(user, purpose)
    user.email = "countess@example.org"
    user.save()

    assert USES[purpose](token) is Outcome.INVALID

    user.email = "ada@example.com"  # and stays so
    user.save()
    assert USES[purpose](token) is Outcome.INVALID


@EVERY
def test_a_link_from_before_the_password_changed_is_dead(user, purpose):
    token = link(user, purpose)

    credentials.change_password(user, NEW)

    assert USES[purpose](token) is Outcome.INVALID


@EVERY
def test_a_link_from_before_an_operator_set_a_password_is_dead(user, purpose):
    token = link(user, purpose)

    user.set_password(NEW)
    user.save()

    assert USES[purpose](token) is Outcome.INVALID


@EVERY
def test_a_login_that_hashes_the_password_anew_ends_no_link(user, settings, purpose):
    token = link(user, purpose)
    AuthToken.objects.create(user=user)
    settings.PASSWORD_HASHERS = ["users.hashers.Argon2idHasher", *settings.PASSWORD_HASHERS]
    before = User.objects.get().password

    assert authenticate(username="ada@example.com", password=OLD) is not None

    assert User.objects.get().password != before
    assert AuthToken.objects.exists()
    assert USES[purpose](token) is GOOD[purpose]


@pytest.mark.django_db(transaction=True)
@EVERY
def test_of_fifty_who_use_a_link_at_once_one_wins(purpose):
    token = link(User.objects.create_user("ada@example.com", OLD), purpose)

    outcomes = Counter(in_threads(50, lambda _: USES[purpose](token)))

    assert outcomes[GOOD[purpose]] == 1
    assert len(outcomes) == 2


@pytest.mark.django_db(transaction=True)
def test_a_ban_and_links_at_once_do_not_wait_for_each_other():
    user = User.objects.create_user("ada@example.com", OLD)
    tokens = [link(user, Purpose.VERIFY_EMAIL) for _ in range(4)]

    def act(number: int) -> object:
        if number % 4:
            return registration.verify(tokens[number % 4])
        present = User.objects.get(pk=user.pk)
        present.is_active = False
        return present.save(update_fields=["is_active"])

    in_threads(16, act)

    assert not User.objects.get().is_active
    assert {registration.verify(token) for token in tokens} == {Outcome.INVALID}


# --- The password ---------------------------------------------------------------------------------------------


def test_change_password_revokes_tokens_and_tells(user):
    AuthToken.objects.create(user=user)

    credentials.change_password(user, NEW)

    assert User.objects.get().check_password(NEW)
    assert not AuthToken.objects.exists()
    assert Message.objects.filter(kind="password_changed").count() == 1


def test_reset_sets_the_password_verifies_the_address_and_revokes_tokens(user):
    AuthToken.objects.create(user=user)

    assert USES[Purpose.RESET_PASSWORD](link(user, Purpose.RESET_PASSWORD)) is Outcome.DONE

    user.refresh_from_db()
    assert user.check_password(NEW)
    assert user.email_verified_at is not None
    assert not AuthToken.objects.exists()
    assert sorted(Message.objects.values_list("kind", flat=True)) == ["password_changed", "verification", "welcome"]


def test_reset_leaves_an_earlier_verification_as_it_is(user):
    registration.verify(link(user, Purpose.VERIFY_EMAIL))
    before = state(user)["email_verified_at"]

    USES[Purpose.RESET_PASSWORD](link(user, Purpose.RESET_PASSWORD))

    assert state(user)["email_verified_at"] == before


def test_reset_ends_the_other_links(user):
    tokens = [link(user, purpose) for purpose in (Purpose.RESET_PASSWORD, Purpose.CHANGE_EMAIL)]

    USES[Purpose.RESET_PASSWORD](link(user, Purpose.RESET_PASSWORD))

    assert USES[Purpose.RESET_PASSWORD](tokens[0]) is Outcome.INVALID
    assert USES[Purpose.CHANGE_EMAIL](tokens[1]) is Outcome.INVALID


def test_request_reset_sends_a_link_once_a_minute(user):
    for _ in range(3):
        credentials.request_reset("ada@example.com")

    assert Message.objects.get(kind="password_reset").user == user


def test_request_reset_sends_so_many_a_day(user):
    for _ in range(MAILS_A_DAY + 3):
        credentials.request_reset("ada@example.com")
        EmailChallenge.objects.update(created_at=Now() - timedelta(minutes=2))

    assert Message.objects.filter(kind="password_reset").count() == MAILS_A_DAY


@pytest.mark.parametrize("email", ["ada@example.com", "nobody@example.com"])
def test_request_reset_writes_the_same_for_anybody(user, email):
    for model in (EmailChallenge, Message):
        model.objects.all().delete()
    for _ in range(3):
        credentials.request_reset(email)

    assert EmailChallenge.objects.count() == Message.objects.count() == 1


# --- The address ------------------------------------------------------------------------------------------------


def test_the_present_address_stays_until_the_new_one_is_confirmed(user):
    registration.verify(link(user, Purpose.VERIFY_EMAIL))
    before = state(user)

    credentials.request_change(user, "Lovelace@example.net")

    assert state(user) == before
    assert credentials.pending_change(user).get().typed == "Lovelace@example.net"


def test_a_confirmed_address_is_the_accounts_and_verified(user):
    token = link(user, Purpose.CHANGE_EMAIL)

    assert credentials.confirm_change(token) is Outcome.VERIFIED

    user.refresh_from_db()
    assert (user.email, user.email_canonical) == ("lovelace@example.net", "lovelace@example.net")
    assert user.email_verified_at is not None
    assert not credentials.pending_change(user).exists()


def test_a_second_request_takes_the_place_of_the_first(user):
    credentials.request_change(user, "first@example.net")
    first = credentials.pending_change(user).get()

    credentials.request_change(user, "second@example.net")

    assert credentials.confirm_change(link_token(first)) is Outcome.INVALID
    assert credentials.pending_change(user).get().typed == "second@example.net"


def test_request_change_mails_so_many_strangers_a_day(user):
    for number in range(MAILS_A_DAY + 3):
        credentials.request_change(user, f"stranger{number}@example.net")

    assert Message.objects.filter(kind="email_change").count() == MAILS_A_DAY


def test_a_change_that_was_called_off(user):
    credentials.request_change(user, "lovelace@example.net")
    token = link_token(credentials.pending_change(user).get())

    credentials.cancel_change(user)

    assert credentials.confirm_change(token) is Outcome.INVALID
    assert state(user)["email"] == "ada@example.com"


def test_an_address_of_somebody_elses_looks_like_any_and_gets_no_link(user):
    other = User.objects.create_user("lovelace@example.net")
    Message.objects.all().delete()

    credentials.request_change(user, "lovelace@example.net")

    assert credentials.pending_change(user).get().typed == "lovelace@example.net"
    told = Message.objects.order_by("pk").values_list("kind", "user")
    assert [*told] == [("email_change_requested", user.pk), ("account_exists", other.pk)]


def test_an_address_that_is_somebody_elses_by_now(user):
    token = link(user, Purpose.CHANGE_EMAIL)
    User.objects.create_user("lovelace@example.net")

    assert credentials.confirm_change(token) is Outcome.INVALID

    assert state(user)["email"] == "ada@example.com"
    assert not EmailChallenge.objects.filter(purpose=Purpose.CHANGE_EMAIL).get().used_at


def test_request_change_to_what_is_no_address(user):
    with pytest.raises(ValidationError):
        credentials.request_change(user, "ada")


def test_another_spelling_is_a_change_like_any(user):
    credentials.request_change(user, "Ada@Example.com")

    assert credentials.confirm_change(link_token(credentials.pending_change(user).get())) is Outcome.VERIFIED
    assert state(user)["email"] == "Ada@Example.com"


# --- The account ------------------------------------------------------------------------------------------------


def test_a_closed_account_is_gone_with_its_tokens_and_its_address(user):
    AuthToken.objects.create(user=user)
    tokens = {purpose: link(user, purpose) for purpose in Purpose}

    credentials.close(user)

    assert not User.objects.exists()
    assert not AuthToken.objects.exists()
    assert {USES[purpose](token) for purpose, token in tokens.items()} == {Outcome.INVALID}
    assert "@" not in str([*EmailChallenge.objects.values()])


def test_who_registered_the_address_of_a_closed_account_sees_no_change(user):
    registration.verify(link(user, Purpose.VERIFY_EMAIL))
    stranger = registration.register("ada@example.com", NEW, "en")
    before = registration.read(stranger)

    credentials.close(user)

    assert before is not None
    assert registration.read(stranger).verification == before.verification == "pending"


def test_the_address_of_a_closed_account_is_free(user):
    credentials.close(user)

    registration.register("ada@example.com", NEW, "en")

    assert User.objects.get().check_password(NEW)
