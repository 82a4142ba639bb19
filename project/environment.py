"""Read settings from the environment, and never show in an error what is in them."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured
from environ.fileaware_mapping import FileAwareMapping


class _Values(FileAwareMapping):  # type: ignore[misc]  # has no types
    """The environment and the files it names, as they are.

    Without the line's end that editors and `echo` leave in a file; and with each $ escaped, since django-environ
    would take the rest of a key that starts with one for a variable's name, and quote it in the error.
    """

    def __getitem__(self, key: str) -> str:
        return str(super().__getitem__(key)).rstrip("\r\n").replace("$", r"\$")


class Environment(environ.FileAwareEnv):  # type: ignore[misc]  # has no types
    """Reads settings. Whatever is wrong with one raises `ImproperlyConfigured`, in one line, without its value."""

    ENVIRON = _Values()

    def __init__(self) -> None:
        super().__init__()
        self.escape_proxy = True  # what `_Values` escapes comes back as it was

    def get_value(self, var: str, *args: Any, **kwargs: Any) -> Any:
        """Read a value. The error names the variable and never shows what is in it."""
        try:
            return super().get_value(var, *args, **kwargs)
        except OSError as error:
            raise ImproperlyConfigured(f"{var}_FILE names a file that cannot be read: {error.strerror}") from None
        except ValueError:
            raise ImproperlyConfigured(f"{var} is set to something that cannot be read") from None

    def at_least(self, minimum: float, var: str, *, default: float) -> float:
        """Read a number. Raises `ImproperlyConfigured` for a smaller one."""
        number: float = self.float(var, default=default)
        if not number >= minimum:  # also true of NaN
            raise ImproperlyConfigured(f"{var} must be at least {minimum}")
        return number

    def one_of(self, choices: Iterable[str], var: str, *, default: str) -> Any:
        """Read a word. Raises `ImproperlyConfigured` for any other."""
        words = {word: word for word in choices}
        word = self.str(var, default=default)
        if word not in words:
            raise ImproperlyConfigured(f"{var} must be one of {', '.join(words)}")
        return words[word]


def is_origin(url: str) -> bool:
    """Tell whether a URL has scheme, host and port alone: credentials would be in every mail, a path in no route."""
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:  # a port or an address that is none
        return False
    bare = "@" not in parts.netloc and url.casefold() == f"{parts.scheme}://{parts.netloc}".casefold()
    return bool(host) and bare and parts.scheme in {"http", "https"}
