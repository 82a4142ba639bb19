"""Webhook requests as bytes, and what must hold for whatever bytes come.

A request is written as its headers, a line each, an empty line, and the body. Importing this wants Django to be set up.
"""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from anymail.signals import AnymailTrackingEvent
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mailer.ledger import MAX_IDENTIFIER, Fact
from mailer.status import RANKS
from users.addresses import MAX_LENGTH
from webhooks import normal
from webhooks.exceptions import Rejected, TooManyEvents, Unavailable
from webhooks.providers import WEBHOOKS, Incoming
from webhooks.providers.base import CATEGORIES

RECEIPT: Final = UUID("01940000-0000-7000-8000-000000000001")
# Characters of each text that goes into a column of that size.
SIZES: Final = {
    "esp_message_id": MAX_IDENTIFIER,
    "esp_event_id": MAX_IDENTIFIER,
    "recipient_canonical": MAX_LENGTH,
    "detail": 2000,
    "reject_reason": 32,
    "smtp_status": 12,
    "dedupe_key": 64,
}


def _public(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "".join(pem.decode().splitlines()[1:-1])


# What each provider's requests are verified by. Those of basic authentication can be guessed: a seed has it.
SECRETS: Final[dict[str, str]] = {
    **dict.fromkeys(("brevo", "mailjet", "postmark", "sparkpost"), "hook:fuzz"),
    **dict.fromkeys(("mailersend", "mailgun", "mailtrap", "mandrill", "unisender_go"), "0123456789abcdef" * 2),
    "amazon_ses": "arn:aws:sns:us-east-1:123456789012:events",
    "postal": _public(rsa.generate_private_key(65537, 2048)),
    "resend": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3",
    "sendgrid": _public(ec.generate_private_key(ec.SECP256R1())),
}


def fetch_nothing(url: str) -> bytes:
    """Stand for Amazon, which nobody asks here."""
    raise Unavailable(url)


def incoming_of(data: bytes) -> Incoming:
    """Return the request that some bytes say; bytes without an empty line are all body."""
    head, found, body = data.partition(b"\n\n")
    if data.startswith(b"\n"):
        head, found, body = b"", b"\n", data[1:]
    lines = [line.partition(":") for line in head.decode("latin-1").split("\n")] if found else []
    headers = {name.strip().casefold(): value.strip() for name, colon, value in lines if colon}
    return Incoming(headers, body if found else data, "https://accounts.example.com/webhooks/")


def check(provider: str, data: bytes) -> normal.Contents | None:
    """Verify and read a request; return what it says, None where it is refused whole.

    Raises whatever verifying and reading raise that they may not, and `AssertionError` where a fact cannot be stored.
    """
    incoming = incoming_of(data)
    with suppress(Rejected, Unavailable):
        WEBHOOKS[provider].verify(incoming, [SECRETS[provider]])
    # Read all the same: what is behind a signature may be as odd.
    try:
        contents = normal.read(provider, incoming, RECEIPT)
    except TooManyEvents:
        return None
    assert len(contents.facts) == len(contents.heard)
    for fact, heard in zip(contents.facts, contents.heard, strict=True):
        _check_fact(fact, heard)
    return contents


def _check_fact(fact: Fact, heard: AnymailTrackingEvent) -> None:
    assert isinstance(heard, AnymailTrackingEvent)
    assert fact.status is None or fact.status in RANKS
    assert fact.category in {"", *CATEGORIES}
    for name, size in SIZES.items():
        _check_text(getattr(fact, name), size)
    if fact.occurred_at is not None:
        assert fact.occurred_at.utcoffset() == timedelta(0)
        assert datetime(1, 1, 1, tzinfo=UTC) <= fact.occurred_at


def _check_text(value: Any, size: int) -> None:
    """Check that PostgreSQL can store a text: no NUL, no half of a surrogate pair."""
    assert isinstance(value, str), value
    assert len(value) <= size
    assert "\0" not in value
    json.dumps(value, ensure_ascii=False).encode()
