"""A challenge is consumed once, by its holder, in time, for the address it was made for."""

from collections import Counter
from datetime import timedelta

import pytest
from django.core.signing import Signer
from django.db.models.functions import Now
from django.utils import timezone
from uuid_utils.compat import uuid7

from mailer.models import Message
from tests.conftest import in_threads
from users import challenges, registration
from users.challenges import Outcome, link_token, look_up
from users.models import EmailChallenge, User
from users.registration import verify
from users.signals import challenge_requested

pytestmark = pytest.mark.django_db

VERIFY = EmailChallenge.Purpose.VERIFY_EMAIL


@pytest.fixture
def challenge(user) -> EmailChallenge:
    return challenges.issue(user, VERIFY)


def verified(user: User) -> bool:
    return User.objects.get(pk=user.pk).email_verified_at is not None


def change(row: User | EmailChallenge, **fields) -> None:
    assert type(row).objects.filter(pk=row.pk).update(**fields) == 1


def outcomes_of(token: str) -> tuple[Outcome | None, Outcome]:
    """Return what looking a token up says, and then what consuming it does."""
    return look_up(token)[1], verify(token)


# --- Issue ------------------------------------------------------------------------------------------------


def test_issue_is_for_the_present_address_and_for_eight_hours(user, challenge):
    assert (challenge.user, challenge.email, challenge.purpose) == (user, "ada@example.com", "verify_email")
    assert challenge.expires_at - challenge.created_at == timedelta(hours=8)
    assert challenge.used_at is None


def test_link_token_is_the_same_every_time(challenge):
    again = EmailChallenge.objects.get(pk=challenge.pk)

    assert link_token(challenge) == link_token(again)


def test_link_token_is_not_in_the_database(challenge):
    _, _, signature = link_token(challenge).partition(".")

    assert signature not in str(EmailChallenge.objects.values())


def test_link_token_differs_by_challenge(user):
    assert link_token(challenges.issue(user, VERIFY)) != link_token(challenges.issue(user, VERIFY))


# --- Consume ----------------------------------------------------------------------------------------------


def test_consume_verifies(user, challenge):
    assert verify(link_token(challenge)) is Outcome.VERIFIED

    user.refresh_from_db()
    challenge.refresh_from_db()
    assert user.email_verified_at == challenge.used_at is not None


def test_consume_sends_one_welcome(user, challenge):
    for _ in range(3):
        verify(link_token(challenge))

    assert Message.objects.filter(kind="welcome", user=user).count() == 1


def test_consume_again_says_so(challenge):
    verify(link_token(challenge))

    assert outcomes_of(link_token(challenge)) == (Outcome.ALREADY_VERIFIED, Outcome.ALREADY_VERIFIED)


def test_consume_another_challenge_of_one_who_is_verified(user, challenge):
    other = challenges.issue(user, VERIFY)
    verify(link_token(challenge))
    before = User.objects.get().email_verified_at

    assert outcomes_of(link_token(other)) == (Outcome.ALREADY_VERIFIED, Outcome.ALREADY_VERIFIED)

    assert User.objects.get().email_verified_at == before


@pytest.mark.django_db(transaction=True)
def test_consume_by_fifty_at_once_verifies_once():
    user = User.objects.create_user("ada@example.com")
    token = link_token(challenges.issue(user, VERIFY))

    outcomes = Counter(in_threads(50, lambda _: verify(token)))

    assert outcomes == {Outcome.VERIFIED: 1, Outcome.ALREADY_VERIFIED: 49}
    assert Message.objects.filter(kind="welcome").count() == 1


@pytest.mark.django_db(transaction=True)
def test_consume_two_challenges_of_one_user_at_once_verifies_once():
    user = User.objects.create_user("ada@example.com")
    tokens = [link_token(challenges.issue(user, VERIFY)) for _ in range(4)]

    outcomes = Counter(in_threads(16, lambda number: verify(tokens[number % 4])))

    assert outcomes == {Outcome.VERIFIED: 1, Outcome.ALREADY_VERIFIED: 15}


def test_consume_too_late(user, settings):
    settings.EMAIL_CHALLENGE_LIFETIME = timedelta(seconds=-1)
    token = link_token(challenges.issue(user, VERIFY))

    assert outcomes_of(token) == (Outcome.EXPIRED, Outcome.EXPIRED)

    assert not verified(user)


def test_consume_with_a_later_expiry_than_was_signed(user, settings):
    settings.EMAIL_CHALLENGE_LIFETIME = timedelta(seconds=-1)
    challenge = challenges.issue(user, VERIFY)
    token = link_token(challenge)
    change(challenge, expires_at=Now() + timedelta(days=1))

    assert outcomes_of(token) == (Outcome.INVALID, Outcome.INVALID)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"),
        lambda token: token[:-1],
        lambda token: token + "x",
        lambda token: token.partition(".")[0],
        lambda token: token.partition(".")[0] + ".",
        lambda token: "." + token.partition(".")[2],
        lambda token: "0" * 32 + "." + token.partition(".")[2],
        lambda token: "not-an-id." + token.partition(".")[2],
        lambda token: token.replace(".", ":"),
        lambda token: token + ":" + token,
        lambda token: token + "\0",
        lambda token: token.partition(".")[0] + ".ä",
        lambda token: token.partition(".")[0] + ".\ud800",
        lambda _: "",
        lambda _: "." * 1000,
    ],
)
def test_consume_a_spoilt_token(user, challenge, spoil):
    assert outcomes_of(spoil(link_token(challenge))) == (Outcome.INVALID, Outcome.INVALID)

    assert not verified(user)


def test_consume_with_the_signature_of_another_challenge(user, challenge):
    _, _, signature = link_token(challenges.issue(user, VERIFY)).partition(".")

    assert outcomes_of(f"{challenge.pk.hex}.{signature}") == (Outcome.INVALID, Outcome.INVALID)


def test_consume_a_signature_made_for_something_else(user, challenge):
    text = challenges._signed_text(challenge)
    signature = Signer(salt="another.purpose").signature(text)

    assert outcomes_of(f"{challenge.pk.hex}.{signature}") == (Outcome.INVALID, Outcome.INVALID)


def test_consume_a_challenge_that_is_gone(challenge):
    token = link_token(challenge)
    challenge.delete()

    assert outcomes_of(token) == (Outcome.INVALID, Outcome.INVALID)


def test_consume_what_never_was(db):
    challenge = EmailChallenge(pk=uuid7(), purpose=VERIFY, email="ada@example.com", expires_at=timezone.now())

    assert outcomes_of(link_token(challenge)) == (Outcome.INVALID, Outcome.INVALID)


def test_consume_after_the_address_changed(user, challenge):
    user.email = "lovelace@example.com"
    user.save()

    assert outcomes_of(link_token(challenge)) == (Outcome.INVALID, Outcome.INVALID)

    assert not verified(user)
    assert EmailChallenge.objects.get(pk=challenge.pk).used_at is None


def test_consume_after_only_the_spelling_changed(user, challenge):
    user.email = "Ada@Example.com"
    user.save()

    assert verify(link_token(challenge)) is Outcome.VERIFIED


def test_consume_for_an_inactive_user(user, challenge):
    change(user, is_active=False)

    assert outcomes_of(link_token(challenge)) == (Outcome.INVALID, Outcome.INVALID)

    assert not verified(user)
    assert EmailChallenge.objects.get(pk=challenge.pk).used_at is None


def test_consume_what_was_superseded(user, challenge):
    change(challenge, superseded_at=Now())

    assert outcomes_of(link_token(challenge)) == (Outcome.INVALID, Outcome.INVALID)

    assert not verified(user)


def test_consume_once_used_is_used_even_where_the_verification_was_taken_back(user, challenge):
    verify(link_token(challenge))
    change(user, email_verified_at=None)

    assert outcomes_of(link_token(challenge)) == (Outcome.INVALID, Outcome.INVALID)

    assert not verified(user)


@pytest.mark.parametrize(
    "meanwhile",
    [{"is_active": False}, {"email_canonical": "lovelace@example.com"}],
    ids=["deactivated", "moved"],
)
def test_consume_while_the_user_changes(user, challenge, monkeypatch, meanwhile):
    """The token is looked at with the user as they were; their row, once locked, decides."""
    real = challenges._challenge_of

    def find(*args):
        found = real(*args)
        change(user, **meanwhile)
        return found

    monkeypatch.setattr(challenges, "_challenge_of", find)

    assert verify(link_token(challenge)) is Outcome.INVALID

    assert not verified(user)


def test_look_up_changes_nothing(user, challenge):
    before = [*EmailChallenge.objects.values(), *User.objects.values()]

    assert look_up(link_token(challenge)) == (challenge, None)

    assert [*EmailChallenge.objects.values(), *User.objects.values()] == before


# --- Rotation ---------------------------------------------------------------------------------------------


def rotate(monkeypatch, settings, *, fallbacks: list[str]) -> None:
    """Start anew with another key, as a deployment does."""
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "a-new-key" * 8, fallbacks
    monkeypatch.setattr(challenges, "_SIGNER", Signer(salt="users.challenges"))


def test_consume_a_link_from_before_the_key_was_rotated(challenge, settings, monkeypatch):
    token = link_token(challenge)

    rotate(monkeypatch, settings, fallbacks=[settings.SECRET_KEY])

    assert verify(token) is Outcome.VERIFIED


def test_consume_a_link_signed_with_a_key_that_was_dropped(challenge, settings, monkeypatch):
    token = link_token(challenge)

    rotate(monkeypatch, settings, fallbacks=[])

    assert outcomes_of(token) == (Outcome.INVALID, Outcome.INVALID)


# --- Ask again --------------------------------------------------------------------------------------------


@pytest.fixture
def requested():
    heard = []

    def listen(challenge, **_):
        heard.append(challenge)

    challenge_requested.connect(listen)
    yield heard
    challenge_requested.disconnect(listen)


@pytest.fixture
def waited(user) -> User:
    """Somebody whose last link was asked for long enough ago."""
    EmailChallenge.objects.update(created_at=Now() - challenges.RESEND_AFTER - timedelta(seconds=1))
    return user


def test_request_verification_issues_a_new_challenge(waited, requested):
    registration.request_verification("ada@example.com")

    (challenge,) = requested
    assert challenge.user == waited
    assert verify(link_token(challenge)) is Outcome.VERIFIED


def test_request_verification_leaves_earlier_links_good(waited, challenge):
    registration.request_verification("ada@example.com")

    assert verify(link_token(challenge)) is Outcome.VERIFIED


def test_request_verification_too_soon_does_nothing(user, requested):
    registration.request_verification("ada@example.com")

    assert requested == []
    assert EmailChallenge.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_request_verification_by_many_at_once_issues_one():
    User.objects.create_user("ada@example.com")
    EmailChallenge.objects.update(created_at=Now() - timedelta(hours=1))

    in_threads(8, lambda _: registration.request_verification("ada@example.com"))

    assert EmailChallenge.objects.count() == 2
    assert Message.objects.count() == 2


@pytest.mark.parametrize(
    "change_", [{"is_active": False}, {"email_verified_at": timezone.now()}], ids=["inactive", "verified"]
)
def test_request_verification_by_one_who_may_not_is_for_nobody(waited, change_):
    change(waited, **change_)

    registration.request_verification("ada@example.com")

    assert EmailChallenge.objects.latest("pk").user is None


def test_request_verification_for_an_unknown_address_is_for_nobody(requested):
    registration.request_verification("nobody@example.com")

    (challenge,) = requested
    assert (challenge.user, challenge.email) == (None, "nobody@example.com")
    assert outcomes_of(link_token(challenge)) == (Outcome.INVALID, Outcome.INVALID)
    assert [*Message.objects.values_list("state", "deliveries__recipient")] == [("cancelled", "")]


def test_request_verification_more_often_than_a_day_allows(waited):
    for _ in range(challenges.MAILS_A_DAY + 3):
        registration.request_verification("ada@example.com")
        EmailChallenge.objects.update(created_at=Now() - timedelta(minutes=2))

    assert EmailChallenge.objects.count() == challenges.MAILS_A_DAY

    EmailChallenge.objects.update(created_at=Now() - timedelta(hours=25))
    registration.request_verification("ada@example.com")

    assert EmailChallenge.objects.count() == challenges.MAILS_A_DAY + 1
