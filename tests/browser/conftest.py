"""The service as it is deployed, and people with a real browser in front of it."""

import itertools
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.core.management import call_command
from django.db import connection
from django.db.models.functions import Now
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page, Request, sync_playwright

from project.valkey import Valkey
from tests.conftest import Simulator, in_threads, wait_until
from tests.journeys.conftest import PASSWORD, Service, deployed, journey_environment, link_in
from users import challenges
from users.models import EmailChallenge, User

CHROMIUM = shutil.which("chromium")
# What Debian's chromium needs: its sandbox refuses to be root's.
ARGUMENTS = ["--no-sandbox"] if os.geteuid() == 0 else []
# Milliseconds for anything a page does; the machine may be busy with other tests.
PATIENCE = 20_000

# Behind one proxy, which says whom each request is from: so each visitor has the limits to themselves.
LIMITS = {
    "THROTTLES": "1",
    "NUM_PROXIES": "1",
    "THROTTLE_REGISTER_IP": "off",
    "THROTTLE_LOGIN_IP": "off",
    "THROTTLE_LOGIN_ACCOUNT": "off",
    "THROTTLE_MAIL_IP": "off",
}

Purpose = EmailChallenge.Purpose
PAGES = {
    Purpose.VERIFY_EMAIL: "verify-email",
    Purpose.CHANGE_EMAIL: "change-email",
    Purpose.RESET_PASSWORD: "reset-password",
}

_numbers = itertools.count(1)


# The mark has pytest-django make the database; its transaction sees nothing of what the service does in others.
WITH_CHROMIUM = [
    pytest.mark.django_db,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


# --- The service ------------------------------------------------------------------------------------------


@pytest.fixture(scope="package")
def deployment(tmp_path_factory, django_db_setup, django_db_blocker) -> Iterator[tuple[Service, Simulator]]:
    """(service, provider), with what they remember, for all tests here: each has addresses of its own."""
    directory = tmp_path_factory.mktemp("browser")
    valkey = Valkey(directory / "valkey", volatile=True)
    with django_db_blocker.unblock(), ExitStack() as ends:
        ends.callback(call_command, "flush", verbosity=0, interactive=False)
        valkey.start()
        ends.callback(valkey.stop)
        url = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{connection.settings_dict['NAME']}")
        environment = journey_environment({**os.environ, "DATABASE_URL": url.geturl()}, valkey) | LIMITS
        service, provider = ends.enter_context(deployed(directory, environment))
        service.web()
        service.relay()
        yield service, provider


@pytest.fixture(scope="package")
def service(deployment) -> Service:
    return deployment[0]


@pytest.fixture(scope="package")
def provider(deployment) -> Simulator:
    return deployment[1]


def in_database(work: Callable[[], Any]) -> Any:
    """Do work of Django's that the service is to see: in a thread of its own, past the test's transaction."""
    return in_threads(1, lambda _: work())[0]


@dataclass
class People:
    """Who registers with the service, and what they get in their mail."""

    service: Service
    provider: Simulator

    def register(self, address: str = "", password: str = PASSWORD, locale: str = "en") -> str:
        """Register a new address, or the one named; return it."""
        address = address or self.new_address()
        body = {"email": address, "password": password, "locale": locale}
        answer = self.service.call("POST", "/api/v1/accounts/register", json=body)
        assert answer.status_code == 202, self.service.text()[-3000:]
        return address

    def new_address(self) -> str:
        return f"delivered+{next(_numbers)}@example.org"

    def link(self, address: str, subject: str = "", *, mails: int = 1) -> str:
        """Wait until so many mails with a link have come, and return the newest one's, as a path."""

        def arrived() -> list[Any]:
            found = [mail for mail in self.provider.inbox(address) if subject in mail["subject"]]
            with_link = [mail for mail in found if any("token=" in link for link in mail["links"])]
            return with_link if len(with_link) >= mails else []

        return link_in(wait_until(arrived)[0])

    def login(self, address: str, password: str = PASSWORD) -> Any:
        body = {"email": address, "password": password}
        return self.service.call("POST", "/api/v1/auth/tokens", json=body)

    def account(self, address: str, password: str = PASSWORD) -> dict[str, Any]:
        """Return the account as its owner sees it."""
        token = self.login(address, password).json()["token"]
        return dict(self.service.call("GET", "/api/v1/accounts/me", token=token).json())

    def ask(self, path: str, address: str, **body: str) -> None:
        """Ask for something with an account's token; the answer is that a mail is on its way."""
        token = self.login(address).json()["token"]
        answer = self.service.call("POST", path, token=token, json=body)
        assert answer.status_code == 202, answer.text

    def old_link(self, address: str, purpose: Purpose, *, expired: bool, email: str = "") -> str:
        """Return the link of a mail that came nine hours ago, so that another may be asked for."""
        return f"/{PAGES[purpose]}?token={in_database(lambda: _old_token(address, purpose, email, expired=expired))}"

    def age(self, address: str) -> None:
        """Let a day pass for what was asked for about an address."""
        mine = EmailChallenge.objects.filter(email=address)
        in_database(lambda: mine.update(created_at=Now() - timedelta(days=1, hours=1)))


def _old_token(address: str, purpose: Purpose, email: str, *, expired: bool) -> str:
    challenge = challenges.issue(User.objects.get(email=address), purpose, email=email, typed=email)
    challenge.created_at -= timedelta(hours=9)
    if expired:
        challenge.expires_at -= timedelta(hours=9)  # the link is signed with it, so it is the one of nine hours ago
    challenge.save(update_fields=["created_at", "expires_at"])
    EmailChallenge.objects.filter(email=challenge.email).update(created_at=challenge.created_at)
    return challenges.link_token(challenge)


@pytest.fixture(scope="package")
def people(service, provider) -> People:
    return People(service, provider)


# --- The browser ------------------------------------------------------------------------------------------


@pytest.fixture(scope="package")
def chromium(deployment) -> Iterator[Browser]:
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        # The driver's event loop is this thread's for all that time: so Django takes all of it for one.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()
        connection.close()  # while that loop runs this thread has another one than before and after


@dataclass(frozen=True)
class Device:
    """How somebody looks at a page."""

    width: int = 1280
    height: int = 800
    dark: bool = False
    language: str = "en-GB"
    scripts: bool = True
    keyboard: bool = False

    def context(self, browser: Browser) -> BrowserContext:
        return browser.new_context(
            viewport={"width": self.width, "height": self.height},
            color_scheme="dark" if self.dark else "light",
            locale=self.language,
            java_script_enabled=self.scripts,
            has_touch=self.width < 500,
        )


@dataclass
class Visitor:
    """Somebody at a browser, and all that it did and complained of."""

    page: Page
    device: Device
    origin: str
    address: str = ""
    requests: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE)
        self.page.on("request", self._asked)
        self.page.on("pageerror", self._failed)
        self.page.on("console", self._said)

    def arrive(self) -> None:
        """Be somebody who has never been here, from an address of their own."""
        self.address = f"192.0.2.{next(_numbers) % 250 + 1}"
        self.page.context.set_extra_http_headers({"X-Forwarded-For": self.address})
        self.requests.clear()
        self.complaints.clear()

    def _asked(self, request: Request) -> None:
        self.requests.append(request)

    def _failed(self, error: Error) -> None:
        self.complaints.append(str(error))

    def _said(self, message: ConsoleMessage) -> None:
        # What it advises is no complaint: that a form for a password should tell whose it is. The page does not.
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def open(self, path: str) -> "Visitor":
        self.page.goto(self.origin + path)
        return self

    def press(self, name: str | re.Pattern[str] = "") -> "Visitor":
        """Press the one button; by the keyboard alone where the device has nothing else."""
        button = self.page.get_by_role("button", name=name or None)
        with self.page.expect_navigation():
            if self.device.keyboard:
                self._go_to("BUTTON")
                self.page.keyboard.press("Enter")
            else:
                button.click()
        return self

    def type(self, label: str, text: str) -> "Visitor":
        """Type into the field of a label."""
        if self.device.keyboard:
            self._go_to("INPUT")
            self.page.keyboard.press("Control+A")
            self.page.keyboard.type(text)
        else:
            self.page.get_by_label(label).fill(text)
        return self

    def _go_to(self, tag: str) -> None:
        """Press Tab until an element of this kind has the focus, and see that it shows."""
        for _ in range(5):
            if self.page.evaluate("document.activeElement.tagName") == tag:
                break
            self.page.keyboard.press("Tab")
        focused = "getComputedStyle(document.activeElement)"
        assert self.page.evaluate("document.activeElement.tagName") == tag
        assert self.page.evaluate(f"{focused}.outlineStyle + {focused}.outlineWidth") == "solid3px"

    @property
    def heading(self) -> str:
        heading = self.page.get_by_role("heading", level=1).inner_text()
        assert self.page.title().startswith(f"{heading} – ")  # who cannot see the page is told by its title
        return heading

    @property
    def text(self) -> str:
        return self.page.locator("body").inner_text()

    @property
    def state(self) -> str:
        return str(self.page.locator("main").get_attribute("data-state"))

    def check(self) -> None:
        """See that the browser had nothing to complain of, asked nobody else, and keeps nothing."""
        # That a page's status is not 200 is no fault of the page.
        assert [each for each in self.complaints if not re.search(r"responded with a status of 4\d\d", each)] == []
        assert {each.resource_type for each in self.requests} <= {"document"}
        assert {each.url.startswith(f"{self.origin}/") for each in self.requests} <= {True}
        assert [each.headers.get("referer") for each in self.requests if each.headers.get("referer")] == []
        assert self.page.context.cookies() == []


class Visitors:
    """Visitors by their device. Since pages leave nothing behind, which is checked, one may be the next one, too."""

    def __init__(self, browser: Browser, origin: str) -> None:
        self._browser = browser
        self._origin = origin
        self._idle: dict[Device, list[Visitor]] = defaultdict(list)

    @contextmanager
    def visiting(self, device: Device) -> Iterator[Visitor]:
        """Have somebody come; they are checked when they leave."""
        idle = self._idle[device]
        someone = idle.pop() if idle else Visitor(device.context(self._browser).new_page(), device, self._origin)
        someone.arrive()
        yield someone
        someone.check()
        idle.append(someone)


@pytest.fixture(scope="package")
def visitors(service, chromium) -> Visitors:
    return Visitors(chromium, service.url)


@pytest.fixture
def visitor(visitors) -> Iterator[Callable[..., Visitor]]:
    """Make visitors, by what is special about their device."""
    with ExitStack() as ends:
        yield lambda **special: ends.enter_context(visitors.visiting(Device(**special)))


def violations(page: Page) -> list[str]:
    """Return what axe-core finds wrong with a page as it is shown now."""
    page.evaluate(Axe().axe_script)
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    return [f"{each['id']}: {node['html']}" for each in found for node in each["nodes"]]
