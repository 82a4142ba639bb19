"""Resend signs by Svix' scheme, which the Standard Webhooks specification grew out of.

https://resend.com/docs/webhooks/verify-webhooks-requests and https://docs.svix.com/receiving/verifying-payloads/how-manual:
HMAC-SHA256 over `id.timestamp.body`, keyed with what follows `whsec_` in base64; a header may hold several signatures,
`v1,<base64>` each, parted by spaces; five minutes of tolerance.
https://resend.com/docs/dashboard/emails/email-bounces, https://resend.com/docs/webhooks/event-types.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from anymail.signals import AnymailTrackingEvent

from mailer.status import EVENT_STATUS, Status
from webhooks.exceptions import Rejected
from webhooks.providers.base import Incoming, Meaning, Proof, Webhook
from webhooks.providers.proofs import fresh, one_of
from webhooks.providers.replies import undelivered

TOLERANCE: Final = 5 * 60  # seconds, into the past and into the future

# The bounce's `type`.
BOUNCES: Final[dict[str, Status]] = {
    "Permanent": Status.BOUNCED,
    "Transient": Status.SOFT_BOUNCED,
    "Undetermined": Status.SOFT_BOUNCED,
}
# Its `subType`. The others leave it to the server's words.
CATEGORIES: Final[dict[str, str]] = {
    "NoEmail": "no_mailbox",
    "MailboxFull": "mailbox_full",
    "MessageTooLarge": "policy",
    "ContentRejected": "policy",
    "AttachmentRejected": "policy",
}
# Subtypes of what Resend never tried, and why.
SUPPRESSIONS: Final[dict[str, str]] = {
    "Suppressed": "no_mailbox",
    "OnAccountSuppressionList": "other",
}
# Types that Anymail does not know.
TYPES: Final[dict[str, str]] = {
    "email.failed": "failed",
    "email.scheduled": "scheduled",
    "email.suppressed": "suppressed",
}


def verify(incoming: Incoming, secrets: Sequence[str]) -> Proof:
    """Check signature and freshness; any of the secrets will do. Raises `Rejected`."""
    identifier, timestamp = incoming.headers.get("svix-id", ""), incoming.headers.get("svix-timestamp", "")
    fresh(timestamp, TOLERANCE, TOLERANCE)
    if not identifier:
        raise Rejected("the signature is missing or wrong")
    signed = f"{identifier}.{timestamp}.".encode() + incoming.body
    given = [
        signature.encode()
        for version, _, signature in (
            part.partition(",") for part in incoming.headers.get("svix-signature", "").split(" ")
        )
        if version == "v1"
    ]
    one_of(given, [base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)) for secret in secrets])
    return Proof()


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix("whsec_"))


def _is_secret(secret: str) -> bool:
    try:
        return secret.startswith("whsec_") and bool(base64.b64decode(secret[6:], validate=True))
    except ValueError:
        return False


def _read(view: Any, part: Any, incoming: Incoming) -> list[AnymailTrackingEvent]:
    return [view.esp_to_anymail_event(part, incoming.as_django())]  # its id is in a header


def _judge(event: AnymailTrackingEvent) -> Meaning:
    if event.event_type == "bounced":
        return _bounce(event.esp_event["data"].get("bounce") or {})
    event_type = TYPES.get(event.esp_event["type"], event.event_type)
    return Meaning(event_type, EVENT_STATUS.get(event_type))


def _bounce(bounce: Mapping[str, Any]) -> Meaning:
    said, subtype = bounce.get("diagnosticCode") or bounce.get("message"), bounce.get("subType", "")
    text = " ".join(map(str, said)) if isinstance(said, list) else said
    if subtype in SUPPRESSIONS:
        meaning = undelivered("suppressed", Status.SUPPRESSED, text, SUPPRESSIONS[subtype])
    else:
        status = BOUNCES.get(bounce.get("type", ""), Status.BOUNCED)
        meaning = undelivered("bounced", status, text, CATEGORIES.get(subtype, ""))
    return replace(meaning, detail=None)  # Anymail's has Resend's own explanation in it


WEBHOOK = Webhook(
    name="resend",
    view="anymail.webhooks.resend.ResendTrackingWebhookView",
    variable="WEBHOOK_SECRET_RESEND",
    is_secret=_is_secret,
    looks="whsec_ and base64",
    verify=verify,
    judge=_judge,
    read=_read,
    headers=("svix-id",),
    repeats=timedelta(hours=28),
)
