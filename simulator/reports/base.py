"""The shape of a provider's webhooks: what it tells of a mail, how it proves that it is the teller."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from simulator.mail import Mail

Event = dict[str, Any]

AGENT = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 Chrome/142.0.0.0 Safari/537.36"
IP = "192.0.2.7"

NO_SUCH_USER = "550 5.1.1 The email account that you tried to reach does not exist."
MAILBOX_FULL = "452 4.2.2 The email account that you tried to reach is over quota."
TIMED_OUT = "451 4.4.1 Connection timed out."
TAKEN = "250 2.0.0 OK"


@dataclass(frozen=True, slots=True)
class Happening:
    """What befell one recipient of a mail; ``word`` is one of ``behaviour.WORDS``."""

    mail: Mail
    recipient: str
    word: str
    at: datetime

    @property
    def link(self) -> str:
        return next(iter(self.mail.links), "https://example.com/")

    @property
    def tag(self) -> str:
        return next(iter(self.mail.tags), "")

    @property
    def bare_id(self) -> str:
        """The mail's id without the brackets of a Message-ID."""
        return self.mail.id.strip("<>")

    @property
    def seconds(self) -> int:
        """When it happened, in whole seconds since 1970."""
        return int(self.at.timestamp())


@dataclass(frozen=True, slots=True)
class Sending:
    """One attempt to post. ``id`` is the same in each attempt, ``before`` says how many there were already."""

    id: str
    before: int
    url: str
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Posted:
    """A request's body and headers as they are posted, with what proves them."""

    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scheme:
    """A kind of secret.

    ``make`` makes a new one: what the provider keeps, and what it gives to whom it reports. ``read`` makes a key of the
    provider's part, and raises ValueError where it is none. ``other`` makes another key of the same kind, by which
    nothing is signed rightly.
    """

    make: Callable[[], tuple[str, str]]
    read: Callable[[str], Any]
    other: Callable[[Any], Any]
    looks: str
    in_url: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """A request by which a provider tries an address before it reports there.

    One with a ``body`` is signed: by a ``key`` that all know, or by the provider's own where none is named.
    """

    method: str
    body: Callable[[], Any] | None = None
    key: str | None = None


Build = Callable[[Happening], Event]


@dataclass(frozen=True, slots=True)
class Reports:
    """A provider's webhooks.

    ``events`` has for each word what is told of it, an event each; ``kind`` names an event. Of the words in ``once``
    is told once a mail. ``whole`` puts events into a body, up to ``batch`` of them; ``sign`` makes a request of it,
    and the key is one of the ``scheme``. What fails is repeated after ``retries``, in seconds, where ``is_retried``
    says so of the answer's status (None: there was none), but not the kinds in ``never_again``. ``checks`` are what it
    does first, where somebody tells it the address.
    """

    name: str
    events: Mapping[str, tuple[Build, ...]]
    kind: Callable[[Event], str]
    scheme: Scheme
    sign: Callable[[str, Sending, Any], Posted]
    retries: tuple[float, ...]
    is_retried: Callable[[int | None], bool]
    timeout: float = 30.0
    batch: int = 1
    whole: Callable[[list[Event]], Any] = lambda events: events[0]
    once: frozenset[str] = frozenset()
    never_again: frozenset[str] = frozenset()
    new_id: Callable[[], str] = lambda: str(uuid.uuid4())
    follow_redirects: bool = False
    checks: tuple[Check, ...] = ()


def listed(events: list[Event]) -> list[Event]:
    return events


def not_2xx(status: int | None) -> bool:
    """Whether to try again where only success is the end."""
    return status not in range(200, 300)


def not_200(status: int | None) -> bool:
    return status != 200  # noqa: PLR2004  # as the pages say it


def dumped(value: Any) -> str:
    """Encode as JSON, as text."""
    return orjson.dumps(value).decode()


def with_metadata(headers: Mapping[str, str], metadata: Mapping[str, str]) -> list[dict[str, str]]:
    """List a mail's headers, with the one in which Anymail sends metadata to who knows none."""
    known = {name.lower() for name in headers}
    more = {"X-Metadata": dumped(metadata)} if metadata and "x-metadata" not in known else {}
    return [{"name": name, "value": value} for name, value in {**headers, **more}.items()]
