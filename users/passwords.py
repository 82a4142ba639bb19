"""Which passwords are refused, beside what Django refuses: those made of the service's own words, and known ones.

There are no rules about what a password is composed of (NIST SP 800-63B-4, 3.1.1.2).
"""

import hashlib
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import idna
import requests
from django.contrib.auth.password_validation import CommonPasswordValidator
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _

from users.outages import Outage

# Letters of a word that is looked for: shorter ones are in many others.
SHORTEST_WORD: Final = 4
# Letters that have to be there beside the service's words.
ENOUGH_LETTERS: Final = 8

# What is written for what, in a word that somebody wanted to be safer.
_DISGUISES: Final = str.maketrans("01!|l3@4$57", "oiiiieaasst")

# Seconds that the list of known passwords may take to answer, and for which it is left alone where it does not.
TIMEOUT: Final = 1.0
DOWN: Final = 60.0
# Bytes of an answer: the largest has some 40,000.
LONGEST: Final = 1_000_000

_outage: Final = Outage("breach_check_failed", "breach_check_works_again", DOWN)


def service_words(name: str, url: str) -> list[str]:
    """Return the words of a service's name and of its domain, but for the top level."""
    labels = (urlsplit(url).hostname or "").split(".")
    domain = " ".join(map(_readable, labels[:-1] or labels))
    words = re.findall(r"[^\W\d_]+", _folded(f"{name} {domain}"))
    return sorted({word for word in words if len(word) >= SHORTEST_WORD})


def _readable(label: str) -> str:
    try:
        return idna.decode(label)
    except UnicodeError:  # no IDNA, such as a label with an underscore
        return label


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


class ServiceWordValidator:
    """Refuse what is a word of the service and little else: it is the first that is tried (NIST SP 800-63B-4)."""

    def __init__(self, words: Iterable[str]) -> None:
        longest_first = sorted({word.translate(_DISGUISES) for word in words}, key=len, reverse=True)
        self._words = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._common = CommonPasswordValidator().passwords

    def validate(self, password: str, user: Any = None) -> None:
        """Look at what is left without the words. Raises `ValidationError`."""
        del user
        folded = _folded(password)
        left, end = "", 0
        for found in self._words.finditer(folded.translate(_DISGUISES)):
            left, end = left + folded[end : found.start()], found.end()
        if not end:
            return
        letters = "".join(letter for letter in left + folded[end:] if letter.isalpha())
        if len(letters) < ENOUGH_LETTERS or letters in self._common:
            raise ValidationError(
                _("The password is little more than a word of this service."), code="password_of_service_words"
            )

    def get_help_text(self) -> str:
        """Return what the admin shows beside the field."""
        return str(_("Your password must not be little more than a word of this service."))


class BreachedPasswordValidator:
    """Refuse passwords that are known from breaches, by a list that is asked without telling it the password.

    It gets five digits of the password's SHA-1 and returns all that begin with these
    (https://haveibeenpwned.com/API/v3#PwnedPasswords). Where it does not answer the password passes.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def validate(self, password: str, user: Any = None) -> None:
        """Ask the list. Raises `ValidationError` for a password that is in it."""
        del user
        if not _outage.may_ask():
            return
        digest = hashlib.sha1(password.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest().upper()
        try:
            known = _is_in(self._ask(digest[:5]), digest[5:])
        except requests.RequestException as error:
            _outage.begin(error)
            return
        _outage.end()
        if known:
            raise ValidationError(
                _("This password is known from a breach of another service."), code="password_breached"
            )

    def _ask(self, prefix: str) -> Iterator[bytes]:
        """Yield the lines of the answer; the padding has the same length for all. Raises `RequestException`."""
        end = time.monotonic() + TIMEOUT
        with requests.get(
            f"{self._url}/range/{prefix}",
            headers={"Add-Padding": "true", "User-Agent": "accounts"},
            timeout=TIMEOUT,
            allow_redirects=False,
            stream=True,
        ) as answer:
            if answer.status_code != requests.codes.ok:
                raise requests.HTTPError
            body = b""
            for part in answer.iter_content(16_384):
                body += part
                if time.monotonic() > end or len(body) > LONGEST:
                    raise requests.Timeout
            yield from body.splitlines()

    def get_help_text(self) -> str:
        """Return what the admin shows beside the field."""
        return str(_("Your password must not be one that is known from a breach."))


def _is_in(lines: Iterable[bytes], suffix: str) -> bool:
    """Tell whether a suffix is among the lines, each `SUFFIX:COUNT`; the padding counts 0."""
    return any(
        line[:35].upper() == suffix.encode() and line[36:].replace(b",", b"").strip().strip(b"0") for line in lines
    )
