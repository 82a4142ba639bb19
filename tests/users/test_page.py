"""The page behind the link: GET shows, POST verifies."""

import re
import tempfile
from datetime import timedelta

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from users import challenges, registration
from users.challenges import link_token
from users.models import EmailChallenge, User

pytestmark = pytest.mark.django_db

URL = "/verify-email"
VERIFY = EmailChallenge.Purpose.VERIFY_EMAIL


@pytest.fixture
def token(user) -> str:
    return link_token(challenges.issue(user, VERIFY))


@pytest.fixture
def browser() -> Client:
    """A client that is held to Django's check against forgery, as browsers are."""
    return Client(enforce_csrf_checks=True)


def text_of(response) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", response.content.decode()).split())


def press(browser: Client, token: str):
    """Open the page and send its form."""
    page = browser.get(URL, {"token": token}).content.decode()
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
    return browser.post(URL, fields)


# --- What changes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "head", "options"])
def test_looking_at_the_page_changes_nothing(client, user, token, method):
    before = [*EmailChallenge.objects.values(), *User.objects.values()]

    for _ in range(3):
        assert getattr(client, method)(URL, {"token": token}).status_code == 200

    assert [*EmailChallenge.objects.values(), *User.objects.values()] == before


def test_looking_at_the_page_with_the_token_logs_nobody_in(client, token):
    client.get(URL, {"token": token})

    assert "sessionid" not in client.cookies


def test_pressing_the_button_verifies(browser, user, token):
    response = press(browser, token)

    user.refresh_from_db()
    assert response.status_code == 200
    assert user.email_verified_at is not None
    assert "sessionid" not in browser.cookies


def test_pressing_it_twice_says_it_was_done_before(browser, token):
    press(browser, token)

    response = browser.post(URL, {"token": token})

    assert response.status_code == 200
    assert "already" in text_of(response)


def test_a_browser_that_says_nothing_of_where_it_comes_from_may_press_the_button(browser, user, token):
    response = browser.post(URL, {"token": token}, headers={"Origin": "null"})

    user.refresh_from_db()
    assert response.status_code == 200
    assert user.email_verified_at is not None


def test_a_post_needs_the_token_in_its_body(browser, user, token):
    response = browser.post(f"{URL}?token={token}")

    user.refresh_from_db()
    assert response.status_code == 404
    assert user.email_verified_at is None


def test_a_post_of_somebody_elses_session_verifies_the_tokens_owner_alone(browser, user, token):
    other = User.objects.create_user("eve@example.com")
    browser.force_login(other)

    press(browser, token)

    user.refresh_from_db()
    other.refresh_from_db()
    assert user.email_verified_at is not None
    assert other.email_verified_at is None


@pytest.mark.parametrize("method", ["put", "patch", "delete"])
def test_other_methods_are_refused(client, method):
    assert getattr(client, method)(URL).status_code == 405


# --- What is shown ----------------------------------------------------------------------------------------


def test_the_page_of_a_good_link_has_a_button(client, token):
    page = client.get(URL, {"token": token}).content.decode()

    assert page.count("<button") == 1
    assert f'value="{token}"' in page


@pytest.mark.parametrize("method", ["get", "post"])
def test_the_page_of_an_expired_link(client, user, settings, method):
    settings.EMAIL_CHALLENGE_LIFETIME = timedelta(seconds=-1)
    token = link_token(challenges.issue(user, VERIFY))

    response = getattr(client, method)(URL, {"token": token})

    assert response.status_code == 410
    assert "Confirm my address" not in text_of(response)


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("query", [{}, {"token": ""}, {"token": "nonsense"}, {"token": "\0"}, {"token": "a" * 9000}])
def test_the_page_of_a_link_that_is_none(client, method, query):
    response = getattr(client, method)(URL, query)

    assert response.status_code == 404
    assert "Confirm my address" not in text_of(response)


def test_the_page_of_a_link_used_before(client, token):
    registration.verify(token)

    response = client.get(URL, {"token": token})

    assert response.status_code == 200
    assert "<button" not in response.content.decode()


def test_every_outcome_says_something_else(client, user, token, settings):
    shown = {"good": text_of(client.get(URL, {"token": token}))}
    shown["invalid"] = text_of(client.get(URL))
    shown["verified"] = text_of(client.post(URL, {"token": token}))
    shown["already"] = text_of(client.post(URL, {"token": token}))
    User.objects.update(email_verified_at=None)
    settings.EMAIL_CHALLENGE_LIFETIME = timedelta(seconds=-1)
    shown["expired"] = text_of(client.get(URL, {"token": link_token(challenges.issue(user, VERIFY))}))

    assert len({*shown.values()}) == len(shown)


def test_the_page_echoes_a_token_as_text_alone(client):
    page = client.get(URL, {"token": '"><script>alert(1)</script>'}).content.decode()

    assert "<script" not in page


def test_the_page_holds_no_address(client, token):
    assert "ada@" not in client.get(URL, {"token": token}).content.decode()


# --- How it is sent ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("method", ["get", "post"])
def test_the_page_is_not_kept_not_passed_on_and_runs_nothing(client, token, method, good):
    response = getattr(client, method)(URL, {"token": token if good else "nonsense"})

    directives = dict(
        directive.strip().partition(" ")[::2] for directive in response["Content-Security-Policy"].split(";")
    )
    assert "no-store" in response["Cache-Control"]
    assert response["Referrer-Policy"] == "no-referrer"
    assert directives["default-src"] == directives["frame-ancestors"] == directives["base-uri"] == "'none'"
    assert directives["form-action"] == "'self'"
    assert re.fullmatch(r"'sha256-[\w+/]{43}='", directives["style-src"])
    assert response["X-Frame-Options"] == "DENY"
    assert response["X-Content-Type-Options"] == "nosniff"


def test_the_page_needs_nothing_from_elsewhere(client, token):
    page = client.get(URL, {"token": token}).content.decode()

    assert not re.search(r"<(script|link|img|iframe)\b", page)
    assert not re.search(r"https?://", page)


def test_the_page_is_a_page_for_everybody(client, token):
    page = client.get(URL, {"token": token}).content.decode()

    assert re.search(r'<html lang="en"', page)
    assert "<title>" in page
    assert page.count("<h1") == 1
    assert 'name="viewport"' in page


# --- What is logged ---------------------------------------------------------------------------------------


def test_no_log_line_holds_the_token_or_the_address(browser, token, caplog, capfd):
    browser.get(URL, {"token": token})
    press(browser, token)
    browser.post(URL, {"token": token})
    browser.get(URL, {"token": token})
    browser.get(URL, {"token": token + "spoilt"})

    logged = caplog.text + "".join(capfd.readouterr())
    assert "verify-email" in logged
    assert token not in logged
    assert token.partition(".")[2] not in logged
    assert "ada@" not in logged


def test_an_upload_is_not_written_to_the_disk(client, monkeypatch):
    made = []
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda *_, **__: made.append(1))
    large = SimpleUploadedFile("large", b"x" * (3 * 1024 * 1024))

    response = client.post(URL, {"token": "nonsense", "file": large})

    assert response.status_code == 404
    assert made == []


def test_the_page_of_a_language_that_only_mails_are_written_in_is_in_the_default(client, token, settings):
    settings.LANGUAGES = [*settings.LANGUAGES, ("fr", "French"), ("de-at", "Austrian German")]

    french = client.get(URL, {"token": token}, headers={"Accept-Language": "fr"}).content.decode()
    austrian = client.get(URL, {"token": token}, headers={"Accept-Language": "de-AT"}).content.decode()

    assert '<html lang="en">' in french
    assert '<html lang="de">' in austrian


@pytest.mark.parametrize(
    ("accepted", "language", "button"),
    [
        ("de-AT, en;q=0.5", "de", "Adresse bestätigen"),
        ("fr, de;q=0.5", "de", "Adresse bestätigen"),
        ("fr", "en", "Confirm my address"),
    ],
)
def test_the_page_speaks_the_browsers_language(client, token, accepted, language, button):
    page = client.get(URL, {"token": token}, headers={"Accept-Language": accepted})

    assert f'<html lang="{language}">' in page.content.decode()
    assert button in text_of(page)
