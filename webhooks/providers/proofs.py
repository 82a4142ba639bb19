"""Ways to prove that a request is a provider's, which several of them share."""

import base64
import binascii
import hmac
import time
from collections.abc import Iterable, Sequence
from typing import Final

from django.utils.crypto import constant_time_compare

from webhooks.exceptions import Rejected
from webhooks.providers.base import Incoming, Proof

# Digits of a time in seconds that are read; none that has more is near now.
_DIGITS: Final = 14


def is_basic_auth(secret: str) -> bool:
    """Tell whether this is `user:password`."""
    user, colon, password = secret.partition(":")
    return bool(user and colon and password)


def basic_auth(incoming: Incoming, secrets: Sequence[str]) -> Proof:
    """Compare the basic auth credentials to the secrets, `user:password` each. Raises `Rejected`."""
    scheme, _, encoded = incoming.headers.get("authorization", "").partition(" ")
    try:
        given = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        given = b""
    # No early end: how long this takes tells nothing of which secret matched.
    matches = [constant_time_compare(given, secret.encode()) for secret in secrets]
    if scheme.casefold() != "basic" or not any(matches):
        raise Rejected("credentials are missing or wrong")
    return Proof()


def fresh(timestamp: str, past: float, future: float = 5 * 60) -> None:
    """Check that a time, whole seconds since 1970 in digits, is at most so many seconds from now. Raises `Rejected`.

    By this machine's clock, not the database's: it must hold before anything is asked of the database.
    """
    is_number = timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= _DIGITS
    if not is_number or not -future <= time.time() - int(timestamp) <= past:
        raise Rejected("the timestamp is missing or too far from now")


def one_of(given: Iterable[bytes], expected: Iterable[bytes]) -> None:
    """Check that one of the signatures is one of those expected, in constant time. Raises `Rejected`."""
    theirs = list(given)
    matches = [hmac.compare_digest(ours, each) for ours in expected for each in theirs]
    if not any(matches):
        raise Rejected("the signature is missing or wrong")
