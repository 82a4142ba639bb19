"""What differs between the send APIs, as data: each provider's module has one ``API``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from simulator.mail import Mail, Refusal, RefusedError

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a send API says to a request that it takes as a whole.

    ``outcomes`` are one a message, in the request's order: the mail that is accepted, or why it is not.
    """

    outcomes: list[Mail | Refusal]
    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Keys:
    """How a provider recognizes a repeated request: the header, for how many seconds, and what it refuses."""

    header: str
    life: float
    longest: int
    wrong: Refusal
    under_way: Refusal
    other_body: Refusal


@dataclass(frozen=True, slots=True)
class Api:
    """A provider's send API.

    ``authorize`` compares the headers (lower-case names) with our secret; ``paths`` say who reads the decoded body
    of a request to each; both raise RefusedError for the whole request. ``mail`` makes a mail of one message's part.
    ``message_ids`` finds our ids in a body, be it right or wrong: one a message, empty where there is none.
    """

    name: str
    authorize: Callable[[Headers, str], None]
    paths: Mapping[str, Callable[[Any, Headers], Answer]]
    mail: Callable[[Any], Mail]
    message_ids: Callable[[Any], list[str]]
    bad_json: Refusal
    rate_limited: Refusal
    unavailable: Refusal
    keys: Keys | None = None


def found(value: Any, *names: str) -> Any:
    """Follow names through objects of a body that may be wrong; None where they lead nowhere."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def metadata_in(text: Any) -> dict[str, str]:
    """Read metadata from the text in which some providers carry it; empty unless that is a JSON object."""
    try:
        metadata = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return {name: str(value) for name, value in metadata.items()} if isinstance(metadata, dict) else {}


def outcome(read: Callable[[Any], Mail], message: Any) -> Mail | Refusal:
    """Read one message of a batch in which each has an outcome of its own."""
    try:
        return read(message)
    except RefusedError as error:
        return error.refusal
