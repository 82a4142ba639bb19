"""Who may ask how often: each endpoint's own limit, on the real Valkey."""

import itertools
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils.crypto import get_random_string
from rest_framework.test import APIClient

from api import urls
from project.accounts import THROTTLES, read_throttles
from project.environment import Environment
from tests.api.conftest import PASSWORD, client_of, make_user, problem_of
from tests.conftest import free_port, in_threads
from users import limits
from users.challenges import CODE_TRIES, MAILS_A_DAY, RESEND_AFTER
from users.models import User
from users.outages import Outage

REGISTER = "/api/v1/accounts/register"
VERIFY = "/api/v1/accounts/verify-email"
RESEND = "/api/v1/accounts/verify-email/resend"
TOKENS = "/api/v1/auth/tokens"

numbers = itertools.count()


@pytest.fixture(autouse=True)
def limited(settings, monkeypatch):
    """The limits as they are deployed, uncharged."""
    settings.THROTTLES = read_throttles(Environments())
    monkeypatch.setattr(limits, "PREFIX", f"test:{get_random_string(12)}")
    monkeypatch.setattr(limits, "_outage", Outage("limits_not_held", "limits_held_again", limits.DOWN))


class Environments(Environment):
    """An environment that says nothing."""

    ENVIRON = {}


def at(address):
    return APIClient(REMOTE_ADDR=address)


def register(client, number=None):
    number = next(numbers) if number is None else number
    return client.post(REGISTER, {"email": f"ada{number}@example.com", "password": PASSWORD})


def statuses(count, ask):
    return [ask().status_code for _ in range(count)]


@pytest.mark.django_db
class TestRegister:
    def test_ten_an_hour_from_one_address_and_then_429_that_says_how_long(self):
        client = at("192.0.2.1")
        assert statuses(10, lambda: register(client)) == [202] * 10

        refused = register(client)

        problem = problem_of(refused, 429, "throttled")
        assert 3590 < int(refused["Retry-After"]) <= 3600
        assert refused["Retry-After"] in problem["detail"]
        assert User.objects.count() == 10
        assert register(at("192.0.2.2")).status_code == 202

    def test_what_is_refused_counts_too(self):
        client = at("192.0.2.1")

        assert statuses(11, lambda: client.post(REGISTER, {})) == [400] * 10 + [429]

    def test_all_addresses_of_a_64_are_one_client(self):
        assert [register(at(f"2001:db8:1:2::{n:x}")).status_code for n in range(11)] == [202] * 10 + [429]
        assert register(at("2001:db8:1:3::")).status_code == 202

    def test_a_taken_address_is_limited_like_a_free_one(self):
        make_user("taken@example.com")
        taken = {"email": "taken@example.com", "password": PASSWORD}

        assert statuses(11, lambda: at("192.0.2.1").post(REGISTER, taken)) == [202] * 10 + [429]

    def test_x_forwarded_for_makes_no_other_client(self):
        client = at("192.0.2.1")

        def spoof():
            headers = {"X-Forwarded-For": f"198.51.100.{next(numbers)}", "Forwarded": "for=198.51.100.1"}
            return client.post(REGISTER, {}, headers={**headers, "X-Real-IP": f"198.51.100.{next(numbers)}"})

        assert statuses(11, spoof) == [400] * 10 + [429]

    def test_behind_a_proxy_the_place_that_it_has_written_counts(self, settings):
        settings.NUM_PROXIES = 1

        def spoof(client):
            places = f"198.51.100.{next(numbers)}, {client}"
            return APIClient(REMOTE_ADDR="10.0.0.1").post(REGISTER, {}, headers={"X-Forwarded-For": places})

        assert statuses(11, lambda: spoof("192.0.2.1")) == [400] * 10 + [429]
        assert spoof("192.0.2.2").status_code == 400

    def test_without_redis_registration_goes_on_and_the_log_says_so_once(self, settings, caplog):
        settings.REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"

        assert statuses(15, lambda: register(at("192.0.2.1"))) == [202] * 15

        told = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
        assert [line["event"] for line in told if line["event"].startswith("limits")] == ["limits_not_held"]


@pytest.mark.django_db(transaction=True)
def test_of_fifty_registrations_at_once_ten_pass():
    answers = in_threads(50, lambda number: register(at("192.0.2.1"), f"-{number}"))

    assert sorted(answer.status_code for answer in answers) == [202] * 10 + [429] * 40
    assert User.objects.count() == 10


@pytest.mark.django_db
class TestVerify:
    def test_thirty_a_minute(self):
        client = at("192.0.2.1")

        assert statuses(31, lambda: client.post(VERIFY, {"token": "x"})) == [404] * 30 + [429]


@pytest.mark.django_db
class TestMail:
    """Of an address's own limits see `tests/users/test_registration.py`: the database keeps them."""

    def test_a_thirty_first_of_one_client_is_refused_whomever_it_is_for(self):
        client = at("192.0.2.1")

        asked = statuses(31, lambda: client.post(RESEND, {"email": f"ada{next(numbers)}@example.com"}))

        assert asked == [202] * 30 + [429]


@pytest.mark.django_db
class TestLogin:
    def ask(self, client=None, email="ada@example.com", password="a wrong password"):
        return (client or at(f"192.0.2.{next(numbers) % 250}")).post(TOKENS, {"email": email, "password": password})

    def test_ten_a_minute_from_one_address(self):
        client = at("192.0.2.1")

        asked = statuses(11, lambda: self.ask(client, f"ada{next(numbers)}@example.com"))

        assert asked == [401] * 10 + [429]

    def test_five_in_five_minutes_for_one_account_wherever_they_come_from(self):
        make_user("ada@example.com")
        assert statuses(5, self.ask) == [401] * 5

        refused = self.ask(password=PASSWORD)

        problem_of(refused, 429, "throttled")
        assert 290 < int(refused["Retry-After"]) <= 300
        assert self.ask(email="grace@example.com").status_code == 401

    def test_any_spelling_of_an_address_is_one_account(self):
        make_user("ada@example.com")
        spellings = ["Ada@example.com", "ADA@EXAMPLE.COM", "ａda@example.com", " ada@example.com", "ada@example。com"]

        asked = [self.ask(email=email).status_code for email in [*spellings, "ada@example.com"]]

        assert asked == [401] * 5 + [429]

    def test_an_address_that_nobody_has_is_limited_alike(self):
        make_user("ada@example.com")

        answers = [[self.ask(email=f"{name}@example.com") for _ in range(6)] for name in ("ada", "nobody")]

        assert [[answer.status_code for answer in row] for row in answers] == [[401] * 5 + [429]] * 2
        assert len({answer.json()["detail"] for row in answers for answer in row[:5]}) == 1

    def test_a_list_of_ones_tokens_is_no_login(self):
        client = client_of(make_user("ada@example.com"))

        assert statuses(15, lambda: client.get(TOKENS)) == [200] * 15

    def test_the_admins_login_has_the_same_limits(self, client):
        make_user("root@example.com", is_staff=True, is_superuser=True)
        assert statuses(4, lambda: self.ask(email="root@example.com")) == [401] * 4
        form = {"username": "ROOT@example.com", "password": "a wrong password"}

        [fifth, sixth] = [client.post(reverse("admin:login"), form) for _ in range(2)]

        assert "Too many" not in fifth.content.decode()
        assert "Too many attempts" in sixth.content.decode()
        assert client.post(reverse("admin:login"), {**form, "password": PASSWORD}).status_code == 200
        problem_of(self.ask(email="root@example.com", password=PASSWORD), 429, "throttled")

    def test_the_admins_login_is_limited_by_client_too(self, client):
        make_user("root@example.com", is_staff=True, is_superuser=True)
        for number in range(10):
            client.post(reverse("admin:login"), {"username": f"a{number}@example.com", "password": "wrong"})

        answer = client.post(reverse("admin:login"), {"username": "root@example.com", "password": PASSWORD})

        assert "Too many attempts" in answer.content.decode()


@pytest.mark.django_db
class TestUsers:
    def test_a_users_limit_is_that_of_all_tokens_and_of_no_other_user(self, settings):
        settings.THROTTLES["user"] = ((3, 60.0),)
        ada = make_user("ada@example.com", "view_deliverystatus")
        other = client_of(make_user("grace@example.com"))
        paths = ["/api/v1/deliveries", "/api/v1/accounts/me", TOKENS, "/api/v1/accounts/me/deliveries"]

        asked = [client_of(ada).get(path).status_code for path in paths]

        assert asked == [200] * 3 + [429]
        assert other.get("/api/v1/accounts/me").status_code == 200

    def test_who_has_no_token_is_told_so_however_often(self):
        assert statuses(15, lambda: at("192.0.2.1").get("/api/v1/accounts/me")) == [401] * 15


def test_every_endpoint_has_a_limit_and_every_limit_its_figures():
    named = set()
    for pattern in urls.urlpatterns:
        view = pattern.callback.cls
        assert view.throttle_classes, pattern.name
        named |= {throttle.limit for throttle in view.throttle_classes}

    assert named <= {*THROTTLES}


def test_the_figures_are_those_of_the_contract(monkeypatch):
    monkeypatch.setattr(Environments, "ENVIRON", {})

    assert read_throttles(Environments()) == {
        "register_ip": ((10, 3600.0),),
        "verify_ip": ((30, 60.0),),
        "mail_ip": ((30, 60.0),),
        "login_ip": ((10, 60.0),),
        "status_ip": ((120, 60.0),),
        "login_account": ((5, 300.0),),
        "user": ((600, 60.0),),
    }
    assert (timedelta(minutes=1), 5, 5) == (RESEND_AFTER, MAILS_A_DAY, CODE_TRIES)


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("10/h", ((10, 3600.0),)),
        ("1/m,5/d", ((1, 60.0), (5, 86_400.0))),
        ("5/5m, 7/30s", ((5, 300.0), (7, 30.0))),
        ("off", ()),
    ],
)
def test_the_environment_may_say_otherwise(monkeypatch, text, rates):
    monkeypatch.setattr(Environments, "ENVIRON", {"THROTTLE_REGISTER_IP": text})

    assert read_throttles(Environments())["register_ip"] == rates


def test_the_environment_may_switch_all_off(monkeypatch):
    monkeypatch.setattr(Environments, "ENVIRON", {"THROTTLES": "0"})

    assert read_throttles(Environments()) == {}
