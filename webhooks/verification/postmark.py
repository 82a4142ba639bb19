"""Postmark signs nothing: it can only be given a user and a password in the webhook's URL.

https://postmarkapp.com/developer/webhooks/webhooks-overview, "Protecting your webhook".
"""

import base64
import binascii
from collections.abc import Mapping, Sequence

from django.utils.crypto import constant_time_compare

from webhooks.exceptions import Rejected


def verify(headers: Mapping[str, str], _body: bytes, secrets: Sequence[str]) -> None:
    """Compare the basic auth credentials to the secrets, `user:password` each. Raises `Rejected`."""
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    try:
        given = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        given = b""
    # No early end: how long this takes tells nothing of which secret matched.
    matches = [constant_time_compare(given, secret.encode()) for secret in secrets]
    if scheme.casefold() != "basic" or not any(matches):
        raise Rejected("credentials are missing or wrong")
