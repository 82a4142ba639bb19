"""The operators' pages about people."""

from html.parser import HTMLParser

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.models import Group
from django.db.models.functions import Now
from django.urls import reverse

from mailer.models import Message
from users.models import User

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
NEW = {"usable_password": "true", "password1": PASSWORD, "password2": PASSWORD}


@pytest.fixture
def user() -> User:
    return User.objects.create_user("Ada@example.com", PASSWORD)


class Form(HTMLParser):
    """What a browser would send of a page's form as it is shown."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.values: dict[str, list[str]] = {}
        self.select = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        of = dict(attrs)
        match tag:
            case "select":
                self.select = of["name"]
            case "option" if "selected" in of:
                self.values.setdefault(self.select, []).append(of["value"])
            case "input" if of.get("type") == "checkbox":
                if "checked" in of:
                    self.values[of["name"]] = ["on"]
            case "input" if "name" in of and of["type"] != "submit":
                self.values.setdefault(of["name"], []).append(of.get("value", ""))


def add(client, email: str):
    return client.post(reverse("admin:users_user_add"), {"email": email, **NEW})


def test_users_are_listed_and_found(admin_client, user):
    other = User.objects.create_user("bob@example.com")

    listed = admin_client.get(reverse("admin:users_user_changelist"), {"q": "ada@example"}).content.decode()

    assert user.email in listed
    assert other.email not in listed


def test_a_user_is_shown(admin_client, user):
    response = admin_client.get(reverse("admin:users_user_change", args=[user.pk]))

    assert response.status_code == 200
    assert "Ada@example.com" in response.content.decode()


def test_the_page_to_add_a_user_opens(admin_client):
    assert admin_client.get(reverse("admin:users_user_add")).status_code == 200


def test_a_user_is_added_and_gets_a_verification(admin_client):
    assert add(admin_client, "Ada@example.com").status_code == 302

    user = authenticate(username="ada@example.com", password=PASSWORD)
    assert user is not None
    assert Message.objects.get(user=user).kind == "verification"


@pytest.mark.parametrize("email", ["ada@example.com", "ADA@example.com", "Ada@example.com"])
def test_a_taken_address_is_refused_with_a_word(admin_client, user, email):
    response = add(admin_client, email)

    assert response.status_code == 200
    assert response.context["adminform"].form.errors.keys() == {"email"}


def test_an_address_that_is_none_is_refused_with_a_word(admin_client):
    response = add(admin_client, "ada@exa_mple.com")

    assert response.status_code == 200
    assert response.context["adminform"].form.errors.keys() == {"email"}


def test_a_user_is_changed(admin_client, user):
    page = reverse("admin:users_user_change", args=[user.pk])

    response = admin_client.post(page, {"email": "lovelace@example.com", "locale": "en", "is_active": "on"})

    assert response.status_code == 302
    user.refresh_from_db()
    assert user.email_canonical == "lovelace@example.com"


def test_what_changed_since_the_page_was_opened_stays(admin_client, user):
    page = reverse("admin:users_user_change", args=[user.pk])
    shown = Form(admin_client.get(page).content.decode()).values
    team = Group.objects.create(name="team")
    User.objects.filter(pk=user.pk).update(is_active=False, email_verified_at=Now(), email="lovelace@example.com")
    user.groups.add(team)

    assert admin_client.post(page, shown | {"locale": "de"}).status_code == 302

    user.refresh_from_db()
    assert user.locale == "de"
    assert (user.is_active, user.email, [*user.groups.all()]) == (False, "lovelace@example.com", [team])
    assert user.email_verified_at


def test_who_is_verified_by_hand_is_welcomed(admin_client, user):
    page = reverse("admin:users_user_change", args=[user.pk])
    shown = Form(admin_client.get(page).content.decode()).values

    admin_client.post(page, shown | {"email_verified_at_0": "2026-01-02", "email_verified_at_1": "03:04:05"})

    assert Message.objects.filter(user=user, kind="welcome").exists()


@pytest.mark.parametrize(("locale", "kept"), [("de", "de"), ("tlh", "en")])
def test_a_users_language_is_one_that_mails_are_written_in(admin_client, user, locale, kept):
    page = reverse("admin:users_user_change", args=[user.pk])

    admin_client.post(page, {"email": user.email, "locale": locale, "is_active": "on"})

    user.refresh_from_db()
    assert user.locale == kept


def test_the_page_to_set_a_password_opens(admin_client, user):
    assert admin_client.get(reverse("admin:auth_user_password_change", args=[user.pk])).status_code == 200


def test_strangers_are_sent_to_the_login(client):
    response = client.get(reverse("admin:users_user_changelist"))

    assert response.status_code == 302
    assert "/admin/login/" in response["Location"]


def test_staff_log_in_with_any_spelling(client):
    User.objects.create_superuser("Root@example.com", PASSWORD)

    response = client.post("/admin/login/", {"username": "ROOT@example.com", "password": PASSWORD, "next": "/admin/"})

    assert response.status_code == 302
    assert response["Location"] == "/admin/"
