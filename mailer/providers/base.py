"""The shape of a provider's facts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from mailer.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Key:
    """How a repeat is marked, so that it is not a second mail, and for how long that holds.

    The key goes into an HTTP `header`, or into the `field` of the JSON body that a path of names leads to.
    """

    lifetime: timedelta
    header: str = ""
    field: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Search:
    """How a provider is asked whether it has accepted a message that carries our id in its metadata.

    `parameters` takes the API's address and our id and returns what differs from a send: `method`, `url`, `params`.
    `found` reads the decoded answer: the provider's ids of what it has, or None where the answer tells nothing. What is
    not found `complete_after` the request was never accepted.
    """

    parameters: Callable[[str, str], dict[str, Any]]
    found: Callable[[Any], list[str] | None]
    complete_after: timedelta


@dataclass(frozen=True, slots=True)
class Batch:
    """How one request carries many messages, each with an outcome of its own.

    `join` makes one JSON body of the bodies for one message each; `split` parts the decoded answer into the HTTP status
    and the body that each message would have had alone, in the same order.
    """

    path: str
    largest: int
    join: Callable[[Sequence[Any]], Any]
    split: Callable[[Any], list[tuple[int, Any]]]


@dataclass(frozen=True, slots=True)
class Provider:
    """What we must know of a provider to send through it.

    `needs` and `takes` name Anymail's settings: those it cannot do without, and others. Without `over_http`, its
    Django backend sends, in a thread. `refusals` says what an HTTP status means where it means something else than
    at most providers (`verdicts.BY_STATUS`); `errors` the same for the code that `error_code` leads to in the body
    of a refusal, and wins. `largest` is what one message may weigh, in bytes, `recipients` how many it may have.
    """

    name: str
    backend: str
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    over_http: bool = True
    key: Key | None = None
    search: Search | None = None
    batch: Batch | None = None
    refusals: Mapping[int, Verdict] = field(default_factory=dict)
    error_code: tuple[str | int, ...] = ()
    errors: Mapping[str, Verdict] = field(default_factory=dict)
    largest: int = 10_000_000
    recipients: int = 50
