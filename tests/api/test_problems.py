"""Errors as problem details, whatever went wrong and wherever."""

import json
import os
import subprocess
import sys
from uuid import UUID

import psycopg
import pytest
from django.db import connections
from rest_framework import exceptions
from rest_framework.test import APIClient

from tests.api.conftest import PASSWORD, problem_of
from tests.conftest import ROOT, free_port
from users import challenges, registration

REGISTER = "/api/v1/accounts/register"
ME = "/api/v1/accounts/me"
ADA = {"email": "ada@example.com", "password": PASSWORD}


def broken(*_):
    raise RuntimeError("ada@example.com has no such attribute")


@pytest.fixture
def bystander():
    """A client that gets what a real one would: the answer, not the exception."""
    return APIClient(raise_request_exception=False)


@pytest.fixture
def no_database(transactional_db):
    """Point this thread's connection at a port where nothing listens, as after a crash of the server."""
    default = connections["default"]  # not the proxy to it
    before = default.settings_dict
    default.close()
    default.settings_dict = before | {"HOST": "127.0.0.1", "PORT": str(free_port())}
    yield
    default.close()
    default.settings_dict = before


class TestProblem:
    def test_names_title_status_and_request(self, anyone, db):
        body = problem_of(anyone.get(ME), 401, "not_authenticated")

        assert (body["type"], body["title"], body["errors"]) == ("about:blank", "Unauthorized", [])
        assert UUID(body["request_id"])

    def test_each_request_has_an_id_of_its_own(self, anyone, db):
        given = {"headers": {"X-Request-ID": "mine", "X-Correlation-ID": "mine"}}

        ids = {anyone.get(ME, **given).json()["request_id"] for _ in range(3)}

        assert len(ids) == 3
        assert "mine" not in ids

    def test_too_many_requests_say_when_to_come_again(self, bystander, db, monkeypatch):
        def throttle(*_):
            raise exceptions.Throttled(wait=7)

        monkeypatch.setattr(registration, "register", throttle)

        response = bystander.post(REGISTER, ADA)

        problem_of(response, 429, "throttled")
        assert response["Retry-After"] == "7"


class TestNowhere:
    @pytest.mark.parametrize(
        "path",
        [
            "/api/",
            "/api/v1/",
            "/api/v1/nowhere",
            "/api/v2/accounts/register",
            f"{REGISTER}/",
            f"{ME}/deliveries/1",
            "/api/v1/%00",
        ],
    )
    @pytest.mark.parametrize("method", ["get", "post", "delete"])
    @pytest.mark.parametrize("accept", ["*/*", "text/html", "application/json"])
    def test_below_api_is_a_problem(self, bystander, db, path, method, accept):
        response = getattr(bystander, method)(path, headers={"Accept": accept})

        assert response.status_code == 404
        assert response["Content-Type"] == "application/problem+json"
        assert response.json()["code"] == "not_found"

    @pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
    def test_below_api_asks_for_no_csrf_token(self, db, method):
        strict = APIClient(enforce_csrf_checks=True)

        problem_of(getattr(strict, method)("/api/v1/webhook-receipts/none/replay"), 404, "not_found")

    def test_elsewhere_is_a_page_for_people(self, bystander):
        response = bystander.get("/nowhere", headers={"Accept": "text/html"})

        assert response.status_code == 404
        assert response["Content-Type"] == "text/html; charset=utf-8"
        assert "There is nothing at this address." in response.content.decode()

    def test_elsewhere_is_a_problem_for_programs(self, bystander):
        problem_of(bystander.get("/nowhere", headers={"Accept": "application/json"}), 404, "not_found")


@pytest.mark.django_db
class TestBug:
    @pytest.mark.parametrize("accept", ["*/*", "text/html", "application/json"])
    def test_below_api_is_a_problem_without_details(self, bystander, monkeypatch, accept):
        monkeypatch.setattr(registration, "register", broken)

        response = bystander.post(REGISTER, ADA, headers={"Accept": accept} if accept != "text/html" else {})

        problem_of(response, 500, "server_error")
        assert "attribute" not in response.content.decode()
        assert "ada@" not in response.content.decode()

    def test_on_a_page_is_a_page_without_details(self, bystander, monkeypatch):
        monkeypatch.setattr(challenges, "look_up", broken)

        response = bystander.get("/verify-email?token=x", headers={"Accept": "text/html"})

        assert response.status_code == 500
        assert response["Content-Type"] == "text/html; charset=utf-8"
        assert "Something went wrong here." in response.content.decode()
        assert "attribute" not in response.content.decode()


class TestDatabaseAway:
    def test_a_lost_connection_is_503_and_the_next_request_is_fine(self, transactional_db, bystander):
        terminate(connections["default"])

        response = bystander.post(REGISTER, ADA)

        problem_of(response, 503, "unavailable")
        assert response["Retry-After"] == "5"
        connections["default"].close()  # as the end of a request does, but for the test client's
        assert bystander.post(REGISTER, ADA).status_code == 202

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("post", REGISTER, ADA),
            ("post", "/api/v1/accounts/verify-email", {"token": "0190a6c47b3e7c1a9d3b0f1e2d3c4b5a.x"}),
            ("post", "/api/v1/accounts/verify-email/resend", {"email": "ada@example.com"}),
            ("post", "/api/v1/auth/tokens", ADA),
            ("get", ME, {}),
            ("get", f"{ME}/deliveries", {}),
            ("get", "/api/v1/deliveries", {}),
            ("delete", "/api/v1/auth/tokens/current", {}),
        ],
    )
    def test_every_endpoint_says_so(self, no_database, bystander, method, path, body):
        response = getattr(bystander, method)(path, body, headers={"Authorization": "Token 9f3a1c0d2e4b5a6"})

        problem_of(response, 503, "unavailable")
        assert response["Retry-After"] == "5"
        assert "127.0.0.1" not in response.content.decode()

    def test_a_service_that_never_had_one_says_so(self, tmp_path):
        program = (
            "import django; django.setup()\n"
            "from django.test import Client\n"
            f"response = Client().post({REGISTER!r}, {ADA!r}, content_type='application/json')\n"
            "print(response.status_code, response['Retry-After'], response['Content-Type'])\n"
        )
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "DATABASE_URL": f"postgresql://nobody@{str(tmp_path).replace('/', '%2F')}/none",
        }

        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )

        assert done.stdout.split() == ["503", "5", "application/problem+json"]
        lost = [line for line in map(json.loads, done.stderr.splitlines()) if line["event"] == "database_lost"]
        assert [line["error_class"] for line in lost] == ["OperationalError"]


def terminate(connection):
    """End this process's session at the server, as a restart of it does."""
    connection.ensure_connection()
    wanted = connection.get_connection_params()
    names = ("dbname", "host", "port", "user", "password")
    with psycopg.connect(**{name: wanted[name] for name in names if wanted.get(name)}, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.connection.info.backend_pid])
