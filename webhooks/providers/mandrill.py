"""Mandrill (Mailchimp Transactional).

https://mandrill.zendesk.com/hc/en-us/articles/360039232513-How-to-Authenticate-Webhook-Requests: HMAC-SHA1 in base64
over the URL as it was given to Mandrill and the names and values of the form, sorted.
https://mandrill.zendesk.com/hc/en-us/articles/360038740014-Why-can-t-my-webhook-or-inbound-route-URL-be-verified:
before an address is taken it is asked by HEAD, and where that fails by a POST without events, signed with a key that
all know.
https://mailchimp.com/developer/transactional/docs/webhooks/: up to 1,000 events in one field. What failed comes again;
the page does not say for how long.
https://mandrill.zendesk.com/hc/en-us/articles/205583307-Message-Event-Webhook-Format and
https://mailchimp.com/developer/transactional/api/messages/send-new-message/, `reject_reason`.
"""

import base64
import binascii
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from anymail.signals import AnymailTrackingEvent

from mailer.status import Status
from webhooks.exceptions import Rejected, Unreadable
from webhooks.providers.base import LARGEST_CHECK, Incoming, Meaning, Proof, Webhook
from webhooks.providers.proofs import one_of
from webhooks.providers.replies import category_of, smtp_status_in
from webhooks.providers.times import with_readable_time

FIELD: Final = "mandrill_events"
MAX_FIELDS: Final = 20
# A sign of percent that encodes nothing.
_BARE_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
# The key that all know: it proves nothing, and is good for a request alone that has no events, and nothing else.
CHECK_KEY: Final = "test-webhook"

EVENTS: Final[dict[str, tuple[str, Status | None]]] = {
    "send": ("sent", Status.SENT),
    "deferral": ("deferred", Status.DEFERRED),
    "delivered": ("delivered", Status.DELIVERED),
    "hard_bounce": ("bounced", Status.BOUNCED),
    "soft_bounce": ("bounced", Status.SOFT_BOUNCED),
    "open": ("opened", Status.DELIVERED),
    "click": ("clicked", Status.DELIVERED),
    "spam": ("complained", Status.COMPLAINED),
    "unsub": ("unsubscribed", Status.DELIVERED),
    "reject": ("rejected", Status.REJECTED),
}
# Rejects of those on its denylist, where others are of the mail; why they do not get it.
DENIED: Final[dict[str, str]] = {
    "hard-bounce": "no_mailbox",
    "soft-bounce": "other",
    "spam": "policy",
    "unsub": "policy",
    "custom": "policy",
}
REJECTED: Final[dict[str, str]] = {
    "invalid": "no_mailbox",
    "invalid-sender": "policy",
    "rule": "policy",
    "test-mode-limit": "policy",
    "unsigned": "policy",
}
# The `bounce_description`; where it is another one, the server's words are read.
BOUNCES: Final[dict[str, str]] = {
    "bad_mailbox": "no_mailbox",
    "invalid_domain": "dns",
    "mailbox_full": "mailbox_full",
}


def verify(incoming: Incoming, secrets: Sequence[str]) -> Proof:
    """Check the signature over the pinned URL and the form; any of the secrets will do. Raises `Rejected`."""
    try:
        fields = _fields(incoming)
    except Unreadable as error:
        raise Rejected("the body is not Mandrill's form") from error
    form = "".join(name + fields[name] for name in sorted(fields))
    signed = f"{incoming.url}{form}".encode("utf-8", "surrogatepass")
    given = incoming.headers.get("x-mandrill-signature", "").encode("utf-8", "replace")
    is_check = fields == {FIELD: "[]"} and len(incoming.body) <= LARGEST_CHECK
    keys = [secret for secret in secrets if secret != CHECK_KEY or is_check]
    one_of([given], [base64.b64encode(hmac.digest(key.encode(), signed, "sha1")) for key in keys])
    return Proof()


def _fields(incoming: Incoming) -> dict[str, str]:
    """Return the form. A name that stands twice is refused: what is signed would not tell which one counts."""
    if incoming.body.count(b"&") >= MAX_FIELDS:
        raise Unreadable("too many fields")
    parted = [pair.partition(b"=") for pair in incoming.body.split(b"&")]
    if not all(equals for _, equals, _ in parted):
        raise Unreadable("another form")
    try:
        pairs = [(_decoded(name), _decoded(value)) for name, _, value in parted]
    except ValueError as error:
        raise Unreadable(type(error).__name__) from error
    fields = dict(pairs)
    if len(fields) < len(pairs) or FIELD not in fields:
        raise Unreadable("another form")
    return fields


def _decoded(encoded: bytes) -> str:
    """Return what a form's name or value stands for. Raises `ValueError`.

    `urllib.parse` makes an object of each encoded byte: of 10 MB, sent by anybody, 800 MiB in three seconds. The codec
    of quoted-printable, which differs from a form's in its sign, does the same work in C.
    """
    if _BARE_PERCENT.search(encoded):
        raise ValueError("a sign of percent encodes nothing")
    quoted = encoded.replace(b"+", b" ").replace(b"=", b"=3D").replace(b"%", b"=")
    return binascii.a2b_qp(quoted).decode()


def parts(incoming: Incoming) -> Sequence[Any]:
    """Return the events in the form. Raises `Unreadable`."""
    try:
        events = json.loads(_fields(incoming)[FIELD])
    except (ValueError, RecursionError) as error:
        raise Unreadable(type(error).__name__) from error
    if not isinstance(events, list):
        raise Unreadable("no list of events")
    return events


def _read(view: Any, part: Any, _incoming: Incoming) -> list[AnymailTrackingEvent]:
    if part.get("event") == "inbound":
        raise Unreadable("an inbound mail")
    return [view.mandrill_tracking_to_anymail_event(with_readable_time(part, "ts"))]


def _judge(event: AnymailTrackingEvent) -> Meaning:
    raw = event.esp_event
    message = raw.get("msg") or {}
    event_type, status = EVENTS.get(raw.get("event"), ("unknown", None))
    if event_type == "rejected":
        return _reject(message.get("reject") or {})
    if event_type in ("bounced", "deferred"):
        text = _words(message)
        smtp_status = smtp_status_in(text)
        category = BOUNCES.get(str(message.get("bounce_description"))) or category_of(smtp_status, text)
        return Meaning(event_type, status, category, smtp_status, detail=text or None)
    return Meaning(event_type, status)


def _words(message: Mapping[str, Any]) -> str:
    """Return what the receiving server said; of a delay that stands with the attempts, the last one last."""
    attempts = message.get("smtp_events") or [{}]
    return str(message.get("diag") or attempts[-1].get("diag") or message.get("bounce_description") or "")


def _reject(reject: Mapping[str, Any]) -> Meaning:
    reason = str(reject.get("reason") or "")
    detail = str(reject.get("detail") or reason) or None
    if reason in DENIED:
        return Meaning("suppressed", Status.SUPPRESSED, DENIED[reason], detail=detail)
    return Meaning("rejected", Status.REJECTED, REJECTED.get(reason, "other"), detail=detail)


WEBHOOK = Webhook(
    name="mandrill",
    view="anymail.webhooks.mandrill.MandrillCombinedWebhookView",
    variable="WEBHOOK_SECRET_MANDRILL",
    is_secret=bool,
    looks="the webhook's key",
    verify=verify,
    judge=_judge,
    parts=parts,
    read=_read,
    repeats=timedelta(days=3),
    answers=("HEAD",),
)
