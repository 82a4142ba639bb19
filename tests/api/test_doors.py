"""What may come in: bodies of a sane size and shape, and nothing that makes us fail."""

import gzip
import json
import secrets

import pytest
from rest_framework.test import APIClient

from api.doors import MAX_BODY
from tests.api.conftest import client_of, make_user, problem_of

REGISTER = "/api/v1/accounts/register"
WITH_BODIES = [REGISTER, "/api/v1/accounts/verify-email", "/api/v1/accounts/verify-email/resend", "/api/v1/auth/tokens"]
JSON = "application/json"


@pytest.fixture
def everybody(db):
    """Somebody with every permission."""
    return client_of(make_user("root@example.net", is_superuser=True))


def post(client, body, path=REGISTER, content_type=JSON, **headers):
    return client.generic("POST", path, body, content_type=content_type, headers=headers)


@pytest.mark.django_db
@pytest.mark.parametrize("path", WITH_BODIES)
class TestBody:
    @pytest.mark.parametrize(
        "body",
        [
            "{",
            '{"email": ',
            "{'email': 'a'}",
            '{"email": NaN}',
            '{"email": Infinity}',
            '{"a": 1}{"b": 2}',
            '{"email": "a\nb"}',
            '{"email": "\\x"}',
            "email=ada",
            b"\xff\xfe{\x00}\x00",
            b"\xef\xbb\xbf{}",
            b'{"email": "\xff"}',
            b"\x00",
            '{"a": ' + "1" * 5000 + "}",
        ],
        ids=lambda value: ascii(value)[:30],
    )
    def test_that_is_no_json_is_refused(self, anyone, path, body):
        problem_of(post(anyone, body, path), 400, "parse_error")

    @pytest.mark.parametrize("opening", ["[", '{"a":', '{"email":['])
    def test_nested_deeply_is_refused(self, anyone, path, opening):
        body = opening * (MAX_BODY // len(opening))

        problem_of(post(anyone, body, path), 400, "parse_error")

    def test_too_large_is_refused(self, anyone, path):
        problem_of(post(anyone, json.dumps({"email": "x" * MAX_BODY}), path), 413, "too_large")

    def test_just_small_enough_is_read(self, anyone, path):
        body = json.dumps({"padding": ""})
        body = body[:-2] + "x" * (MAX_BODY - len(body)) + body[-2:]

        assert len(body) == MAX_BODY
        problem_of(post(anyone, body, path), 400, "invalid")

    @pytest.mark.parametrize(
        "content_type",
        [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/xml",
            "nonsense",
        ],
    )
    def test_of_another_type_is_refused(self, anyone, path, content_type):
        problem_of(post(anyone, "email=a", path, content_type), 415, "unsupported_media_type")

    @pytest.mark.parametrize("charset", ["utf-8", "UTF-16", "rot13", "base64", "idna", "nonsense", "\xff"])
    def test_is_utf_8_whatever_is_said_of_it(self, anyone, path, charset):
        problem_of(post(anyone, "{}", path, f"{JSON}; charset={charset}"), 400, "invalid")

    def test_that_is_compressed_is_no_json(self, anyone, path):
        body = gzip.compress(b'{"email": "ada@example.com"}')

        problem_of(post(anyone, body, path, **{"Content-Encoding": "gzip"}), 400, "parse_error")

    def test_that_is_missing_is_empty(self, anyone, path):
        problem_of(post(anyone, "", path), 400, "invalid")

    def test_of_noise_is_never_an_error_of_ours(self, anyone, path):
        for _ in range(50):
            assert post(anyone, secrets.token_bytes(200), path).status_code == 400


@pytest.mark.django_db
class TestNegotiation:
    @pytest.mark.parametrize("accept", ["text/html", "application/xml", "image/*", "nonsense"])
    def test_what_cannot_be_written_is_refused(self, anyone, accept):
        problem_of(post(anyone, "{}", Accept=accept), 406, "not_acceptable")

    @pytest.mark.parametrize("accept", ["*/*", JSON, "text/html, application/json;q=0.1", "application/*"])
    def test_json_will_do(self, anyone, accept):
        problem_of(post(anyone, "{}", Accept=accept), 400, "invalid")


@pytest.mark.django_db
@pytest.mark.parametrize("path", [*WITH_BODIES, "/api/v1/accounts/me", "/api/v1/deliveries"])
class TestMethods:
    def test_options_say_what_is_allowed(self, path, supervisor):
        response = supervisor.options(path)

        assert response.status_code == 200
        assert "OPTIONS" in response["Allow"]

    def test_another_is_405_and_names_the_right_ones(self, path, supervisor):
        response = supervisor.generic("BREW", path)

        problem_of(response, 405, "method_not_allowed")
        assert "OPTIONS" in response["Allow"]


@pytest.mark.django_db
@pytest.mark.django_db
@pytest.mark.parametrize("path", ["deliveries", "audit", "webhook-receipts", "accounts/me/deliveries"])
@pytest.mark.parametrize(
    "query",
    [
        *("cursor=%ED%A0%80", "cursor=" + "A" * 3000, "page_size=" + "9" * 5000, "page_size=NaN", "%00=1", "kind=%00"),
        *("user_id=" + "9" * 300, "user_id=1e5000", "user_id=NaN", "user_id=Infinity", "q=%ff%fe@", "state=%ED%A0%80"),
    ],
    ids=lambda query: query[:20],
)
def test_no_query_is_an_error_of_ours(everybody, path, query):
    assert everybody.get(f"/api/v1/{path}?{query}").status_code in {200, 400, 403}


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/v1/accounts/me", {"GET", "PATCH", "DELETE", "HEAD", "OPTIONS"}),
        ("TRACE", "/api/v1/auth/tokens", {"GET", "POST", "HEAD", "OPTIONS"}),
        ("DELETE", "/api/v1/deliveries", {"GET", "HEAD", "OPTIONS"}),
        ("GET", "/api/v1/accounts/register", {"POST", "OPTIONS"}),
    ],
)
def test_a_method_that_is_not_there_is_told_to_anyone(anyone, method, path, allowed):
    response = anyone.generic(method, path)

    problem_of(response, 405, "method_not_allowed")
    assert {*response["Allow"].split(", ")} == allowed


def test_no_csrf_token_and_no_session_is_asked_for(ada):
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(ada)

    assert post(client, '{"email": "a@example.com"}', "/api/v1/accounts/verify-email/resend").status_code == 202
    problem_of(client.get("/api/v1/accounts/me"), 401, "not_authenticated")


def test_foreign_host_is_a_problem_too(client):
    response = client.get("/api/v1/accounts/me", headers={"Host": "evil.example"})

    problem_of(response, 400, "bad_request")


def test_unknown_address_is_a_problem_while_debugging_too(client, settings):
    settings.DEBUG = True

    problem_of(client.get("/api/v1/nowhere"), 404, "not_found")


@pytest.mark.django_db
def test_no_cache_keeps_an_answer(client):
    assert client.get("/api/v1/accounts/me")["Cache-Control"] == "no-store"
