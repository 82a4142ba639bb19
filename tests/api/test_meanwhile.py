"""What is asked for with a password or a token that is over by the time it would be done."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.conf import settings as service
from django.db import connection, transaction
from django.db.models import F

from mailer import retention
from mailer.models import Message
from tests.api.conftest import PASSWORD, client_of, make_user, problem_of
from tests.conftest import in_threads, wait_until
from users import challenges, credentials, registration
from users.models import AuditEntry, EmailChallenge, User

pytestmark = pytest.mark.django_db(transaction=True)

ME = "/api/v1/accounts/me"
NEW, THEIRS = "staple incorrect donkey", "whoever knew the old one"


def is_waited_for() -> bool:
    """Tell whether somebody waits for what this transaction holds."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))")
        return cursor.fetchone() is not None


def meanwhile(act, ask):
    """Act, have somebody ask before that is committed, so that they wait for it, and return what they are answered."""
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            act()
            asked = pool.submit(lambda: in_threads(1, lambda _: ask()))
            wait_until(is_waited_for)
        return asked.result()[0]


def reset():
    challenge = challenges.issue(User.objects.get(), EmailChallenge.Purpose.RESET_PASSWORD)
    credentials.reset_password(challenges.link_token(challenge), NEW)


def ban():
    user = User.objects.get()
    user.is_active = False
    user.save(update_fields=["is_active"])


def delete():
    User.objects.get().delete()


# What may happen to an account, and what it then is.
OVER = {
    reset: lambda: User.objects.get().check_password(NEW),
    ban: lambda: not User.objects.get().is_active,
    delete: lambda: not User.objects.exists(),
}
# What somebody may ask for who has the token and the password of before.
ASKED = {
    "another password": ("post", f"{ME}/password", {"password": PASSWORD, "new_password": THEIRS}),
    "another address": ("post", f"{ME}/email", {"password": PASSWORD, "email": "theirs@example.net"}),
    "the end": ("delete", ME, {"password": PASSWORD}),
}


@pytest.mark.parametrize("act", OVER)
@pytest.mark.parametrize("asked", ASKED)
def test_what_needs_the_password_is_refused_where_it_or_the_account_is_over(ada, asked, act):
    owner = client_of(ada)
    method, path, body = ASKED[asked]

    answer = meanwhile(act, lambda: getattr(owner, method)(path, body))

    assert problem_of(answer, 401, "authentication_failed")["detail"] == "Invalid token."
    assert answer["WWW-Authenticate"] == owner.get(ME)["WWW-Authenticate"]
    assert OVER[act]()
    assert not EmailChallenge.objects.filter(purpose=EmailChallenge.Purpose.CHANGE_EMAIL).exists()


@pytest.mark.parametrize("act", OVER)
def test_another_language_brings_nothing_else_back(ada, act):
    owner = client_of(ada)

    meanwhile(act, lambda: owner.patch(ME, {"locale": "de"}))

    assert OVER[act]()
    assert not AuditEntry.objects.filter(action=AuditEntry.Action.UNBANNED).exists()


def test_a_login_by_an_old_hash_does_not_undo_a_reset(ada, anyone, settings):
    settings.PASSWORD_HASHERS = ["users.hashers.Argon2idHasher", *service.PASSWORD_HASHERS]
    credentials_of_before = {"email": ada.email, "password": PASSWORD}

    answer = meanwhile(reset, lambda: anyone.post("/api/v1/auth/tokens", credentials_of_before))

    problem_of(answer, 401, "invalid_credentials")
    assert User.objects.get().check_password(NEW)


def test_two_who_delete_one_account_at_once(ada):
    clients = [client_of(ada) for _ in range(2)]

    answers = in_threads(2, lambda number: clients[number].delete(ME, {"password": PASSWORD}).status_code)

    assert sorted(answers) == [204, 401]
    assert not User.objects.exists()


def test_an_operator_who_makes_the_account_that_is_being_registered(db):
    def make():
        User.objects.create_user("ada@example.com", NEW)

    registered = meanwhile(make, lambda: registration.register("Ada@example.com", PASSWORD, "en"))

    repeated = EmailChallenge.objects.get(pk=registered)
    assert User.objects.get() == repeated.user
    assert repeated.password
    assert Message.objects.filter(kind="verification", state="pending").count() == 2


@pytest.mark.parametrize("again", [False, True], ids=["a new password", "another's address"])
def test_the_end_of_an_account_waits_for_who_asks_about_its_address(ada, again):
    eve = make_user("eve@example.com")

    def ask():
        if again:
            credentials.request_change(eve, ada.email)
        else:
            credentials.request_reset(ada.email)

    if again:  # which the second one supersedes
        ask()
        EmailChallenge.objects.update(created_at=F("created_at") - timedelta(minutes=2))

    assert meanwhile(ask, lambda: client_of(ada).delete(ME, {"password": PASSWORD})).status_code == 204
    assert User.objects.get() == eve


def test_an_account_is_deleted_while_its_mails_are_erased(anyone):
    anyone.post("/api/v1/accounts/register", {"email": "ada@example.com", "password": PASSWORD})
    ada = User.objects.get()
    owner = client_of(ada)

    answer = meanwhile(lambda: retention.erase_user(ada), lambda: owner.delete(ME, {"password": PASSWORD}))

    assert answer.status_code == 204
    assert not User.objects.exists()
