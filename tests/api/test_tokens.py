"""Tokens: got for a password, listed, revoked, expired."""

import json
from datetime import timedelta

import pytest
from django.contrib.auth import authenticate as django_authenticate
from django.contrib.auth.hashers import make_password
from django.utils import timezone
from knox.models import AuthToken
from rest_framework.test import APIClient

from mailer.models import Message
from tests.api.conftest import PASSWORD, client_of, make_user, places, problem_of
from tests.conftest import in_threads
from users.models import User

TOKENS = "/api/v1/auth/tokens"
ME = "/api/v1/accounts/me"
ADA = {"email": "ada@example.com", "password": PASSWORD}


def with_token(token):
    return {"headers": {"Authorization": f"Token {token}"}}


@pytest.mark.django_db
class TestCreate:
    def test_address_and_password_get_a_token_that_opens_the_account(self, anyone, ada):
        response = anyone.post(TOKENS, ADA)

        body = response.json()
        row = AuthToken.objects.get()
        assert response.status_code == 201
        assert [*body] == ["id", "token", "created_at", "expires_at"]
        assert body["id"] == body["token"][:15] == row.token_key
        assert row.expiry - row.created == pytest.approx(timedelta(days=30), abs=timedelta(seconds=1))
        assert anyone.get(ME, **with_token(body["token"])).json()["email"] == "ada@example.com"

    def test_only_its_hash_is_stored(self, anyone, ada):
        token = anyone.post(TOKENS, ADA).json()["token"]

        stored = json.dumps([*AuthToken.objects.values()], default=str)
        assert token not in stored
        assert token[15:] not in stored

    def test_each_is_another(self, anyone, ada):
        tokens = {anyone.post(TOKENS, ADA).json()["token"] for _ in range(3)}

        assert len(tokens) == AuthToken.objects.count() == 3

    def test_any_spelling_of_the_address_will_do(self, anyone, ada):
        assert anyone.post(TOKENS, {**ADA, "email": " ADA@example.COM"}).status_code == 201

    def test_it_is_remembered_as_a_login_and_sends_no_mail(self, anyone, ada):
        before = Message.objects.count()

        anyone.post(TOKENS, ADA)

        assert User.objects.get().last_login is not None
        assert Message.objects.count() == before

    def test_wrong_password_unknown_address_and_locked_account_look_alike(self, anyone, ada):
        make_user("locked@example.com", is_active=False)

        wrong = [
            anyone.post(TOKENS, {**ADA, "password": "a wrong password"}),
            anyone.post(TOKENS, {**ADA, "email": "nobody@example.com"}),
            anyone.post(TOKENS, {**ADA, "email": "locked@example.com"}),
        ]

        problems = [problem_of(response, 401, "invalid_credentials") for response in wrong]
        assert len({response["WWW-Authenticate"] for response in wrong}) == 1
        assert len({json.dumps({**problem, "request_id": ""}) for problem in problems}) == 1
        assert "example.com" not in json.dumps(problems)
        assert not AuthToken.objects.exists()
        assert User.objects.get(pk=ada.pk).last_login is None

    def test_an_unknown_address_costs_a_hash_as_well(self, anyone, db, monkeypatch):
        hashed = []
        monkeypatch.setattr(User, "set_password", lambda self, password: hashed.append(password))

        anyone.post(TOKENS, ADA)

        assert hashed == [PASSWORD]

    @pytest.mark.parametrize(
        ("fields", "wrong"),
        [
            ({}, [("#/email", "required"), ("#/password", "required")]),
            ({"email": "ada", "password": ""}, [("#/email", "invalid"), ("#/password", "blank")]),
            ({**ADA, "password": 1e20}, [("#/password", "invalid")]),
            ({**ADA, "password": "a\x00"}, [("#/password", "null_characters_not_allowed")]),
        ],
    )
    def test_what_is_wrong_is_named(self, anyone, fields, wrong):
        assert places(problem_of(anyone.post(TOKENS, fields), 400, "invalid")) == wrong

    @pytest.mark.parametrize("header", ["Token nonsense", "Token", "Bearer x", "Token \xff"])
    def test_a_bad_token_does_not_stand_in_the_way(self, anyone, ada, header):
        assert anyone.post(TOKENS, ADA, headers={"Authorization": header}).status_code == 201


@pytest.mark.django_db
class TestUse:
    @pytest.mark.parametrize(
        ("header", "code"),
        [
            ("", "not_authenticated"),
            ("Bearer 9f3a1c0d2e4b5a6", "not_authenticated"),
            ("Basic YTpi", "not_authenticated"),
            ("Token", "authentication_failed"),
            ("Token a b", "authentication_failed"),
            ("Token 9f3a1c0d2e4b5a6", "authentication_failed"),
            ("Token \xff\xfe", "authentication_failed"),
            ("Token ü", "authentication_failed"),
            ("Token " + "x" * 8000, "authentication_failed"),
        ],
        ids=lambda value: value[:30],
    )
    @pytest.mark.parametrize("path", [ME, TOKENS, "/api/v1/deliveries", "/api/v1/accounts/me/deliveries"])
    def test_anything_but_a_token_is_401_and_names_the_scheme(self, anyone, path, header, code):
        response = anyone.get(path, headers={"Authorization": header})

        problem_of(response, 401, code)
        assert response["WWW-Authenticate"] == "Token"

    def test_one_character_less_or_other_is_no_token(self, anyone, ada):
        token = AuthToken.objects.create(user=ada)[1]

        for other in (token[:-1], token[:-1] + ("0" if token[-1] != "0" else "1"), token + "0", token.upper()):
            problem_of(anyone.get(ME, **with_token(other)), 401, "authentication_failed")

    def test_an_expired_one_is_refused_and_gone(self, anyone, ada):
        token = AuthToken.objects.create(user=ada)[1]
        AuthToken.objects.update(expiry=timezone.now() - timedelta(days=1))

        response = anyone.get(ME, **with_token(token))

        problem_of(response, 401, "authentication_failed")
        assert response["WWW-Authenticate"] == "Token"
        assert not AuthToken.objects.exists()

    def test_that_of_somebody_locked_out_is_refused(self, owner):
        User.objects.update(is_active=False)

        problem_of(owner.get(ME), 401, "authentication_failed")


class TestList:
    def test_shows_ones_own_newest_first_without_the_tokens(self, owner, ada):
        AuthToken.objects.create(user=make_user("grace@example.com"))
        newer, token = AuthToken.objects.create(user=ada)

        response = owner.get(TOKENS)

        listed = response.json()
        assert [entry["current"] for entry in listed] == [False, True]
        assert listed[0] == {
            "id": token[:15],
            "created_at": newer.created.isoformat().replace("+00:00", "Z"),
            "expires_at": newer.expiry.isoformat().replace("+00:00", "Z"),
            "current": False,
        }
        assert token not in response.content.decode()
        assert newer.digest not in response.content.decode()

    def test_shows_no_expired_ones(self, owner, ada):
        AuthToken.objects.create(user=ada, expiry=timedelta(days=-1))

        assert [entry["current"] for entry in owner.get(TOKENS).json()] == [True]

    def test_takes_as_many_queries_for_many_as_for_one(self, owner, ada, django_assert_num_queries):
        with django_assert_num_queries(3) as first:
            owner.get(TOKENS)
        for _ in range(20):
            AuthToken.objects.create(user=ada)

        with django_assert_num_queries(len(first.captured_queries)):
            assert len(owner.get(TOKENS).json()) == 21


class TestRevoke:
    def test_the_current_one(self, owner):
        response = owner.delete(f"{TOKENS}/current")

        assert (response.status_code, response.content) == (204, b"")
        problem_of(owner.get(ME), 401, "authentication_failed")

    def test_another_of_ones_own_by_its_id(self, owner, ada):
        other = client_of(ada)
        identifier = next(entry["id"] for entry in owner.get(TOKENS).json() if not entry["current"])

        assert owner.delete(f"{TOKENS}/{identifier}").status_code == 204

        problem_of(other.get(ME), 401, "authentication_failed")
        assert owner.get(ME).status_code == 200

    def test_a_strangers_is_as_unknown_as_none(self, owner):
        row, _ = AuthToken.objects.create(user=make_user("grace@example.com"))

        strangers = problem_of(owner.delete(f"{TOKENS}/{row.token_key}"), 404, "not_found")
        nobodys = problem_of(owner.delete(f"{TOKENS}/0123456789abcde"), 404, "not_found")

        assert strangers["detail"] == nobodys["detail"]
        assert AuthToken.objects.filter(pk=row.pk).exists()

    def test_needs_a_token(self, anyone, db):
        problem_of(anyone.delete(f"{TOKENS}/current"), 401, "not_authenticated")

    def test_is_all_that_can_be_done_with_one(self, owner):
        problem_of(owner.get(f"{TOKENS}/current"), 405, "method_not_allowed")


@pytest.mark.django_db
class TestLimit:
    def test_the_oldest_goes_where_there_would_be_too_many(self, anyone, ada, settings):
        settings.USER_TOKENS = 3

        made = [anyone.post(TOKENS, ADA).json()["token"] for _ in range(5)]

        opened = [anyone.get(ME, **with_token(token)).status_code for token in made]
        assert opened == [401, 401, 200, 200, 200]

    def test_expired_ones_go_first_and_others_users_stay(self, anyone, ada, settings):
        settings.USER_TOKENS = 2
        _, kept = AuthToken.objects.create(user=ada)
        AuthToken.objects.create(user=ada, expiry=timedelta(days=-1))
        client_of(make_user("grace@example.com"))

        anyone.post(TOKENS, ADA)

        assert anyone.get(ME, **with_token(kept)).status_code == 200
        assert AuthToken.objects.count() == 3

    @pytest.mark.parametrize("change", [{"is_active": False}, {"password": make_password("another good one")}])
    def test_who_was_banned_or_got_another_password_meanwhile_gets_none(self, anyone, ada, monkeypatch, change):
        def authenticate(*args, **credentials):
            user = django_authenticate(*args, **credentials)
            User.objects.filter(pk=ada.pk).update(**change)
            return user

        monkeypatch.setattr("api.tokens.authenticate", authenticate)

        problem_of(anyone.post(TOKENS, ADA), 401, "invalid_credentials")

        assert not AuthToken.objects.exists()

    def test_a_new_hash_of_the_same_password_meanwhile_is_no_other(self, anyone, ada, monkeypatch):
        def authenticate(*args, **credentials):
            user = django_authenticate(*args, **credentials)
            User.objects.filter(pk=ada.pk).update(password=make_password(PASSWORD))
            return user

        monkeypatch.setattr("api.tokens.authenticate", authenticate)

        assert anyone.post(TOKENS, ADA).status_code == 201


@pytest.mark.django_db(transaction=True)
def test_of_many_logins_at_once_no_more_stay_than_may(settings):
    settings.USER_TOKENS = 3
    make_user("ada@example.com")

    answers = in_threads(12, lambda _: APIClient().post(TOKENS, ADA))

    assert [answer.status_code for answer in answers] == [201] * 12
    assert AuthToken.objects.count() == 3
