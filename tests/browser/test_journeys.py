"""The pages behind the links, gone through by people with a real browser, from the mail to what came of it."""

import pytest
import requests

from tests.browser.conftest import WITH_CHROMIUM, Purpose
from tests.journeys.conftest import PASSWORD

pytestmark = WITH_CHROMIUM

GOOD = "seven grey herons over the lock"
DEVICES = {
    "desktop": {},
    "phone": {"width": 320, "height": 568},
    "dark": {"dark": True},
    "german": {"language": "de-DE"},
    "no scripts": {"scripts": False},
    "keyboard": {"keyboard": True},
    "german phone in the dark without scripts": {"width": 320, "dark": True, "language": "de-AT", "scripts": False},
}
EVERY_DEVICE = pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
# Where there is something to type, these two differ most.
TWO = ("keyboard", "german phone in the dark without scripts")
TWO_DEVICES = pytest.mark.parametrize("device", [DEVICES[name] for name in TWO], ids=TWO)


# --- An address to verify ---------------------------------------------------------------------------------


@EVERY_DEVICE
def test_somebody_registers_opens_the_link_and_presses_the_button(people, visitor, device):
    address = people.register()
    link = people.link(address)
    reader = visitor(**device).open(link)
    assert people.account(address)["email_verified_at"] is None

    reader.press()

    german = device.get("language", "").startswith("de")
    assert reader.heading == ("Ihre Adresse ist bestätigt" if german else "Your address is confirmed")
    assert people.account(address)["email_verified_at"] is not None
    reader.open(link)
    assert reader.heading == ("Ihre Adresse war schon bestätigt" if german else "Your address was already confirmed")
    assert reader.page.get_by_role("button").count() == 0


@TWO_DEVICES
def test_a_link_that_has_expired_leads_to_one_that_works(people, visitor, device):
    address = people.register()
    people.link(address)
    reader = visitor(**device).open(people.old_link(address, Purpose.VERIFY_EMAIL, expired=True))
    assert reader.heading in {"This link has expired", "Dieser Link ist abgelaufen"}

    reader.press()

    assert reader.state == "asked"
    reader.open(people.link(address, mails=2)).press()
    assert reader.state == "verified"
    assert people.account(address)["email_verified_at"] is not None


@TWO_DEVICES
def test_a_link_that_is_wrong_leads_to_one_that_works(people, visitor, device):
    address = people.register()
    link = people.link(address)
    people.age(address)
    reader = visitor(**device).open(link[:-4])
    assert reader.heading in {"This link is not valid", "Dieser Link ist ungültig"}

    label = "Ihre E-Mail-Adresse" if device.get("language") else "Your e-mail address"
    reader.type(label, "ada").press()
    assert reader.state == "ask"
    assert reader.page.get_by_role("alert").count() == 1
    reader.type(label, address).press()

    assert reader.state == "asked"
    reader.open(people.link(address, mails=2)).press()
    assert people.account(address)["email_verified_at"] is not None


def test_expired_used_wrong_and_good_are_told_apart(people, visitor):
    address = people.register()
    good = people.link(address)
    expired = people.old_link(address, Purpose.VERIFY_EMAIL, expired=True)
    reader = visitor()

    shown = [reader.open(link).text for link in (good, expired, good[:-4], "/verify-email")]
    reader.open(good).press()
    shown.append(reader.text)
    shown.append(reader.open(good).text)

    assert len(set(shown)) == 5  # a link without a token is as wrong as one that was cut off
    assert shown[2] == shown[3]


def test_the_back_button_leads_to_what_is_so_now(people, visitor):
    address = people.register()
    reader = visitor().open(people.link(address)).press()

    reader.page.go_back()

    assert reader.state == "already_verified"


def test_the_page_logs_nobody_in(people, visitor, service):
    address = people.register()
    reader = visitor().open(people.link(address)).press()

    assert reader.page.request.get(f"{service.url}/api/v1/accounts/me").status == 401


# --- Another address --------------------------------------------------------------------------------------


@TWO_DEVICES
def test_somebody_confirms_a_new_address(people, visitor, device):
    old, new = people.register(), people.new_address()
    people.ask("/api/v1/accounts/me/email", old, email=new, password=PASSWORD)
    link = people.link(new)
    reader = visitor(**device).open(link)
    assert people.account(old)["email"] == old

    reader.press()

    assert reader.heading in {"Your new address is confirmed", "Ihre neue Adresse ist bestätigt"}
    assert people.account(new)["email"] == new
    assert reader.open(link).state == "already_verified"


def test_a_change_that_came_too_late_is_asked_for_again_by_who_is_logged_in(people, visitor):
    address, new = people.register(), people.new_address()
    reader = visitor().open(people.old_link(address, Purpose.CHANGE_EMAIL, expired=True, email=new))

    assert reader.heading == "This link has expired"
    assert "log in and ask for the change again" in reader.text
    assert reader.page.get_by_role("button").count() == 0
    assert reader.open("/change-email?token=nonsense").heading == "This link is not valid"


# --- Another password -------------------------------------------------------------------------------------


@TWO_DEVICES
def test_somebody_chooses_a_new_password(people, visitor, device):
    address = people.register()
    people.service.call("POST", "/api/v1/accounts/password-reset", json={"email": address})
    german = bool(device.get("language"))
    link = people.link(address, "A new password")
    reader = visitor(**device).open(link)
    label = "Neues Passwort" if german else "New password"

    # What is too short does not leave the browser; what is weak is refused, and may be mended.
    asked = len(reader.requests)
    reader.type(label, "too short")
    reader.page.get_by_role("button").click()
    assert len(reader.requests) == asked
    reader.type(label, "password1234").press()
    assert reader.heading == ("Dieses Passwort geht nicht" if german else "This password cannot be taken")
    assert reader.page.get_by_role("alert").inner_text().startswith("Dieses Passwort" if german else "This password")
    assert people.login(address).status_code == 201
    if device.get("scripts", True):
        assert reader.page.evaluate("document.activeElement.id") == "password"
    reader.type(label, GOOD).press()

    assert reader.heading == ("Sie haben ein neues Passwort" if german else "You have a new password")
    assert people.login(address).status_code == 401
    assert people.login(address, GOOD).status_code == 201
    assert reader.open(link).heading in {"This link was used before", "Dieser Link wurde schon benutzt"}


@pytest.mark.parametrize("expired", [True, False], ids=["expired", "used"])
def test_a_link_to_a_password_that_is_over_leads_to_one_that_works(people, visitor, expired):
    address = people.register()
    people.link(address)
    link = people.old_link(address, Purpose.RESET_PASSWORD, expired=expired)
    reader = visitor().open(link)
    if not expired:
        reader.type("New password", GOOD).press()
        people.age(address)
        reader.open(link)

    reader.press("Send me a new link")

    assert reader.state == "asked"
    another = "nine brown owls under the bridge"
    reader.open(people.link(address, "A new password")).type("New password", another).press()
    assert people.login(address, another).status_code == 201


def test_who_has_forgotten_a_password_gets_a_link_by_the_page_alone(people, visitor):
    address = people.register()
    reader = visitor().open("/reset-password/new-link")

    reader.type("Your e-mail address", address.upper()).press()

    assert reader.state == "asked"
    assert reader.open(people.link(address, "A new password")).heading == "Choose a new password"


# --- Too often, and how it is sent ------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en-GB", "de-DE"])
def test_who_presses_too_often_is_told_when_to_come_again_and_nothing_is_lost(people, visitor, language):
    address = people.register()
    link = people.link(address)
    reader = visitor(language=language)
    for _ in range(30):
        requests.post(f"{people.service.url}/verify-email", headers={"X-Forwarded-For": reader.address}, timeout=20)

    reader.open(link).press()

    assert reader.heading in {"Please wait a moment", "Bitte warten Sie kurz"}
    assert people.account(address)["email_verified_at"] is None
    elsewhere = visitor(language=language).open(link).press()
    assert elsewhere.state == "verified"


@pytest.mark.parametrize("path", ["/verify-email", "/change-email", "/reset-password", "/verify-email/new-link"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_nothing_of_a_page_is_kept_passed_on_or_run(service, path, method):
    answer = service.call(method, path)

    assert "no-store" in answer.headers["Cache-Control"]
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert "Set-Cookie" not in answer.headers
    assert len(answer.content) < 15_000
