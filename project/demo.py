"""The main job, played from outside over HTTP: register, verify, receive the webhooks, ask for the statuses.

Two people register: one at an address that the simulator delivers to, one at an address that bounces. Each
line on the screen is something that was seen, not something that is assumed.
"""

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from html.parser import HTMLParser
from typing import Any, TypeVar
from urllib.parse import urljoin

import requests
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.status import Status
from rich.table import Table
from rich.text import Text

WAIT_SECONDS = 40  # for what happens by itself
LOOK_SECONDS = 0.1  # between two looks at it
REQUEST_SECONDS = 10
WIDTH = 88

COLOURS = {"delivered": "green", "bounced": "red", "changed": "bold"}

Json = Any  # as it came: what is not there fails loudly
Found = TypeVar("Found")


class Failed(Exception):
    """The demo did not show what it promises. The text says what was seen instead."""


class Screen:
    """Lines for a person: on a terminal with a spinner while something is awaited, plain in a log."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal or self.console.width > WIDTH:
            self.console = Console(highlight=False, width=WIDTH)
        self._spinner: Status | None = None

    def progress(self, what: str) -> None:
        """Say what is going on."""
        if not self.console.is_terminal:
            self.console.print(f"  … {what}")
        elif self._spinner is None:
            self._spinner = self.console.status(what)
            self._spinner.start()
        else:
            self._spinner.update(what)

    def seen(self, what: str) -> None:
        """Say what happened."""
        self.console.print(Text.assemble("  ", ("✓", "green"), f" {what}"))

    def close(self) -> None:
        """Take the spinner away."""
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None


def local_session() -> requests.Session:
    """Make a session for addresses on this machine: a proxy that the environment names is not for them."""
    session = requests.Session()
    session.trust_env = False
    return session


@dataclass(slots=True)
class Person:
    """Somebody who registers. The tag in the address tells the simulator what to do with a mail to it."""

    name: str
    email: str
    password: str = field(default_factory=secrets.token_urlsafe)


class Form(HTMLParser):
    """The first form of a page that has a button: where it goes and what it carries. `action` is None without one."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self._has_button = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what belongs to the form."""
        given = {name: value or "" for name, value in attrs}
        if self._has_button:
            return
        if tag == "form":
            self.action, self.fields = given.get("action", ""), {}
        elif tag == "input" and "name" in given:
            self.fields[given["name"]] = given.get("value", "")
        elif tag == "button":
            self._has_button = True

    def handle_endtag(self, tag: str) -> None:
        """Forget a form that has no button."""
        if tag == "form" and not self._has_button:
            self.action = None


class Client:
    """The service's REST face and page, and the simulator's inbox, as used from elsewhere."""

    def __init__(self, web_url: str, simulator_url: str) -> None:
        self.web_url = web_url
        self.simulator_url = simulator_url
        self._http = local_session()

    def api(self, method: str, path: str, expected: int, token: str = "", **options: Any) -> Json:
        """Call the REST face and return its JSON. Raises `Failed` at another status than the expected."""
        headers = {"Authorization": f"Token {token}"} if token else {}
        return self._ask(method, f"{self.web_url}/api/v1/{path}", expected, headers=headers, **options).json()

    def mails(self, address: str) -> list[Json]:
        """Ask the simulator for the mails it took for an address, newest first."""
        answer = self._ask("GET", f"{self.simulator_url}/inbox.json", 200, params={"to": address})
        return list(answer.json()["mails"])

    def token(self, email: str, password: str) -> str:
        """Log in."""
        login = {"email": email, "password": password}
        return str(self.api("POST", "auth/tokens", 201, json=login)["token"])

    def open(self, method: str, link: str) -> str:
        """Open the page behind a link and return its HTML."""
        return self._ask(method, link, 200).text

    def press(self, link: str) -> None:
        """Open the page behind a link, as a browser would, and press its button."""
        form = Form(self.open("GET", link))
        if form.action is None:
            raise Failed("the page behind the link has no form with a button")
        self._ask("POST", urljoin(link, form.action), 200, data=form.fields, headers={"Origin": self.web_url})

    def _ask(self, method: str, url: str, expected: int, **options: Any) -> requests.Response:
        try:
            answer = self._http.request(method, url, timeout=REQUEST_SECONDS, **options)
        except requests.RequestException as error:
            raise Failed(f"{method} {url} got no answer: {error}") from error
        if answer.status_code != expected:
            shown = " ".join(answer.text.split())[:300]
            raise Failed(f"{method} {url} answered {answer.status_code}, not {expected}: {shown}")
        return answer


@dataclass(slots=True)
class Outcome:
    """A delivery, as the service tells it, and the status it should have."""

    person: Person
    kind: str
    expected: str
    delivery: Json = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        return bool(self.delivery.get("status") == self.expected)


@dataclass(slots=True)
class Demo:
    """One play. `staff` is (email, password); `wait(seconds)` raises when a part of the stack is gone."""

    client: Client
    screen: Screen
    staff: tuple[str, str]
    wait: Callable[[float], None]

    def play(self) -> bool:
        """Play to the end; tell whether every status is the expected one. Raises `Failed` with the reason."""
        # New people each time: a database that DATABASE_URL names may know those of the last play.
        tag = secrets.token_hex(2)
        ada = Person("Ada", f"ada.{tag}+delivered@example.org")
        bob = Person("Bob", f"bob.{tag}+bounce@example.net")
        for person in (ada, bob):
            self.register(person)
        links = [self.link_for(person) for person in (ada, bob)]
        self.scan(ada, links[0])
        self.verify(ada, links[0])
        outcomes = [
            Outcome(ada, "verification", "delivered"),
            Outcome(ada, "welcome", "delivered"),
            Outcome(bob, "verification", "bounced"),
        ]
        for outcome in outcomes:
            self.follow(outcome)
        self.screen.close()
        self.screen.console.print()
        for outcome in outcomes:
            self.screen.console.print(Padding(timeline(outcome), (0, 2)))
        for outcome in outcomes:
            self.screen.console.print(verdict(outcome))
        return all(outcome.is_right for outcome in outcomes)

    def register(self, person: Person) -> None:
        """Register, which answers before any mail has left."""
        body = {"email": person.email, "password": person.password}
        self.client.api("POST", "accounts/register", 202, json=body)
        self.screen.seen(f"{person.name} registered as {person.email}")

    def link_for(self, person: Person) -> str:
        """Wait for the verification mail at the simulator, and take the link from its text."""
        pattern = re.compile(re.escape(self.client.web_url) + r"/verify-email\?token=\S+")

        def look() -> str | None:
            found = (pattern.search(mail["text"]) for mail in self.client.mails(person.email))
            return next((match.group() for match in found if match), None)

        link = self.until(look, f"a verification mail to {person.name}")
        self.screen.seen(f"the provider took a verification mail to {person.name}")
        return link

    def scan(self, person: Person, link: str) -> None:
        """Open the link as mail scanners do. Raises `Failed` if that verifies anything."""
        for method in ("GET", "HEAD", "GET"):
            self.client.open(method, link)
        if self.verified_at(person) is not None:
            raise Failed("opening the link verified the address: any mail scanner would do the same")
        self.screen.seen(f"GET, HEAD and GET of {person.name}'s link: still not verified, as it should be")

    def verify(self, person: Person, link: str) -> None:
        """Press the button on the page behind the link."""
        self.client.press(link)
        if self.verified_at(person) is None:
            raise Failed("the button was pressed, and the address is still not verified")
        self.screen.seen(f"{person.name} pressed the button on the page: verified")

    def verified_at(self, person: Person) -> Json | None:
        """Ask the service, as that person, when the address was verified."""
        token = self.client.token(person.email, person.password)
        return self.client.api("GET", "accounts/me", 200, token)["email_verified_at"]

    def follow(self, outcome: Outcome) -> None:
        """Wait until the delivery has the expected status, as its recipient sees it; then read its events."""
        name, kind = outcome.person.name, outcome.kind
        token = self.client.token(outcome.person.email, outcome.person.password)

        def look() -> Json | None:
            listed = self.client.api("GET", "accounts/me/deliveries", 200, token)["results"]
            outcome.delivery = next((each for each in listed if each["kind"] == kind), {})
            return outcome.delivery if outcome.is_right else None

        what = f"webhooks about the {kind} mail to {name}"
        try:
            found = self.until(look, what)
        except Failed as failure:
            seen = outcome.delivery.get("status", "not listed")
            raise Failed(f"{failure}: it is {seen}, not {outcome.expected}") from None
        self.screen.seen(f"the {kind} mail to {name}: {found['status']}")
        operator = self.client.token(*self.staff)
        outcome.delivery = self.client.api("GET", f"deliveries/{found['id']}", 200, operator)

    def until(self, look: Callable[[], Found | None], what: str) -> Found:
        """Look again and again until there is something. Raises `Failed` after WAIT_SECONDS."""
        self.screen.progress(f"waiting for {what}")
        deadline = time.monotonic() + WAIT_SECONDS
        while (found := look()) is None:
            if time.monotonic() > deadline:
                raise Failed(f"no sign of {what} within {WAIT_SECONDS} s")
            self.wait(LOOK_SECONDS)
        return found


def timeline(outcome: Outcome) -> Table:
    """Draw what happened to a delivery, in the order in which it happened (UTC)."""
    events = sorted(outcome.delivery["events"], key=lambda event: _time(event["occurred_at"]))
    title = f"The {outcome.kind} mail to {outcome.person.email}"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column("At (UTC)")
    table.add_column("+ ms", justify="right")
    for heading in ("Event", "Source", "Effect"):
        table.add_column(heading, min_width=12)
    for event in events:
        at = _time(event["occurred_at"])
        since = at - _time(events[0]["occurred_at"])
        words = (str(event[name]) for name in ("event_type", "source", "effect"))
        cells = [Text(word, COLOURS.get(word, "")) for word in words]
        time_of_day = at.strftime("%H:%M:%S.%f")[:-3]
        table.add_row(time_of_day, f"{since.total_seconds() * 1000:.0f}", *cells)
    return table


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def verdict(outcome: Outcome) -> Text:
    """Say in one line what became of a delivery."""
    status = outcome.delivery["status"]
    return Text.assemble(
        "  ",
        ("✓ ", "green") if outcome.is_right else ("✗ ", "red"),
        f"{outcome.person.name:<4} {outcome.kind:<13} ",
        (f"{status:<10}", COLOURS.get(status, "")),
        f" {outcome.person.email}",
    )


def play(
    web_url: str, simulator_url: str, staff: tuple[str, str], screen: Screen, wait: Callable[[float], None]
) -> bool:
    """Play the main job on a running stack; tell whether it went as it should, on the screen why not."""
    demo = Demo(Client(web_url, simulator_url), screen, staff, wait)
    try:
        return demo.play()
    except Failed as failure:
        screen.close()
        screen.console.print(Text.assemble("  ", ("✗", "red"), f" {failure}"))
        return False
