"""The pages to confirm a new address and to choose a new password: GET shows, POST does it."""

import re
from datetime import timedelta

import pytest
from django.test import Client

from tests.users.test_page import text_of
from users import challenges
from users.challenges import link_token
from users.models import EmailChallenge, User

pytestmark = pytest.mark.django_db

Purpose = EmailChallenge.Purpose
PASSWORD = "staple incorrect donkey"
URLS = {Purpose.CHANGE_EMAIL: "/change-email", Purpose.RESET_PASSWORD: "/reset-password"}
EVERY = pytest.mark.parametrize("purpose", URLS)


def link(user: User, purpose: Purpose) -> str:
    email = "lovelace@example.net" if purpose is Purpose.CHANGE_EMAIL else ""
    return link_token(challenges.issue(user, purpose, email=email, typed=email))


@pytest.fixture
def browser() -> Client:
    """A client that is held to Django's check against forgery, as browsers are."""
    return Client(enforce_csrf_checks=True)


def press(browser: Client, purpose: Purpose, token: str, **typed: str):
    """Open the page, fill in what it asks for, and send its form."""
    page = browser.get(URLS[purpose], {"token": token}).content.decode()
    (action,) = re.findall(r'<form method="post" action="([^"]+)"', page)
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
    return browser.post(action, {**fields, **typed}, headers={"Origin": "null"})


@EVERY
@pytest.mark.parametrize("method", ["get", "head", "options"])
def test_looking_at_the_page_changes_nothing(client, user, purpose, method):
    token = link(user, purpose)
    before = [*EmailChallenge.objects.values(), *User.objects.values()]

    for _ in range(3):
        assert getattr(client, method)(URLS[purpose], {"token": token, "password": PASSWORD}).status_code == 200

    assert [*EmailChallenge.objects.values(), *User.objects.values()] == before
    assert not client.cookies


def test_pressing_the_button_changes_the_address(browser, user):
    response = press(browser, Purpose.CHANGE_EMAIL, link(user, Purpose.CHANGE_EMAIL))

    user.refresh_from_db()
    assert (response.status_code, user.email) == (200, "lovelace@example.net")
    assert not browser.cookies


def test_typing_a_password_sets_it(browser, user):
    response = press(browser, Purpose.RESET_PASSWORD, link(user, Purpose.RESET_PASSWORD), password=PASSWORD)

    user.refresh_from_db()
    assert response.status_code == 200
    assert user.check_password(PASSWORD)
    assert not browser.cookies


def test_a_password_that_is_refused_may_be_typed_again(browser, user):
    token = link(user, Purpose.RESET_PASSWORD)

    refused = press(browser, Purpose.RESET_PASSWORD, token, password="password1234")

    page = refused.content.decode()
    assert refused.status_code == 400
    assert page.count('role="alert"') == 1
    assert f'value="{token}"' in page
    assert "password1234" not in page
    assert press(browser, Purpose.RESET_PASSWORD, token, password=PASSWORD).status_code == 200


def test_scripts_that_press_what_they_find_set_no_password(browser, user):
    response = press(browser, Purpose.RESET_PASSWORD, link(user, Purpose.RESET_PASSWORD), password="")

    assert response.status_code == 400
    assert not EmailChallenge.objects.filter(purpose=Purpose.RESET_PASSWORD).get().used_at


@EVERY
def test_a_link_used_before(browser, user, purpose):
    token = link(user, purpose)
    press(browser, purpose, token, password=PASSWORD)

    for response in (
        browser.get(URLS[purpose], {"token": token}),
        browser.post(URLS[purpose], {"token": token, "password": PASSWORD}),
    ):
        assert response.status_code == (200 if purpose is Purpose.CHANGE_EMAIL else 410)
        assert f'action="{URLS[purpose]}"' not in response.content.decode()


@EVERY
@pytest.mark.parametrize("method", ["get", "post"])
def test_a_link_that_has_expired(client, user, settings, purpose, method):
    settings.EMAIL_CHALLENGE_LIFETIME = timedelta(seconds=-1)

    response = getattr(client, method)(URLS[purpose], {"token": link(user, purpose), "password": PASSWORD})

    assert response.status_code == 410
    assert f'action="{URLS[purpose]}"' not in response.content.decode()


@EVERY
@pytest.mark.parametrize("method", ["get", "post"])
def test_a_link_of_another_purpose(client, user, purpose, method):
    token = link(user, Purpose.VERIFY_EMAIL)

    assert getattr(client, method)(URLS[purpose], {"token": token, "password": PASSWORD}).status_code == 404


@EVERY
@pytest.mark.parametrize("method", ["get", "post"])
def test_the_page_is_not_kept_not_passed_on_and_runs_nothing(client, user, purpose, method):
    response = getattr(client, method)(URLS[purpose], {"token": link(user, purpose)})

    assert "no-store" in response["Cache-Control"]
    assert response["Referrer-Policy"] == "no-referrer"
    assert response["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert not re.search(r"<(script|link|img|iframe)\b|https?://", response.content.decode())


def test_the_field_for_the_password_has_a_label_and_helps_password_managers(client, user):
    page = client.get("/reset-password", {"token": link(user, Purpose.RESET_PASSWORD)}).content.decode()

    assert '<label for="password">' in page
    assert 'id="password" name="password" autocomplete="new-password"' in page


@EVERY
def test_the_page_speaks_the_browsers_language(client, user, purpose):
    page = client.get(URLS[purpose], {"token": link(user, purpose)}, headers={"Accept-Language": "de-AT"})

    assert '<html lang="de">' in page.content.decode()
    assert "Neue" in text_of(page)
