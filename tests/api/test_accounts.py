"""Register, verify, resend, and one's own account."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from django.contrib.auth import password_validation
from django.contrib.auth.hashers import make_password
from django.db.models.functions import Now
from rest_framework.test import APIClient

from mailer.models import Message
from tests.api.conftest import PASSWORD, make_user, places, problem_of
from tests.conftest import in_threads
from users import challenges, registration
from users.models import EmailChallenge, User

REGISTER = "/api/v1/accounts/register"
VERIFY = "/api/v1/accounts/verify-email"
RESEND = "/api/v1/accounts/verify-email/resend"
ME = "/api/v1/accounts/me"

ADA = {"email": "Ada@Example.com", "password": PASSWORD}


def kinds():
    return sorted(Message.objects.values_list("kind", flat=True))


def headers(response):
    return {name: value for name, value in response.headers.items() if name != "Content-Length"}


@pytest.mark.django_db
class TestRegister:
    def test_a_free_address_gets_a_user_and_a_mail(self, anyone):
        response = anyone.post(REGISTER, ADA)

        user, challenge = User.objects.get(), EmailChallenge.objects.get()
        assert response.status_code == 202
        assert response.json() == {
            "status": "accepted",
            "resend_after": 60,
            "registration_id": str(challenge.pk),
            "status_token": registration.status_token(challenge.pk),
        }
        assert (user.email, user.email_verified_at, user.locale) == ("Ada@Example.com", None, "en")
        assert user.check_password(PASSWORD)
        assert kinds() == ["verification"]

    def test_a_taken_address_is_answered_like_a_free_one(self, anyone):
        free = anyone.post(REGISTER, ADA)

        taken = anyone.post(REGISTER, {**ADA, "email": "ada@EXAMPLE.com", "password": "another good one"})

        ours, theirs = free.json(), taken.json()
        assert [*ours] == [*theirs]
        assert (taken.status_code, headers(taken)) == (free.status_code, headers(free))
        assert len(taken.content) == len(free.content)
        assert ours.pop("registration_id") != theirs.pop("registration_id")
        assert ours.pop("status_token") != theirs.pop("status_token")
        assert ours == theirs

    def test_a_taken_address_gets_an_id_of_the_same_kind(self, anyone):
        ids = [UUID(anyone.post(REGISTER, ADA).json()["registration_id"]) for _ in range(2)]

        assert [identifier.version for identifier in ids] == [7, 7]

    def test_the_owner_of_a_taken_address_is_told_and_loses_nothing(self, anyone):
        anyone.post(REGISTER, ADA)
        anyone.post(VERIFY, {"token": challenges.link_token(EmailChallenge.objects.get())})

        anyone.post(REGISTER, {**ADA, "password": "another good one"})

        assert User.objects.get().check_password(PASSWORD)
        assert kinds() == ["account_exists", "verification", "welcome"]

    def test_an_owner_who_never_verified_gets_another_link(self, anyone):
        anyone.post(REGISTER, ADA)
        EmailChallenge.objects.update(created_at=Now() - timedelta(minutes=5))

        anyone.post(REGISTER, ADA)

        assert kinds() == ["verification", "verification"]

    def test_a_taken_address_costs_a_hash_as_well(self, anyone, monkeypatch):
        make_user("ada@example.com")
        hashed = []
        monkeypatch.setattr(
            registration, "make_password", lambda password, salt: hashed.append(password) or make_password(password)
        )

        anyone.post(REGISTER, ADA)

        assert hashed == [PASSWORD]

    @pytest.mark.parametrize("taken", [False, True])
    @pytest.mark.parametrize("email", ["ada@throw.example", "Ada@Mail.THROW.example", "ada@ｔｈｒｏｗ。example"])
    def test_an_address_of_a_blocked_domain_is_refused_whoever_has_it(self, anyone, settings, taken, email):
        settings.BLOCKED_DOMAINS = frozenset({"throw.example"})
        if taken:
            make_user("ada@throw.example")

        problem = problem_of(anyone.post(REGISTER, {"email": email, "password": PASSWORD}), 400, "invalid")

        assert places(problem) == [("#/email", "domain_blocked")]

    @pytest.mark.parametrize("taken", [False, True])
    def test_errors_do_not_tell_whether_an_address_is_taken(self, anyone, taken):
        if taken:
            make_user("ada@example.com")

        response = anyone.post(REGISTER, {"email": "ada@example.com", "password": "short"})

        assert places(problem_of(response, 400, "invalid")) == [("#/password", "password_too_short")]

    def test_fields_that_are_not_asked_for_have_no_effect(self, anyone):
        more = {"is_staff": True, "is_superuser": True, "email_verified_at": "2026-01-01T00:00:00Z", "id": 7}

        response = anyone.post(REGISTER, {**ADA, **more})

        user = User.objects.get()
        assert response.status_code == 202
        assert (user.is_staff, user.is_superuser, user.email_verified_at) == (False, False, None)

    @pytest.mark.parametrize(
        ("fields", "wrong"),
        [
            ({}, [("#/email", "required"), ("#/password", "required")]),
            ({"email": "", "password": ""}, [("#/email", "blank"), ("#/password", "blank")]),
            ({"email": None, "password": None}, [("#/email", "null"), ("#/password", "null")]),
            ({"email": 5, "password": 123456789012345}, [("#/email", "invalid"), ("#/password", "invalid")]),
            ({"email": True, "password": 1e20}, [("#/email", "invalid"), ("#/password", "invalid")]),
            ({"email": ["a@b.example"], "password": {}}, [("#/email", "invalid"), ("#/password", "invalid")]),
            ({"email": "ada", "password": PASSWORD}, [("#/email", "invalid")]),
            ({"email": "ada@example.com\n\rBcc: b@example.com", "password": PASSWORD}, [("#/email", "invalid")]),
            ({"email": "a\x00da@example.com", "password": PASSWORD}, [("#/email", "invalid")]),
            ({"email": "a\x7fda@example.com", "password": PASSWORD}, [("#/email", "invalid")]),
            ({"email": "a\u202eda@example.com", "password": PASSWORD}, [("#/email", "invalid")]),
            ({"email": "a" * 243 + "@example.com", "password": PASSWORD}, [("#/email", "max_length")]),
            ({"email": "a@" + "é" * 30_000, "password": PASSWORD}, [("#/email", "max_length")]),
            ({**ADA, "password": "short"}, [("#/password", "password_too_short")]),
            ({**ADA, "password": "password1234"}, [("#/password", "password_too_common")]),
            (
                {**ADA, "password": "ada@example.com"},
                [("#/password", f"password_{why}") for why in ("too_similar", "of_service_words")],
            ),
            (
                {**ADA, "password": "qwerty"},
                [("#/password", "password_too_short"), ("#/password", "password_too_common")],
            ),
            ({**ADA, "password": "correct\x00horse battery"}, [("#/password", "null_characters_not_allowed")]),
            ({**ADA, "password": "Example-password1"}, [("#/password", "password_of_service_words")]),
            ({**ADA, "password": "x" * 1025}, [("#/password", "max_length")]),
            ({**ADA, "locale": "tlh"}, [("#/locale", "invalid_choice")]),
            ({**ADA, "locale": None}, [("#/locale", "null")]),
            ({**ADA, "locale": ["en"]}, [("#/locale", "invalid_choice")]),
        ],
        ids=lambda value: str(value)[:60],
    )
    def test_what_is_wrong_is_named(self, anyone, fields, wrong):
        response = anyone.post(REGISTER, fields)

        assert places(problem_of(response, 400, "invalid")) == wrong
        assert not User.objects.exists()

    def test_half_a_surrogate_pair_is_no_text(self, anyone):
        body = r'{"email": "\ud800@example.com", "password": "correct horse \udc00"}'

        response = anyone.generic("POST", REGISTER, body, content_type="application/json")

        assert [place for place, _ in places(problem_of(response, 400, "invalid"))] == ["#/email", "#/password"]

    @pytest.mark.parametrize("body", ["[]", '["a"]', '"a"', "5", "null", "true"])
    def test_a_body_that_is_no_object_is_refused(self, anyone, body):
        response = anyone.generic("POST", REGISTER, body, content_type="application/json")

        assert [place for place, _ in places(problem_of(response, 400, "invalid"))] in (
            ["#"],
            ["#/email", "#/password"],  # `null` is taken for no body at all
        )

    def test_no_error_repeats_what_was_sent(self, anyone):
        sent = {"email": "grace@hopper@example.com", "password": "grace@hop.de", "locale": "grace@hopper.example"}

        response = anyone.post(REGISTER, sent)

        problem_of(response, 400, "invalid")
        assert "grace" not in response.content.decode()

    def test_spaces_of_a_password_count(self, anyone):
        anyone.post(REGISTER, {**ADA, "password": f"  {PASSWORD} "})

        assert User.objects.get().check_password(f"  {PASSWORD} ")

    def test_the_longest_address_and_an_international_one_are_fine(self, anyone):
        longest = "a" * 64 + "@" + ".".join(["b" * 61] * 3) + ".cc"

        assert len(longest) == 253
        assert anyone.post(REGISTER, {**ADA, "email": longest}).status_code == 202
        assert anyone.post(REGISTER, {**ADA, "email": "grüße@bücher.example"}).status_code == 202

    @pytest.mark.parametrize("asked", [{"locale": "en"}, {}])
    def test_the_locale_is_asked_for_or_the_requests_own(self, anyone, asked):
        anyone.post(REGISTER, {**ADA, **asked}, headers={"Accept-Language": "tlh, en;q=0.5"})

        assert User.objects.get().locale == "en"

    def test_the_locale_may_come_from_the_request(self, anyone, settings):
        settings.LANGUAGES = [("en", "English"), ("de", "Deutsch")]

        anyone.post(REGISTER, ADA, headers={"Accept-Language": "de-AT, en;q=0.5"})

        assert User.objects.get().locale == "de"

    def test_an_expired_token_does_not_stand_in_the_way(self, anyone):
        assert anyone.post(REGISTER, ADA, headers={"Authorization": "Token gone"}).status_code == 202


@pytest.mark.django_db(transaction=True)
def test_one_of_many_simultaneous_registrations_of_one_address_makes_the_user():
    spellings = ["ada@example.com", "Ada@example.com", "ADA@EXAMPLE.COM", "ada@Example.com"]

    answers = in_threads(8, lambda number: APIClient().post(REGISTER, {**ADA, "email": spellings[number % 4]}))

    assert [answer.status_code for answer in answers] == [202] * 8
    assert len({answer.json()["registration_id"] for answer in answers}) == 1
    assert User.objects.count() == 1
    assert kinds() == ["verification"]


@pytest.mark.django_db
class TestPasswordsAndTokensInLogs:
    def test_no_log_line_holds_one(self, anyone, caplog):
        caplog.set_level("DEBUG")
        anyone.post(REGISTER, ADA)
        link = challenges.link_token(EmailChallenge.objects.get())
        anyone.post(VERIFY, {"token": link})
        token = anyone.post("/api/v1/auth/tokens", ADA).json()["token"]
        anyone.post("/api/v1/auth/tokens", {**ADA, "password": "a wrong password"})
        anyone.get(ME, headers={"Authorization": f"Token {token}"})

        # As they are before the formatter's own guard.
        lines = "\n".join(f"{record.msg} {record.args} {record.exc_info}" for record in caplog.records)
        assert "request_finished" in lines
        assert not [
            secret
            for secret in (PASSWORD, "a wrong password", token, link, "example.com")
            if secret.casefold() in lines.casefold()
        ]


@pytest.mark.django_db
class TestVerify:
    @pytest.fixture
    def challenge(self):
        return User.objects.create_user("ada@example.com", PASSWORD).challenges.get()

    def test_the_token_of_the_link_verifies(self, anyone, challenge):
        response = anyone.post(VERIFY, {"token": challenges.link_token(challenge)})

        assert (response.status_code, response.json()) == (200, {"status": "verified"})
        assert User.objects.get().email_verified_at is not None
        assert kinds() == ["verification", "welcome"]

    def test_a_second_time_says_so(self, anyone, challenge):
        first, second = (anyone.post(VERIFY, {"token": challenges.link_token(challenge)}) for _ in range(2))

        assert first.json() == {"status": "verified"}
        assert (second.status_code, second.json()) == (200, {"status": "already_verified"})
        assert kinds() == ["verification", "welcome"]

    def test_an_expired_link_is_gone(self, anyone, challenge):
        challenge.created_at -= timedelta(days=2)
        challenge.expires_at = challenge.created_at
        challenge.save()

        problem_of(anyone.post(VERIFY, {"token": challenges.link_token(challenge)}), 410, "link_expired")

        assert User.objects.get().email_verified_at is None

    @pytest.mark.parametrize(
        "change", [lambda token: token[:-1], lambda token: f"{token}x", lambda _: "nonsense", lambda _: "ä.ö"]
    )
    def test_a_link_of_nobodys_is_not_valid(self, anyone, challenge, change):
        problem_of(anyone.post(VERIFY, {"token": change(challenges.link_token(challenge))}), 404, "link_invalid")

    def test_a_link_of_somebody_locked_out_is_not_valid(self, anyone, challenge):
        User.objects.update(is_active=False)

        problem_of(anyone.post(VERIFY, {"token": challenges.link_token(challenge)}), 404, "link_invalid")

    @pytest.mark.parametrize(
        ("token", "code"),
        [
            ("", "blank"),
            (None, "null"),
            (5, "invalid"),
            ("a\x00b", "null_characters_not_allowed"),
            ("x" * 201, "max_length"),
        ],
    )
    def test_what_cannot_be_a_token_is_named(self, anyone, token, code):
        assert places(problem_of(anyone.post(VERIFY, {"token": token}), 400, "invalid")) == [("#/token", code)]

    def test_every_method_but_post_changes_nothing(self, anyone, challenge):
        token = challenges.link_token(challenge)

        for method in ("get", "put", "patch", "delete"):
            problem_of(getattr(anyone, method)(VERIFY, {"token": token}), 405, "method_not_allowed")

        assert User.objects.get().email_verified_at is None


@pytest.mark.django_db
class TestResend:
    def test_whoever_asks_gets_the_same_answer(self, anyone):
        make_user("verified@example.com", email_verified_at=datetime(2026, 1, 1, tzinfo=UTC))
        make_user("locked@example.com", is_active=False)
        make_user("waiting@example.com")

        answers = [
            anyone.post(RESEND, {"email": f"{name}@example.com"})
            for name in ("nobody", "verified", "locked", "waiting", "waiting")
        ]

        assert [answer.status_code for answer in answers] == [202] * 5
        assert [answer.json() for answer in answers] == [{"status": "accepted", "resend_after": 60}] * 5
        assert all(headers(answer) == headers(answers[0]) for answer in answers)
        # The second time the mail is on its way already.
        sent = Message.objects.exclude(error_class="withheld")
        assert [*sent.values_list("kind", "user__email")] == [("verification", "waiting@example.com")]
        assert Message.objects.count() == EmailChallenge.objects.count() == 4

    def test_any_spelling_of_the_address_will_do(self, anyone):
        make_user("ada@example.com")

        anyone.post(RESEND, {"email": "ADA@Example.com"})

        assert kinds() == ["verification"]

    def test_a_bad_address_is_named(self, anyone):
        problem = problem_of(anyone.post(RESEND, {"email": "ada"}), 400, "invalid")

        assert places(problem) == [("#/email", "invalid")]


class TestMe:
    def test_shows_the_callers_own(self, owner, ada):
        response = owner.get(ME)

        assert response.json() == {
            "email": "ada@example.com",
            "email_verified_at": None,
            "locale": "en",
            "date_joined": User.objects.get(pk=ada.pk).date_joined.isoformat().replace("+00:00", "Z"),
            "pending_email": None,
        }

    def test_is_for_nobody_without_a_token(self, anyone, db):
        problem_of(anyone.get(ME), 401, "not_authenticated")


def test_validators_of_the_settings_are_the_ones_tested(settings):
    names = {type(validator).__name__ for validator in password_validation.get_default_password_validators()}

    assert names == {
        *("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator"),
        "ServiceWordValidator",
    }
