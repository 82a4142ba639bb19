"""What of a mail can be kept: values with a JSON form, and lines that begin no header of their own."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from math import isfinite
from re import compile as pattern
from typing import Any, Final

from anymail.utils import UNSET
from django.core.mail import BadHeaderError
from django.utils.functional import Promise
from django.utils.timezone import is_naive, make_aware

from mailer.exceptions import Unqueueable

# RFC 5322 2.2: printable ASCII without the colon.
HEADER_NAME: Final = pattern(r"[!-9;-~]+")


def plain(value: Any, where: str) -> Any:
    """Return a value as JSON has it, its lazy texts resolved. Raises `Unqueueable` for what has no such form.

    `where` names the place in the error; no value ever does.
    """
    match value:
        case Promise():
            return text(str(value), where)
        case str():
            return text(value, where)
        case None | bool() | int():
            return value
        case float() if isfinite(value):
            return value
        case list() | tuple():
            return [plain(item, where) for item in value]
        case Mapping():
            return {_key(key, where): plain(item, where) for key, item in value.items()}
    raise Unqueueable(f"{where}: a {type(value).__name__} has no JSON form")


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str | Promise):
        raise Unqueueable(f"{where}: a key must be text, not a {type(key).__name__}")
    return text(str(key), where)


def text(value: str, where: str) -> str:
    """Return a text that the database can keep. Raises `Unqueueable` for any other."""
    if "\0" in value:
        raise Unqueueable(f"{where}: a text with a NUL cannot be kept")
    encoded(value, where)
    return value


def encoded(value: str, where: str) -> bytes:
    """Return a text in UTF-8. Raises `Unqueueable` for half of a surrogate pair, which has no such form."""
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise Unqueueable(f"{where}: a text with half of a surrogate pair cannot be kept") from None


def line(value: Any, where: str) -> Any:
    """Return a plain value, if it is no text of several lines. Raises `BadHeaderError`: this may be an injection."""
    value = plain(value, where)
    if isinstance(value, str) and ("\n" in value or "\r" in value):
        raise BadHeaderError(f"{where}: a newline would begin a header of its own")
    return value


def headers(value: Any, where: str) -> dict[str, Any]:
    """Return headers, by name. Raises `BadHeaderError` for a name or a value that would break the header."""
    found = {name: line(item, where) for name, item in dict(value or {}).items()}
    if not all(isinstance(name, str) and HEADER_NAME.fullmatch(name) for name in found):
        raise BadHeaderError(f"{where}: the name of a header is printable ASCII without a colon")
    return found


def moment(value: Any, where: str) -> datetime | None:
    """Return a time as Anymail reads it: a date is its midnight, a number the seconds since 1970.

    What is naive is in the current time zone. Raises `Unqueueable` for anything else, such as text.
    """
    match value:
        case None:
            return None
        case datetime():
            found = value
        case date():
            found = datetime.combine(value, time.min)
        case int() | float():
            found = datetime.fromtimestamp(value, UTC)
        case _ if value is UNSET:
            return None
        case _:
            raise Unqueueable(f"{where}: a {type(value).__name__} is no time")
    return make_aware(found) if is_naive(found) else found
