"""The shape of a provider's facts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from mailer import couriers
from mailer.verdicts import Verdict, of_status

# The names and indexes that lead to a place in decoded JSON.
Path = tuple[str | int, ...]

_NOTHING: Final = object()


@dataclass(frozen=True, slots=True)
class Key:
    """How a repeat is marked, so that it is not a second mail, and for how long that holds.

    The key goes into an HTTP `header`, or to the `field` that a path leads to in the `data` of Anymail's payload,
    before that is serialized. `lifetime` counts from the first request, and is less than the provider promises: clocks
    differ, and a request takes its time.
    """

    lifetime: timedelta
    header: str = ""
    field: tuple[str, ...] = ()

    def mark(self, payload: Any, value: str) -> None:
        """Put the key into a payload that Anymail has built and not yet serialized."""
        if self.header:
            payload.headers[self.header] = value
        else:
            put(payload.data, self.field, value)


@dataclass(frozen=True, slots=True)
class Search:
    """How a provider is asked whether it has accepted a message that carries our id.

    The id is in the metadata, or at the `field` that a path leads to in the `data` of Anymail's payload where only that
    can be searched. `request` takes Anymail's backend, which holds address and credentials, and our id; it returns the
    request: `method`, `url`, `params`, `headers`, and `auth` where there is some. `found` reads the decoded answer: the
    provider's ids of what it has, or None where the answer tells nothing. What is not found `complete_after` the
    request was never accepted; where that is None, only what is found proves anything.
    """

    request: Callable[[Any, str], dict[str, Any]]
    found: Callable[[Any], list[str] | None]
    complete_after: timedelta | None
    field: tuple[str, ...] = ()

    def mark(self, payload: Any, value: str) -> None:
        """Put our id where it can be searched, if the metadata is not that place."""
        if self.field:
            put(payload.data, self.field, value)


@dataclass(frozen=True, slots=True)
class Batch:
    """How one request carries many messages, each with an outcome of its own.

    Messages that fit can be joined, up to `most` of them and `largest` bytes, into one request to `path`. `join` makes
    its body of the bodies for one message each, all JSON as text. `split` parts the decoded answer, whatever its
    status, into the HTTP status and the body that each message would have had alone, in the same order; it returns
    None where the answer says nothing of each: then it is about the request as a whole, and what is refused so may do
    alone. What has one of the fields `without` in the `data` of Anymail's payload cannot be joined.

    At a provider with idempotency keys, one key holds for the whole of it. `keyed` makes its headers of Anymail's
    backend, which holds the credentials, and that key; `identifier` leads to the provider's id in the body that is one
    message's part of the answer.
    """

    endpoint: str
    path: str
    most: int
    join: Callable[[Sequence[str]], str]
    split: Callable[[Any], list[tuple[int, Any]] | None]
    largest: int = 10_000_000
    without: frozenset[str] = frozenset()
    keyed: Callable[[Any, str], dict[str, str]] | None = None
    identifier: Path = ()

    def fits(self, payload: Any) -> bool:
        """Tell whether a message can be joined, by Anymail's payload; one that makes many mails itself cannot."""
        return bool(
            payload.get_api_endpoint() == self.endpoint
            and not payload.is_batch()
            and self.without.isdisjoint(payload.data)
        )


@dataclass(frozen=True, slots=True)
class Provider:
    """What we must know of a provider to send through it.

    `needs` and `takes` name Anymail's settings: those it cannot do without, and others; `fixed` are settings with the
    values they always have here. `lacks` names the attributes of Anymail's message that it cannot send and we can do
    without. `requires` names what it refuses a mail without: somebody in `to`; a `subject` and a `body`, unless these
    are a template's. Without `over_http`, its Django backend sends, in a thread. `refusals` says what a status means
    where it means something else than at most providers (`verdicts.BY_STATUS`); `errors` the same for the first code in
    it that one of the paths `error_codes` leads to in the body. `largest` is what one message may weigh, in bytes,
    `recipients` how many it may have. `slowest` is for how many seconds one request may be under way. One that `tells`
    can be asked later what became of a mail (`webhooks.polls`).
    """

    name: str
    backend: str
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    lacks: frozenset[str] = frozenset()
    requires: frozenset[str] = frozenset()
    over_http: bool = True
    key: Key | None = None
    search: Search | None = None
    batch: Batch | None = None
    refusals: Mapping[int, Verdict] = field(default_factory=dict)
    error_codes: tuple[Path, ...] = ()
    errors: Mapping[str, Verdict] = field(default_factory=dict)
    largest: int = 10_000_000
    recipients: int = 50
    slowest: float = couriers.TOTAL
    tells: bool = False

    def verdict(self, status: int, body: Any = None) -> Verdict:
        """Return what an answer means: its status and its body, decoded where that is JSON, else the text.

        A code in the body wins over the status, also over 200: some providers answer all with the same status.
        """
        for path in self.error_codes:
            verdict = self.errors.get(str(get(body, path)).strip())
            if verdict:
                return verdict
        return of_status(status, self.refusals)


def as_list(bodies: Sequence[str]) -> str:
    """Join the bodies for one message each, JSON as text, to a list of them."""
    return f"[{','.join(bodies)}]"


def get(data: Any, path: Path) -> Any:
    """Return what a path leads to in decoded JSON; where it leads nowhere, something that equals no code."""
    for step in path:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return _NOTHING
    return data


def put(data: Any, path: tuple[str, ...], value: str) -> None:
    """Put a value where a path of names leads, and make the objects on the way."""
    *way, last = path
    for step in way:
        data = data.setdefault(step, {})
    data[last] = value
