"""Users: one person, one account, however the address is spelled."""

from uuid import UUID

import pytest
from django.contrib.auth import authenticate, get_user_model
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from knox.models import AuthToken

from tests.conftest import in_threads
from users.hashers import Argon2idHasher
from users.models import EmailChallenge, User

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
SPELLINGS = ["ADA@EXAMPLE.COM", "ada@example.com", "Ada@Example.com", " ada@example.com ", "ａｄａ@example.com"]


@pytest.fixture
def user() -> User:
    return User.objects.create_user("Ada@Example.com", PASSWORD)


def test_the_user_model_is_ours():
    assert get_user_model() is User
    assert User.USERNAME_FIELD == User.EMAIL_FIELD == "email"


def test_a_user_keeps_the_address_as_typed_beside_its_canonical_form(user):
    user.refresh_from_db()

    assert (user.email, user.email_canonical) == ("Ada@Example.com", "ada@example.com")
    assert user.email_verified_at is None
    assert user.is_active
    assert not user.is_staff
    assert user.date_joined is not None


def test_a_user_has_no_blanks_around_the_address():
    user = User.objects.create_user(" ada@example.com\n")

    assert user.email == "ada@example.com"


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_address_in_another_spelling_is_taken(user, spelling):
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.create_user(spelling)

    assert User.objects.count() == 1


def test_one_address_is_one_users_in_the_database_itself(user):
    other = User.objects.create_user("bob@example.com")

    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE users_user SET email_canonical = 'ada@example.com' WHERE id = %s", [other.pk])


@pytest.mark.django_db(transaction=True)
def test_one_address_is_one_users_among_many_at_once():
    def register(number: int) -> bool:
        try:
            User.objects.create_user(SPELLINGS[number % len(SPELLINGS)])
        except IntegrityError:
            return False
        return True

    assert sum(in_threads(8, register)) == 1


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_login_finds_any_spelling(user, spelling):
    assert authenticate(username=spelling, password=PASSWORD) == user


@pytest.mark.parametrize(
    ("address", "password"),
    [("ada@example.com", "wrong"), ("eve@example.com", PASSWORD), ("no address", PASSWORD), ("", PASSWORD)],
)
def test_login_refuses(user, address, password):
    assert authenticate(username=address, password=password) is None


def test_login_refuses_the_inactive(user):
    user.is_active = False
    user.save()

    assert authenticate(username="ada@example.com", password=PASSWORD) is None


def test_get_by_natural_key_of_nothing():
    with pytest.raises(User.DoesNotExist):
        User.objects.get_by_natural_key(None)


def test_a_user_without_an_address_is_not_saved():
    with pytest.raises(ValidationError):
        User.objects.create_user("no address")

    assert not User.objects.exists()


def test_a_changed_address_changes_its_canonical_form(user):
    user.email = "Lovelace@Example.com"
    user.save(update_fields=["email"])

    user.refresh_from_db()
    assert (user.email, user.email_canonical) == ("Lovelace@Example.com", "lovelace@example.com")


def test_a_save_of_other_fields_leaves_the_address(user):
    User.objects.filter(pk=user.pk).update(email_canonical="set@elsewhere.example")

    user.locale = "de"
    user.save(update_fields=["locale"])

    assert User.objects.get().email_canonical == "set@elsewhere.example"


def test_a_superuser_may_do_everything():
    user = User.objects.create_superuser("root@example.com", PASSWORD)

    assert user.is_staff
    assert user.has_perm("mailer.view_recipient")


def test_createsuperuser_asks_for_nothing_but_the_address(monkeypatch):
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", PASSWORD)

    call_command("createsuperuser", email="root@example.com", interactive=False, verbosity=0)

    assert authenticate(username="root@example.com", password=PASSWORD).is_superuser


def test_names_hold_no_address(user):
    # An id of its own draws "ada" from its hexadecimal digits once in a hundred times.
    challenge = EmailChallenge(id=UUID(int=0), user=user, email=user.email_canonical)

    assert "ada" not in f"{user} {challenge}".lower()


# --- Whether the save under way is the one that verifies ----------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_newly_verified_until_a_rollback_is_made_good(user):
    user.email_verified_at = timezone.now()
    with transaction.atomic():
        user.save()
        transaction.set_rollback(True)

    assert user.newly_verified


@pytest.mark.django_db(transaction=True)
def test_newly_verified_only_until_it_is_saved(user):
    assert not user.newly_verified

    user.email_verified_at = timezone.now()
    assert user.newly_verified

    user.save()
    assert not user.newly_verified


def test_newly_verified_is_asked_anew_when_the_row_is_read(user):
    User.objects.filter(pk=user.pk).update(email_verified_at=timezone.now())
    user.email_verified_at = timezone.now()

    user.refresh_from_db()

    assert not user.newly_verified
    assert not User.objects.get().newly_verified


def test_newly_verified_survives_a_save_of_other_fields(user):
    user.email_verified_at = timezone.now()

    user.save(update_fields=["locale"])

    assert user.newly_verified


def test_newly_verified_survives_reading_other_fields(user):
    user.email_verified_at = timezone.now()

    user.refresh_from_db(fields=["locale"])

    assert user.newly_verified


# --- Validation, as forms do it ---------------------------------------------------------------------------


def test_full_clean_accepts_a_new_address():
    User(email="Ada@Example.com", password="!").full_clean()


def test_full_clean_accepts_a_user_as_they_are(user):
    user.full_clean()


@pytest.mark.parametrize("spelling", ["ada@example.com", "ＡＤＡ@example.com"])
def test_full_clean_refuses_a_taken_address(user, spelling):
    with pytest.raises(ValidationError) as caught:
        User(email=spelling, password="!").full_clean()

    assert set(caught.value.message_dict) == {"email"}


@pytest.mark.parametrize("address", ["ada@exa_mple.com", "ada@ex¡mple.com", "ada", ""])
def test_full_clean_refuses_what_is_no_address(address):
    with pytest.raises(ValidationError) as caught:
        User(email=address, password="!").full_clean()

    assert set(caught.value.message_dict) == {"email"}


# --- What a save ends -------------------------------------------------------------------------------------


@pytest.fixture
def entered(user) -> User:
    """Somebody with a token, and a challenge that was asked for."""
    AuthToken.objects.create(user=user)
    return User.objects.get(pk=user.pk)


def ended(user: User) -> tuple[bool, bool]:
    """Tell whether every challenge is superseded, and every token revoked."""
    return not user.challenges.filter(superseded_at=None).exists(), not AuthToken.objects.exists()


def test_a_ban_ends_challenges_and_tokens(entered):
    entered.is_active = False
    entered.save(update_fields=["is_active"])

    assert ended(entered) == (True, True)


def test_a_new_password_ends_challenges_and_tokens(entered):
    entered.set_password("staple incorrect donkey")
    entered.save()

    assert ended(entered) == (True, True)


def test_a_new_address_ends_challenges(entered):
    entered.email = "lovelace@example.com"
    entered.save()

    assert ended(entered) == (True, False)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"locale": "de"}, None),
        ({"email": "Ada@Example.com"}, None),
        ({"email": "lovelace@example.com"}, ["locale"]),
        ({"is_active": False}, ["locale"]),
        ({"is_staff": True}, ["is_staff"]),
    ],
    ids=str,
)
def test_another_change_ends_nothing(entered, change, fields):
    for name, value in change.items():
        setattr(entered, name, value)
    entered.save(update_fields=fields)

    assert ended(entered) == (False, False)


def test_a_save_that_is_rolled_back_ends_nothing_and_the_next_one_does(entered):
    entered.email = "lovelace@example.com"
    with transaction.atomic():
        entered.save()
        transaction.set_rollback(True)

    assert ended(entered) == (False, False)
    entered.save()
    assert ended(entered) == (True, False)


# --- Passwords --------------------------------------------------------------------------------------------


def test_passwords_are_hashed_with_argon2id_at_owasps_parameters():
    hashed = Argon2idHasher().encode("correct horse", "a-long-enough-salt")

    assert hashed.startswith("argon2$argon2id$v=19$m=7168,t=5,p=1$")
    assert Argon2idHasher().verify("correct horse", hashed)
