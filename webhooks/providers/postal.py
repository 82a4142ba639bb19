"""Postal signs the body with the private key of the installation: RSA, PKCS #1 v1.5.

https://docs.postalserver.io/developer/webhooks: the events. https://github.com/postalserver/postal, lib/postal/http.rb
and app/lib/signer.rb: `X-Postal-Signature-256` with SHA-256, and `X-Postal-Signature` with SHA-1, which is all that old
releases have; both in base64. app/services/webhook_delivery_service.rb: five repeats in 36 minutes, all with the same
`uuid` and `timestamp`. lib/postal/message_db/delivery.rb: `output` is the server's reply, `details` Postal's own words.
app/lib/message_dequeuer/outgoing_message_processor.rb: a mail to somebody on its suppression list is held, and says so
in words only. It may be released by hand: that it was delivered then is recorded, but the status stays.

The secret is the public key in base64, as it stands in the DNS record that `postal default-dkim-record` shows after
`p=`. Postal has no metadata: an event finds its delivery by the message's number alone.
"""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

from anymail.signals import AnymailTrackingEvent
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from mailer.status import EVENT_STATUS, Status
from webhooks.exceptions import Rejected
from webhooks.providers.base import Incoming, Meaning, Proof, Webhook
from webhooks.providers.replies import undelivered

TYPES: Final[dict[str, str]] = {
    "MessageSent": "delivered",
    "MessageDelayed": "deferred",
    "MessageDeliveryFailed": "failed",
    "MessageHeld": "deferred",
    "MessageBounced": "bounced",
    "MessageLinkClicked": "clicked",
    "MessageLoaded": "opened",
}
# A delivery that failed for good: by the first digit of what the recipient's server replied. Without a reply it is
# Postal's own decision.
REFUSALS: Final[dict[str, tuple[str, Status]]] = {
    "4": ("bounced", Status.SOFT_BOUNCED),  # tried for days, and given up
    "5": ("bounced", Status.BOUNCED),
}
# In Postal's own words about a mail that is held for its recipient.
SUPPRESSED: Final = "suppression list"
_REPLY: Final = re.compile(r"\s*([45])\d\d[ -]")


def verify(incoming: Incoming, secrets: Sequence[str]) -> Proof:
    """Check the signature, the stronger one where both are there; any of the keys will do. Raises `Rejected`.

    The time in the body is that of the event, and Postal may be days behind after an outage: it is not checked, since
    an event that comes again changes nothing.
    """
    strong = incoming.headers.get("x-postal-signature-256")
    given = incoming.headers.get("x-postal-signature", "") if strong is None else strong
    algorithm = SHA1() if strong is None else SHA256()  # noqa: S303  # see above: old releases have no other
    try:
        signature = base64.b64decode(given, validate=True)
    except ValueError:
        raise Rejected("the signature is missing or wrong") from None
    if not any(_verifies(_key(secret), signature, incoming.body, algorithm) for secret in secrets):
        raise Rejected("the signature is missing or wrong")
    return Proof()


def _verifies(key: RSAPublicKey, signature: bytes, body: bytes, algorithm: SHA1 | SHA256) -> bool:
    try:
        key.verify(signature, body, PKCS1v15(), algorithm)
    except InvalidSignature:
        return False
    return True


@cache
def _key(secret: str) -> RSAPublicKey:
    """Read a public key. Raises `ValueError`."""
    key = load_der_public_key(base64.b64decode(secret, validate=True))
    if not isinstance(key, RSAPublicKey):
        raise ValueError("not an RSA key")  # noqa: TRY004  # a wrong value, as the others
    return key


def _is_secret(secret: str) -> bool:
    try:
        _key(secret)
    except (UnsupportedAlgorithm, ValueError):
        return False
    return True


def _read(view: Any, part: Any, incoming: Incoming) -> Iterable[AnymailTrackingEvent]:
    # Of domains and limits it tells as well; "rcpt_to" is an inbound mail, which Anymail refuses.
    if part.get("event") not in TYPES and "rcpt_to" not in part:
        return []
    events: list[AnymailTrackingEvent] = view.parse_events(incoming.as_django())
    return events


def _judge(event: AnymailTrackingEvent) -> Meaning:
    raw = event.esp_event
    payload = raw["payload"]
    meaning = _meaning(TYPES[raw["event"]], raw["event"], payload)
    happened = payload.get("timestamp") or (payload.get("bounce") or {}).get("timestamp") or raw.get("timestamp")
    return meaning if happened is None else replace(meaning, occurred_at=datetime.fromtimestamp(float(happened), UTC))


def _meaning(event_type: str, name: str, payload: Mapping[str, Any]) -> Meaning:
    reply = payload.get("output") or payload.get("details")
    if name == "MessageBounced":
        soft = payload["bounce"].get("bounce_type") == "soft"
        return undelivered(event_type, Status.SOFT_BOUNCED if soft else Status.BOUNCED, "")
    if name == "MessageDeliveryFailed":
        code = _REPLY.match(str(payload.get("output"))[:8])
        return undelivered(*REFUSALS.get(code[1] if code else "", (event_type, Status.FAILED)), reply)
    if name == "MessageHeld" and SUPPRESSED in str(payload.get("details")).casefold():
        return undelivered("suppressed", Status.SUPPRESSED, reply, "other")
    if event_type == "deferred":
        return undelivered(event_type, Status.DEFERRED, reply, "policy" if name == "MessageHeld" else "")
    return Meaning(event_type, EVENT_STATUS[event_type])


WEBHOOK = Webhook(
    name="postal",
    view="anymail.webhooks.postal.PostalTrackingWebhookView",
    variable="WEBHOOK_SECRET_POSTAL",
    is_secret=_is_secret,
    looks="the installation's public key, RSA, in base64",
    verify=verify,
    judge=_judge,
    read=_read,
    repeats=timedelta(hours=1),
)
