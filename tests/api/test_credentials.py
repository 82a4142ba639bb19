"""What a user changes about the account, and what who forgot the password does."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db.models import F
from django.utils import translation
from knox.models import AuthToken

from mailer import kinds
from mailer.models import DeliveryStatus, Message
from tests.api.conftest import PASSWORD, client_of, deliver, make_user, places, problem_of
from tests.conftest import in_threads
from users import challenges, credentials
from users.models import EmailChallenge, User

ME = "/api/v1/accounts/me"
EMAIL = f"{ME}/email"
NEW_PASSWORD = f"{ME}/password"
CONFIRM_EMAIL = "/api/v1/accounts/email-change/confirm"
RESET = "/api/v1/accounts/password-reset"
CONFIRM_RESET = f"{RESET}/confirm"
TOKENS = "/api/v1/auth/tokens"

OTHER = "staple incorrect donkey"
ADA = {"email": "ada@example.com", "password": PASSWORD}


def link_of(purpose):
    return challenges.link_token(EmailChallenge.objects.filter(purpose=purpose).latest("pk"))


def mails():
    return [*Message.objects.exclude(error_class="withheld").order_by("pk").values_list("kind", flat=True)]


# --- The language ------------------------------------------------------------------------------------------


class TestLocale:
    def test_is_changed(self, owner, ada):
        response = owner.patch(ME, {"locale": "de"})

        assert (response.status_code, response.json()["locale"]) == (200, "de")
        assert User.objects.get().locale == "de"

    def test_is_one_that_there_is(self, owner):
        problem = problem_of(owner.patch(ME, {"locale": "tlh"}), 400, "invalid")

        assert places(problem) == [("#/locale", "invalid_choice")]

    def test_is_all_that_is_changed_so(self, owner, ada):
        response = owner.patch(ME, {"email": "x@example.com", "is_staff": True, "email_verified_at": None, "id": 7})

        assert response.status_code == 200
        assert response.json()["email"] == "ada@example.com"
        assert not User.objects.get().is_staff

    def test_is_not_put(self, owner):
        problem_of(owner.put(ME, {"locale": "de"}), 405, "method_not_allowed")


# --- The address -------------------------------------------------------------------------------------------


class TestChangeEmail:
    def test_takes_effect_when_it_is_confirmed(self, anyone, owner):
        response = owner.post(EMAIL, {"password": PASSWORD, "email": "Lovelace@example.net"})

        assert (response.status_code, response.json()) == (202, {"status": "accepted", "resend_after": 60})
        shown = owner.get(ME).json()
        assert (shown["email"], shown["pending_email"]) == ("ada@example.com", "Lovelace@example.net")
        assert anyone.post(CONFIRM_EMAIL, {"token": link_of("change_email")}).json() == {"status": "verified"}
        shown = owner.get(ME).json()
        assert (shown["email"], shown["pending_email"]) == ("Lovelace@example.net", None)
        assert shown["email_verified_at"] is not None
        assert mails() == ["email_change_requested", "email_change", "welcome", "email_changed"]

    def test_is_called_off(self, anyone, owner):
        owner.post(EMAIL, {"password": PASSWORD, "email": "lovelace@example.net"})
        token = link_of("change_email")

        assert [owner.delete(EMAIL).status_code for _ in range(2)] == [204, 204]

        assert owner.get(ME).json()["pending_email"] is None
        problem_of(anyone.post(CONFIRM_EMAIL, {"token": token}), 404, "link_invalid")

    def test_needs_the_password(self, owner):
        problem = problem_of(owner.post(EMAIL, {"password": OTHER, "email": "l@example.net"}), 400, "invalid")

        assert places(problem) == [("#/password", "wrong_password")]
        assert not EmailChallenge.objects.exists()

    def test_does_not_tell_whether_the_address_is_taken(self, owner):
        make_user("taken@example.net")
        answers = []
        for email in ("taken@example.net", "free@example.net"):
            answers.append(owner.post(EMAIL, {"password": PASSWORD, "email": email}))
            answers.append(owner.get(ME))

        taken, shown_taken, free, shown_free = ((one.status_code, one.content, dict(one.headers)) for one in answers)
        assert taken == free
        assert shown_taken[0] == shown_free[0]
        assert [b"taken@" in shown_taken[1], b"free@" in shown_free[1]] == [True, True]
        assert mails() == ["email_change_requested", "account_exists", "email_change_requested", "email_change"]

    def test_needs_a_token(self, anyone, db):
        problem_of(anyone.post(EMAIL, {"password": PASSWORD, "email": "a@example.net"}), 401, "not_authenticated")
        problem_of(anyone.delete(EMAIL), 401, "not_authenticated")

    def test_a_link_logs_nobody_in(self, anyone, owner):
        owner.post(EMAIL, {"password": PASSWORD, "email": "lovelace@example.net"})

        response = anyone.post(CONFIRM_EMAIL, {"token": link_of("change_email")})

        assert not response.cookies
        assert "token" not in response.json()


# --- The password ------------------------------------------------------------------------------------------


class TestChangePassword:
    def test_revokes_every_token_and_gives_a_new_one(self, anyone, owner, ada):
        other = client_of(ada)

        response = owner.post(NEW_PASSWORD, {"password": PASSWORD, "new_password": OTHER})

        assert response.status_code == 200
        assert [*response.json()] == ["id", "token", "created_at", "expires_at"]
        for client in (owner, other):
            problem_of(client.get(ME), 401, "authentication_failed")
        anyone.credentials(HTTP_AUTHORIZATION=f"Token {response.json()['token']}")
        assert anyone.get(ME).status_code == 200
        assert mails() == ["password_changed"]

    def test_is_the_one_to_log_in_with(self, anyone, owner):
        owner.post(NEW_PASSWORD, {"password": PASSWORD, "new_password": OTHER})

        problem_of(anyone.post(TOKENS, ADA), 401, "invalid_credentials")
        assert anyone.post(TOKENS, {**ADA, "password": OTHER}).status_code == 201

    @pytest.mark.parametrize(
        ("fields", "wrong"),
        [
            ({"password": OTHER}, [("#/password", "wrong_password")]),
            ({"new_password": "short"}, [("#/new_password", "password_too_short")]),
            (
                {"new_password": "ada@example.com"},
                [("#/new_password", f"password_{code}") for code in ("too_similar", "of_service_words")],
            ),
            ({"new_password": None}, [("#/new_password", "null")]),
            ({"new_password": "x" * 1025}, [("#/new_password", "max_length")]),
        ],
        ids=str,
    )
    def test_what_is_wrong_is_named_and_changes_nothing(self, owner, fields, wrong):
        body = {"password": PASSWORD, "new_password": OTHER, **fields}

        assert places(problem_of(owner.post(NEW_PASSWORD, body), 400, "invalid")) == wrong
        assert User.objects.get().check_password(PASSWORD)
        assert owner.get(ME).status_code == 200


class TestReset:
    def test_sets_the_password_and_logs_nobody_in(self, anyone, owner):
        asked = anyone.post(RESET, {"email": "ADA@example.com"})

        response = anyone.post(CONFIRM_RESET, {"token": link_of("reset_password"), "password": OTHER})

        assert (asked.status_code, asked.json()) == (202, {"status": "accepted", "resend_after": 60})
        assert (response.status_code, response.content) == (204, b"")
        assert not response.cookies
        problem_of(owner.get(ME), 401, "authentication_failed")
        assert anyone.post(TOKENS, {**ADA, "password": OTHER}).status_code == 201
        assert User.objects.get().email_verified_at is not None
        assert mails() == ["password_reset", "welcome", "password_changed"]

    def test_a_password_that_is_refused_leaves_the_link_good(self, anyone, ada):
        anyone.post(RESET, {"email": "ada@example.com"})
        token = link_of("reset_password")

        for refused, code in (("short", "password_too_short"), ("ada@example.com", "password_too_similar")):
            problem = problem_of(anyone.post(CONFIRM_RESET, {"token": token, "password": refused}), 400, "invalid")
            assert ("#/password", code) in places(problem)

        assert anyone.post(CONFIRM_RESET, {"token": token, "password": OTHER}).status_code == 204

    def test_a_link_works_once(self, anyone, ada):
        anyone.post(RESET, {"email": "ada@example.com"})
        body = {"token": link_of("reset_password"), "password": OTHER}
        anyone.post(CONFIRM_RESET, body)

        problem_of(anyone.post(CONFIRM_RESET, {**body, "password": "a third good password"}), 410, "link_used")

        assert User.objects.get().check_password(OTHER)

    def test_a_link_that_has_expired(self, anyone, ada):
        anyone.post(RESET, {"email": "ada@example.com"})
        EmailChallenge.objects.update(expires_at=F("created_at"))

        problem_of(
            anyone.post(CONFIRM_RESET, {"token": link_of("reset_password"), "password": OTHER}), 410, "link_expired"
        )

    def test_whoever_asks_gets_the_same_answer(self, anyone, db):
        make_user("verified@example.com", email_verified_at=datetime(2026, 1, 1, tzinfo=UTC))
        make_user("banned@example.com", is_active=False)
        make_user("unverified@example.com")

        answers = [
            anyone.post(RESET, {"email": f"{name}@example.com"})
            for name in ("nobody", "verified", "banned", "unverified", "unverified", "nobody")
        ]

        assert len({(one.status_code, one.content, str(dict(one.headers))) for one in answers}) == 1
        assert EmailChallenge.objects.count() == Message.objects.count() == DeliveryStatus.objects.count() == 4
        assert mails() == ["password_reset"] * 2


# --- The account -------------------------------------------------------------------------------------------


class TestDelete:
    def test_is_for_good(self, anyone, owner):
        response = owner.delete(ME, {"password": PASSWORD})

        assert (response.status_code, response.content) == (204, b"")
        assert not User.objects.exists()
        assert not AuthToken.objects.exists()
        problem_of(owner.get(ME), 401, "authentication_failed")
        problem_of(anyone.post(TOKENS, ADA), 401, "invalid_credentials")

    @pytest.mark.parametrize(("body", "code"), [({"password": OTHER}, "wrong_password"), ({}, "required")], ids=str)
    def test_needs_the_password(self, owner, body, code):
        assert places(problem_of(owner.delete(ME, body), 400, "invalid")) == [("#/password", code)]
        assert User.objects.exists()

    def test_leaves_rows_of_the_mails_without_the_person(self, owner, ada):
        sent = deliver(user=ada, events=["sent", "delivered"])
        waits = deliver(user=ada)
        earlier = deliver("ada@example.org", user=ada, events=["sent", "bounced"])

        owner.delete(ME, {"password": PASSWORD})

        rows = DeliveryStatus.objects.order_by("created_at").values_list("pk", "status", "recipient", "user")
        assert [*rows] == [
            (sent.pk, "delivered", "", None),
            (waits.pk, "cancelled", "", None),
            (earlier.pk, "bounced", "", None),
        ]
        assert "ada@" not in str([*DeliveryStatus.objects.values(), *Message.objects.values()])

    def test_leaves_what_is_somebody_elses_by_now(self, owner, ada):
        grace = make_user("ada@example.org")
        deliver("ada@example.org", user=ada, events=["sent"])
        theirs = deliver("ada@example.org", user=grace, events=["sent"])

        owner.delete(ME, {"password": PASSWORD})

        theirs.refresh_from_db()
        assert (theirs.recipient, theirs.user) == ("ada@example.org", grace)


# --- Attacks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", EmailChallenge.Purpose)
def test_a_token_of_one_purpose_at_the_endpoints_of_the_others(anyone, ada, purpose):
    token = challenges.link_token(challenges.issue(ada, purpose, email=ada.email_canonical, typed="a@b.example"))
    endpoints = {
        "verify_email": "/api/v1/accounts/verify-email",
        "change_email": CONFIRM_EMAIL,
        "reset_password": CONFIRM_RESET,
    }
    for other, path in endpoints.items():
        if other != purpose:
            problem_of(anyone.post(path, {"token": token, "password": OTHER}), 404, "link_invalid")

    user = User.objects.get()
    assert (user.email, user.email_verified_at, user.check_password(PASSWORD)) == ("ada@example.com", None, True)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "127.0.0.1"},  # one that is allowed
        {"X-Forwarded-Host": "evil.example"},
        {"Forwarded": "host=evil.example"},
        {"X-Forwarded-Proto": "https", "X-Forwarded-Port": "8443"},
        {"Origin": "https://evil.example", "Referer": "https://evil.example/"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/v1/accounts/register", {**ADA, "email": "new@example.com"}), (RESET, {"email": "ada@example.com"})],
)
def test_no_header_changes_where_a_link_leads(anyone, ada, path, body, headers):
    anyone.post(path, body, headers=headers)

    content = kinds.render(Message.objects.get())
    assert content["text"].count("http://testserver/") == content["text"].count("://") == 1
    assert "evil" not in str(content)


def test_a_foreign_host_is_refused(anyone, ada):
    problem_of(anyone.post(RESET, {"email": "ada@example.com"}, headers={"Host": "evil.example"}), 400, "bad_request")

    assert not Message.objects.exists()


def test_another_address_of_the_client_opens_no_further_try(anyone, db):
    answer = anyone.post("/api/v1/accounts/register", ADA).json()
    codes = []
    for number in range(challenges.CODE_TRIES + 3):
        spoofed = {
            "X-Forwarded-For": f"10.0.0.{number}",
            "X-Real-IP": f"10.0.0.{number}",
            "Forwarded": f"for=10.0.0.{number}",
        }
        body = {"registration_id": answer["registration_id"], "code": "00000000"}
        codes.append(anyone.post("/api/v1/accounts/verify-email", body, headers=spoofed).json()["code"])
        anyone.post(RESET, {"email": ADA["email"]}, headers=spoofed)
        anyone.post("/api/v1/accounts/verify-email/resend", {"email": ADA["email"]}, headers=spoofed)

    assert codes == ["code_invalid"] * challenges.CODE_TRIES + ["code_spent"] * 3
    assert mails() == ["verification", "password_reset"]


@pytest.mark.django_db(transaction=True)
def test_of_fifty_who_reset_a_password_at_once_one_does():
    user = User.objects.create_user("ada@example.com", PASSWORD)
    credentials.request_reset("ada@example.com")
    token = link_of("reset_password")

    outcomes = in_threads(50, lambda number: credentials.reset_password(token, f"{OTHER} {number}"))

    (winner,) = [number for number, outcome in enumerate(outcomes) if outcome == "done"]
    user.refresh_from_db()
    assert user.check_password(f"{OTHER} {winner}")
    assert Message.objects.filter(kind="password_changed").count() == 1


@pytest.mark.django_db(transaction=True)
def test_many_who_ask_for_one_address_at_once_make_one_mail():
    User.objects.create_user("ada@example.com", PASSWORD)

    in_threads(12, lambda _: credentials.request_reset("ada@example.com"))
    in_threads(12, lambda _: credentials.request_reset("nobody@example.com"))

    assert Message.objects.filter(kind="password_reset").count() == 2


@pytest.mark.django_db
def test_secrets_are_in_no_log_line(anyone, caplog):
    caplog.set_level("DEBUG")
    ada = make_user()
    answer = anyone.post("/api/v1/accounts/register", {**ADA, "password": OTHER}).json()
    path = f"/api/v1/accounts/registrations/{answer['registration_id']}"
    anyone.get(path, headers={"Authorization": f"Bearer {answer['status_token']}"})
    code = challenges.code(EmailChallenge.objects.get())
    anyone.post("/api/v1/accounts/verify-email", {"registration_id": answer["registration_id"], "code": code})
    anyone.post(RESET, {"email": ADA["email"]})
    token = link_of("reset_password")
    anyone.post(CONFIRM_RESET, {"token": token, "password": "a third good password"})
    client_of(ada).post(EMAIL, {"password": "a third good password", "email": "lovelace@example.net"})

    lines = "\n".join(f"{record.msg} {record.args} {record.exc_info}" for record in caplog.records)
    assert "request_finished" in lines
    secrets = (PASSWORD, OTHER, "a third good password", token, code, answer["status_token"], "example.com", "lovelace")
    assert [secret for secret in secrets if secret in lines] == []


@pytest.mark.django_db
def test_mails_are_in_the_users_language(anyone):
    make_user(locale="de")

    with translation.override("en"):
        anyone.post(RESET, {"email": "ada@example.com"}, headers={"Accept-Language": "en"})

    assert "Ein neues Passwort" in kinds.render(Message.objects.get())["subject"]


@pytest.mark.django_db
def test_asking_again_after_a_minute_sends_another_link_and_the_first_stays_good(anyone, ada):
    anyone.post(RESET, {"email": "ada@example.com"})
    first = link_of("reset_password")
    EmailChallenge.objects.update(created_at=F("created_at") - timedelta(minutes=2))
    anyone.post(RESET, {"email": "ada@example.com"})

    assert mails() == ["password_reset"] * 2
    assert anyone.post(CONFIRM_RESET, {"token": first, "password": OTHER}).status_code == 204
    problem_of(
        anyone.post(CONFIRM_RESET, {"token": link_of("reset_password"), "password": PASSWORD}), 404, "link_invalid"
    )
