"""The pages that send a new link: the same answer whoever has the address, and the mail goes to its owner alone."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now
from django.test import Client

from mailer.models import Message
from tests.users.test_page import text_of
from users import challenges, credentials, registration
from users.challenges import link_token
from users.models import EmailChallenge, User

pytestmark = pytest.mark.django_db

Purpose = EmailChallenge.Purpose
PAGES = {Purpose.VERIFY_EMAIL: "/verify-email", Purpose.RESET_PASSWORD: "/reset-password"}
KINDS = {Purpose.VERIFY_EMAIL: "verification", Purpose.RESET_PASSWORD: "password_reset"}
EVERY = pytest.mark.parametrize("purpose", PAGES)
LONG_AGO = timedelta(hours=9)


@pytest.fixture
def browser():
    """A client that is held to Django's check against forgery, as browsers are."""
    return Client(enforce_csrf_checks=True, headers={"Origin": "null"})


def age(*which):
    """Make challenges older than any limit on how often may be asked; which they are does not change a signature."""
    EmailChallenge.objects.filter(pk__in=[each.pk for each in which]).update(created_at=Now() - LONG_AGO * 3)


@pytest.fixture
def expired(user, settings):
    """A link of each purpose whose time is over."""
    age(*EmailChallenge.objects.all())
    settings.EMAIL_CHALLENGE_LIFETIME, lifetime = timedelta(seconds=-1), settings.EMAIL_CHALLENGE_LIFETIME
    made = {purpose: challenges.issue(user, purpose) for purpose in PAGES}
    settings.EMAIL_CHALLENGE_LIFETIME = lifetime
    age(*made.values())
    return made


def mails(kind, to):
    return Message.objects.filter(kind=kind, deliveries__recipient=to).exclude(state=Message.State.CANCELLED)


def told(response):
    """All that an answer tells, but for what is another's each time: the id of its request, and the time."""
    headers = {name: value for name, value in response.headers.items() if name not in {"X-Request-ID", "Expires"}}
    return response.status_code, headers, text_of(response)


def ask(browser, purpose, **typed):
    return browser.post(f"{PAGES[purpose]}/new-link", typed)


@EVERY
def test_a_link_that_has_expired_leads_to_a_new_one_by_one_press(browser, user, expired, purpose):
    token = link_token(expired[purpose])
    assert f'action="{PAGES[purpose]}/new-link"' in browser.get(PAGES[purpose], {"token": token}).content.decode()
    before = mails(KINDS[purpose], user.email).count()

    response = ask(browser, purpose, token=token)

    newest = EmailChallenge.objects.filter(purpose=purpose).latest("created_at")
    assert response.status_code == 202
    assert mails(KINDS[purpose], user.email).count() == before + 1
    assert challenges.look_up(link_token(newest), purpose) == (newest, None)
    assert not browser.cookies


def test_a_link_that_was_used_leads_to_a_new_one(browser, user):
    challenge = challenges.issue(user, Purpose.RESET_PASSWORD)
    credentials.reset_password(link_token(challenge), "a new phrase for the door")
    age(*EmailChallenge.objects.all())

    ask(browser, Purpose.RESET_PASSWORD, token=link_token(challenge))

    assert mails("password_reset", user.email).count() == 1


def test_a_new_link_is_for_the_registration_that_the_old_one_belongs_to(browser, settings):
    mine, theirs = "my own long password", "somebody else's password"
    first = registration.register("ada@example.com", mine, "en")
    age(*EmailChallenge.objects.all())
    EmailChallenge.objects.update(expires_at=Now() - timedelta(hours=1))
    registration.register("ada@example.com", theirs, "en")
    age(*EmailChallenge.objects.all())

    ask(browser, Purpose.VERIFY_EMAIL, token=link_token(EmailChallenge.objects.get(pk=first)))

    newest = EmailChallenge.objects.latest("created_at")
    assert newest.renews_id == first
    registration.verify(link_token(newest))
    assert User.objects.get().check_password(mine)


@EVERY
@pytest.mark.parametrize("address", ["ada@example.com", " Ada@EXAMPLE.com ", "nobody@example.com"])
def test_an_address_gets_the_same_answer_whoever_has_it(browser, user, purpose, address):
    age(*EmailChallenge.objects.all())
    other = told(ask(browser, purpose, email="someone.else@example.com"))
    before = mails(KINDS[purpose], user.email).count()

    response = ask(browser, purpose, email=address)

    assert response.status_code == 202
    assert told(response) == other
    assert mails(KINDS[purpose], user.email).count() == before + ("ada" in address.lower())


@EVERY
def test_what_is_asked_for_again_at_once_gets_the_same_answer_and_no_mail(browser, user, purpose):
    age(*EmailChallenge.objects.all())
    first = ask(browser, purpose, email=user.email)
    sent = mails(KINDS[purpose], user.email).count()

    again = ask(browser, purpose, email=user.email)

    assert told(again) == told(first)
    assert mails(KINDS[purpose], user.email).count() == sent


@EVERY
@pytest.mark.parametrize(
    "typed",
    [
        "",
        "ada",
        "ada@",
        "ä" * 300 + "@example.com",
        "a@b.example\r\nBcc: x@y.example",
        "a\0@example.com",
        "7@service.invalid",
    ],
)
def test_what_is_no_address_is_asked_for_again(browser, purpose, typed):
    response = ask(browser, purpose, email=typed)

    assert response.status_code == 400
    assert 'role="alert"' in response.content.decode()
    assert not EmailChallenge.objects.exists()


@EVERY
def test_what_was_typed_is_shown_as_text_alone(browser, purpose):
    page = ask(browser, purpose, email='"><script>alert(1)</script>').content.decode()

    assert "<script" not in page
    assert "&lt;script&gt;" in page


@EVERY
@pytest.mark.parametrize("method", ["get", "head", "options"])
def test_looking_changes_nothing(client, user, expired, purpose, method):
    before = [*EmailChallenge.objects.values(), *Message.objects.values()]

    query = {"token": link_token(expired[purpose]), "email": user.email}
    assert getattr(client, method)(f"{PAGES[purpose]}/new-link", query).status_code == 200

    assert [*EmailChallenge.objects.values(), *Message.objects.values()] == before


@EVERY
def test_a_token_that_is_not_over_sends_nothing_and_the_address_is_asked_for(browser, user, purpose):
    age(*EmailChallenge.objects.all())
    good, other = challenges.issue(user, purpose), challenges.issue(user, Purpose.CHANGE_EMAIL, email="b@example.com")
    age(good, other)
    before = Message.objects.count()

    for token in (link_token(good), link_token(other), "nonsense"):
        response = ask(browser, purpose, token=token)
        assert response.status_code == 200
        assert 'name="email"' in response.content.decode()

    assert Message.objects.count() == before


def test_a_change_of_the_address_is_asked_for_where_somebody_is_logged_in(client, user, settings):
    settings.EMAIL_CHALLENGE_LIFETIME = timedelta(seconds=-1)
    token = link_token(challenges.issue(user, Purpose.CHANGE_EMAIL, email="b@example.com", typed="b@example.com"))

    response = client.get("/change-email", {"token": token})

    assert response.status_code == 410
    assert "<form" not in response.content.decode()
    assert client.get("/change-email/new-link").status_code == 404
    assert "log in and ask for the change again" in text_of(response)


@EVERY
def test_the_page_is_not_kept_not_passed_on_and_runs_nothing(client, purpose):
    for response in (client.get(f"{PAGES[purpose]}/new-link"), client.post(f"{PAGES[purpose]}/new-link")):
        assert "no-store" in response["Cache-Control"]
        assert response["Referrer-Policy"] == "no-referrer"
        assert response["Content-Security-Policy"].startswith("default-src 'none'; ")
