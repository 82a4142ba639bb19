"""What was accepted: one mail, whichever provider took it."""

import functools
import re
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import getaddresses
from html.parser import HTMLParser
from typing import Any

_ADDRESS = re.compile(r"[^\s@,<>]+@[^\s@,<>]+")
_LINK = re.compile(r"https?://[^\s<>\"']+")


@dataclass(frozen=True)
class Refusal:
    """A provider's literal answer to what it does not take."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


class RefusedError(Exception):
    """A request the provider would not take."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.body)
        self.refusal = refusal


@dataclass(slots=True)
class Mail:
    """One accepted mail. ``recipients`` are bare (to, cc, bcc), ``payload`` is its part of the request.

    ``seq`` is its place in the log, ``request`` that of the first message of the request it came in.
    """

    provider: str
    sender: str
    recipients: list[str]
    subject: str
    text: str
    html: str
    headers: dict[str, str]
    metadata: dict[str, str]
    payload: dict[str, Any]
    tags: list[str] = field(default_factory=list)
    idempotency_key: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    accepted_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    seq: int = 0
    request: int = 0

    @property
    def links(self) -> list[str]:
        """Every http(s) link of the text and of the HTML part, in order of appearance, once each."""
        hrefs = _Hrefs()
        hrefs.feed(self.html)
        found = [link.rstrip(".,;:!?)") for link in _LINK.findall(self.text)] + hrefs.found
        return list(dict.fromkeys(found))


class _Hrefs(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        links = [value for name, value in attrs if name == "href" and value] if tag == "a" else []
        self.found += [link for link in links if _LINK.match(link)]


def addresses(values: list[str]) -> list[str]:
    """Take the bare addresses out of values such as ``Name <a@b.c>, d@e.f``; an unusable value stays as it is."""
    return [address for value in values if value.strip() for address in _parsed(value)]


@functools.lru_cache(maxsize=1024)  # the parser is slow, and the sender is always the same
def _parsed(value: str) -> tuple[str, ...]:
    if is_address(value):
        return (value,)
    return tuple(address for _, address in getaddresses([value]) if address) or (value,)


def is_address(value: str) -> bool:
    return _ADDRESS.fullmatch(value) is not None


def rfc3339(moment: datetime, digits: int = 6) -> str:
    """Format in UTC with ``Z``. Postmark writes 7 decimals, Resend 3."""
    fraction = f"{moment.microsecond:06d}0"[:digits]
    return f"{moment.astimezone(UTC).isoformat()[:19]}.{fraction}Z"
