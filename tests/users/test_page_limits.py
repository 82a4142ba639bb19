"""How often the buttons of the pages may be pressed: by client, together with the API, on the real Valkey."""

import pytest
from django.test import Client
from django.utils.crypto import get_random_string

from project.accounts import THROTTLES, read_throttles
from project.environment import Environment
from tests.users.test_page import text_of
from users import challenges, limits
from users.challenges import link_token
from users.models import EmailChallenge, User
from users.outages import Outage

pytestmark = pytest.mark.django_db

Purpose = EmailChallenge.Purpose
LINKS = {
    Purpose.VERIFY_EMAIL: "/verify-email",
    Purpose.CHANGE_EMAIL: "/change-email",
    Purpose.RESET_PASSWORD: "/reset-password",
}
NEW_LINKS = ["/verify-email/new-link", "/reset-password/new-link"]


class Environments(Environment):
    """An environment that says nothing."""

    ENVIRON = {}


@pytest.fixture(autouse=True)
def limited(settings, monkeypatch):
    """The limits as they are deployed, uncharged."""
    settings.THROTTLES = read_throttles(Environments())
    monkeypatch.setattr(limits, "PREFIX", f"test:{get_random_string(12)}")
    # A machine that stops for a moment is no outage.
    monkeypatch.setattr(limits, "TIMEOUT", 5.0)
    limits._client.cache_clear()
    monkeypatch.setattr(limits, "_outage", Outage("limits_not_held", "limits_held_again", limits.DOWN))
    yield
    limits._client.cache_clear()


def at(address, language="en"):
    return Client(REMOTE_ADDR=address, headers={"Accept-Language": language})


def exhaust(client, url, data=None):
    """Press until it is once too often."""
    answers = [client.post(url, data or {}) for _ in range(31)]
    assert [each.status_code for each in answers[:30]].count(429) == 0
    return answers[30]


@pytest.mark.parametrize("url", [*LINKS.values(), *NEW_LINKS])
def test_thirty_a_minute_from_one_address_and_then_a_page_that_says_how_long(url):
    refused = exhaust(at("192.0.2.1"), url)

    seconds = int(refused["Retry-After"])
    assert refused.status_code == 429
    assert 1 <= seconds <= 60
    assert f"try again in {seconds} second" in text_of(refused)
    assert "no-store" in refused["Cache-Control"]
    assert refused["Referrer-Policy"] == "no-referrer"
    assert refused["Content-Security-Policy"].startswith("default-src 'none'; ")
    german = at("192.0.2.1", "de").post(url)
    assert (german.status_code, f"in {german['Retry-After']} Sekunde" in text_of(german)) == (429, True)
    assert at("192.0.2.2").post(url).status_code != 429
    assert at("192.0.2.1").get(url).status_code != 429


@pytest.mark.parametrize("purpose", LINKS)
def test_what_comes_too_often_changes_nothing_and_works_later(user, purpose, monkeypatch):
    client = at("192.0.2.1")
    exhaust(client, LINKS[purpose])
    token = link_token(
        challenges.issue(
            user, purpose, email="b@example.com" if purpose == Purpose.CHANGE_EMAIL else "", typed="b@example.com"
        )
    )
    before = [*EmailChallenge.objects.values(), *User.objects.values()]

    refused = client.post(LINKS[purpose], {"token": token, "password": "staple incorrect donkey"})

    assert refused.status_code == 429
    assert f'value="{token}"' in refused.content.decode()
    assert "staple" not in refused.content.decode()
    assert [*EmailChallenge.objects.values(), *User.objects.values()] == before
    monkeypatch.setattr(limits, "PREFIX", f"test:{get_random_string(12)}")  # as after a minute
    assert client.post(LINKS[purpose], {"token": token, "password": "staple incorrect donkey"}).status_code == 200


def test_the_button_to_press_again_of_a_new_link_has_what_was_typed():
    refused = exhaust(at("192.0.2.1"), NEW_LINKS[0], {"email": "grüße@example.com"})

    assert 'value="grüße@example.com"' in refused.content.decode()


def test_pages_and_api_share_a_limit():
    client = at("192.0.2.1")
    exhaust(client, "/verify-email")

    assert client.post("/api/v1/accounts/verify-email", {"token": "t"}, "application/json").status_code == 429
    assert client.post("/reset-password", {"token": "t"}).status_code == 429
    assert client.post("/verify-email/new-link").status_code == 400  # of another limit


@pytest.mark.parametrize(
    ("proxies", "forwarded", "other"),
    [(1, "{}, 198.51.100.7", "198.51.100.8"), (2, "{}, 198.51.100.7, 10.0.0.1", "198.51.100.8, 10.0.0.1")],
)
def test_behind_proxies_a_client_is_whom_they_name(settings, proxies, forwarded, other):
    settings.NUM_PROXIES = proxies

    def press(header):
        return Client(REMOTE_ADDR="10.0.0.9", headers={"X-Forwarded-For": header}).post("/verify-email").status_code

    assert [press(forwarded.format(f"192.0.2.{n}")) for n in range(31)] == [404] * 30 + [429]
    assert press(other) == 404


def test_without_redis_the_button_works(settings, user):
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    client, token = at("192.0.2.1"), link_token(challenges.issue(user, Purpose.VERIFY_EMAIL))

    assert [client.post("/verify-email").status_code for _ in range(31)] == [404] * 31
    assert client.post("/verify-email", {"token": token}).status_code == 200


def test_a_longer_limit_is_said_in_minutes(settings):
    settings.THROTTLES = {**settings.THROTTLES, "verify_ip": ((1, 7200.0),)}
    client = at("192.0.2.1")
    client.post("/verify-email")

    assert "in 120 minutes" in text_of(client.post("/verify-email"))


def test_the_limits_of_the_pages_are_there():
    assert {"verify_ip", "mail_ip"} <= THROTTLES.keys()
