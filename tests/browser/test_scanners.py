"""Programs that open every link of every mail before its reader does, and press nothing: they change nothing."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import requests

from mailer.kinds import KINDS
from mailer.models import Message
from tests.browser.conftest import WITH_CHROMIUM, Device, in_database
from tests.conftest import wait_until
from tests.journeys.conftest import PASSWORD
from users.models import EmailChallenge, User

pytestmark = WITH_CHROMIUM

GOOD = "seven grey herons over the lock"
# Every kind of mail that has a template, but for what operators send to themselves.
SCANNED = {name for name, kind in KINDS.items() if kind.rendered and name != "test"}


@dataclass
class Scanner:
    """Opens what mails hold, as programs of mail providers and companies do."""

    people: object
    visitor: object

    def scan(self, kind, address):
        """Wait for a mail of a kind, open all it holds in every way, and see that it has changed nothing; return it."""
        mail = wait_until(lambda: next((each for each in self._inbox(address) if each["kind"] == kind), None))
        before = everything()
        links = {*mail["links"], *re.findall(r"https?://[^\s\"'<>]+", mail["text"] + mail["html"])}
        for link in links:
            for method in ("HEAD", "GET", "HEAD", "GET"):
                assert requests.request(method, link, timeout=20).status_code == 200
            self._look(link)
        assert everything() == before
        return mail

    def _inbox(self, address):
        mails = self.people.provider.inbox(address)
        ids = [mail["metadata"]["message_id"] for mail in mails]
        kinds = in_database(
            lambda: {str(key): kind for key, kind in Message.objects.filter(pk__in=ids).values_list("pk", "kind")}
        )
        return [mail | {"kind": kinds[mail["metadata"]["message_id"]]} for mail in mails]

    def _look(self, link):
        """Open a link in a browser, run what runs, move about, and wait until nothing happens any more."""
        page = self.visitor.page
        page.goto(link, wait_until="networkidle")
        page.mouse.move(200, 200)
        page.mouse.wheel(0, 2000)
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        page.screenshot()
        page.wait_for_load_state("networkidle")
        assert {request.method for request in self.visitor.requests} == {"GET"}


def everything():
    """Return all that a link could change."""
    return in_database(lambda: [*User.objects.order_by("pk").values(), *EmailChallenge.objects.order_by("pk").values()])


@pytest.fixture
def scanner(visitors, people) -> Iterator[Scanner]:
    with visitors.visiting(Device()) as visitor:
        yield Scanner(people, visitor)


def test_opening_every_link_of_every_mail_changes_nothing_and_its_reader_can_still_use_it(scanner, people, visitor):
    seen = set()

    def scan(kind, address):
        seen.add(kind)
        mail = scanner.scan(kind, address)
        links = [link for link in mail["links"] if "token=" in link]
        return "/" + links[0].split("/", 3)[3] if links else ""

    reader = visitor()

    # Registered; the address is verified by its reader alone.
    address = people.register()
    link = scan("verification", address)
    assert people.account(address)["email_verified_at"] is None
    assert reader.open(link).press().state == "verified"
    assert people.account(address)["email_verified_at"] is not None
    scan("welcome", address)

    # Registered once more by a stranger.
    people.age(address)
    people.register(address, "the password of a stranger")
    scan("account_exists", address)
    assert people.login(address).status_code == 201

    # Another address; the account has it by its reader's doing alone.
    new = people.new_address()
    people.ask("/api/v1/accounts/me/email", address, email=new, password=PASSWORD)
    scan("email_change_requested", address)
    link = scan("email_change", new)
    assert people.account(address)["email"] == address
    assert reader.open(link).press().state == "verified"
    assert people.account(new)["email"] == new
    scan("email_changed", address)

    # Another password.
    people.service.call("POST", "/api/v1/accounts/password-reset", json={"email": new})
    link = scan("password_reset", new)
    assert people.login(new).status_code == 201
    assert reader.open(link).type("New password", GOOD).press().state == "done"
    assert people.login(new, GOOD).status_code == 201
    scan("password_changed", new)

    assert seen == SCANNED


def test_opening_a_link_that_is_over_sends_no_new_one(scanner, people):
    address = people.register()
    people.link(address)
    links = [
        people.service.url + people.old_link(address, purpose, expired=True)
        for purpose in (EmailChallenge.Purpose.VERIFY_EMAIL, EmailChallenge.Purpose.RESET_PASSWORD)
    ]
    before = everything()

    for link in links:
        for method in ("HEAD", "GET"):
            assert requests.request(method, link, timeout=20).status_code == 410
        scanner._look(link)

    assert everything() == before
