"""Resend signs by Svix' scheme, which the Standard Webhooks specification grew out of.

https://resend.com/docs/webhooks/verify-webhooks-requests and https://docs.svix.com/receiving/verifying-payloads/how-manual:
HMAC-SHA256 over `id.timestamp.body`, keyed with what follows `whsec_` in base64; a header may hold several signatures,
`v1,<base64>` each, parted by spaces; five minutes of tolerance.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from typing import Final

from webhooks.exceptions import Rejected

TOLERANCE: Final = 5 * 60  # seconds, into the past and into the future


def verify(headers: Mapping[str, str], body: bytes, secrets: Sequence[str]) -> None:
    """Check signature and freshness; any of the secrets will do. Raises `Rejected`."""
    identifier, timestamp = headers.get("svix-id", ""), headers.get("svix-timestamp", "")
    # This machine's clock, not the database's: the signature must hold before anything is asked of the database.
    if not (timestamp.isascii() and timestamp.isdecimal()) or abs(time.time() - int(timestamp[:12])) > TOLERANCE:
        raise Rejected("the timestamp is missing or too far from now")
    signed = f"{identifier}.{timestamp}.".encode() + body
    given = [
        signature.encode()
        for version, _, signature in (part.partition(",") for part in headers.get("svix-signature", "").split(" "))
        if version == "v1"
    ]
    expected = [base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)) for secret in secrets]
    matches = [hmac.compare_digest(ours, theirs) for ours in expected for theirs in given]
    if not identifier or not any(matches):
        raise Rejected("the signature is missing or wrong")


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix("whsec_"))
