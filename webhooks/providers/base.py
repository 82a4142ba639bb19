"""The shape of what we must know of a provider's webhooks."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from anymail.signals import AnymailTrackingEvent
from django.http import HttpRequest

from mailer.status import EVENT_STATUS, Status
from webhooks.exceptions import Unreadable

# Why a mail did not arrive. The first two are the recipient's address, and stay; the others pass, or are ours to mend.
CATEGORIES: Final = ("no_mailbox", "mailbox_full", "policy", "spam", "dns", "unreachable", "other")

# Bytes of a request by which a provider checks an address before there is a secret: anybody can make one.
LARGEST_CHECK: Final = 1024


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request as it came: its headers by lower-case name, its raw body, and the URL the provider was given."""

    headers: Mapping[str, str]
    body: bytes
    url: str = ""

    def json(self) -> Any:
        """Return the body, decoded. Raises `Unreadable`."""
        try:
            return json.loads(self.body.decode())
        except (ValueError, RecursionError) as error:
            raise Unreadable(type(error).__name__) from error

    def as_django(self) -> HttpRequest:
        """Return the request as Anymail's views read it."""
        request = HttpRequest()
        request.method = "POST"
        request.META = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in self.headers.items()}
        request.META["CONTENT_TYPE"] = self.headers.get("content-type", "")
        request.content_type, _, _ = request.META["CONTENT_TYPE"].partition(";")
        request._body = self.body  # noqa: SLF001  # a receipt that is read again has no stream behind it
        return request


@dataclass(frozen=True, slots=True)
class Proof:
    """That a request is its provider's. `nonce` names the request where the signature does not cover the body.

    It may come again with the same body only.
    """

    nonce: str = ""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one event says: its type and status, and of a mail that did not arrive why.

    `category` is one of `CATEGORIES` or empty, `smtp_status` an enhanced status code (RFC 3463) such as `5.1.1`.
    `occurred_at` is the event's own time where Anymail gives another one, `event_id` its id where Anymail's does not
    tell two events apart or differs when one is repeated.
    """

    event_type: str
    status: Status | None
    category: str = ""
    smtp_status: str = ""
    detail: str | None = None
    occurred_at: datetime | None = None
    event_id: str | None = None


def plainly(event: AnymailTrackingEvent) -> Meaning:
    """Return what Anymail makes of an event."""
    return Meaning(event.event_type, EVENT_STATUS.get(event.event_type))


def whole(incoming: Incoming) -> Sequence[Any]:
    """Return the one event of a body in JSON. Raises `Unreadable`."""
    return [incoming.json()]


def listed(incoming: Incoming) -> Sequence[Any]:
    """Return the events of a body that is a list of them, or one alone. Raises `Unreadable`."""
    body = incoming.json()
    return body if isinstance(body, list) else [body]


def converted(view: Any, part: Any, _incoming: Incoming) -> Iterable[AnymailTrackingEvent]:
    """Have Anymail's view read one event of a body."""
    return [view.esp_to_anymail_event(part)]


@dataclass(frozen=True, slots=True)
class Webhook:
    """How a provider's requests are trusted and read.

    `view` names Anymail's: by name, since only who gets webhooks needs it, and some load a library of a hundred
    modules. `is_secret` tells whether a value can be one of its `secrets`, which look like `looks`, and come from
    `variable` in the environment. `verify` raises `Rejected`, or `Unavailable` where our own side fails. `parts` takes
    a body apart, so that an event that cannot be read harms no other; `read` has Anymail's view read each, and `judge`
    says what it means. `headers` are those that events are read from; they are kept with the receipt. For `repeats` a
    provider sends again what was not taken, if it is answered with the status `again`. `answers` are methods that it
    asks the address by, before it sends. `largest` is how many bytes a body of its own can have, where it has to be
    decoded before its signature can be checked: nobody else is to have us decode 10 MB. `fetches` tells that `verify`
    may ask somebody on the network, and wait.
    """

    name: str
    view: str
    variable: str
    is_secret: Callable[[str], bool]
    looks: str
    verify: Callable[[Incoming, Sequence[str]], Proof]
    judge: Callable[[AnymailTrackingEvent], Meaning] = plainly
    parts: Callable[[Incoming], Sequence[Any]] = whole
    read: Callable[[Any, Any, Incoming], Iterable[AnymailTrackingEvent]] = converted
    headers: tuple[str, ...] = ()
    repeats: timedelta = timedelta(days=1)
    again: int = 503
    answers: tuple[str, ...] = ()
    largest: int | None = None
    fetches: bool = False
