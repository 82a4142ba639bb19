"""Unisender Go signs in the body: its `auth` is the MD5 of the body that has the API key in the place of `auth`.

https://godocs.unisender.ru/web-api-ref#callback-format (in English as UniOne, https://docs.unione.io/en/web-api-ref):
the key is that of the user or of the project whose webhook it is. With MD5 somebody could lengthen a body without
knowing the key, but not so that it is still JSON. It may send many events at once or one, never compressed unless told
to (`json_post_gzip`); asks the address by GET when it is set; wants 200 within three seconds, and else repeats every
ten minutes for a day.
https://docs.unione.io/en/email-statuses: the statuses. A soft bounce is tried again, and ends as a delivery or a hard
bounce; with `delivery_info` switched on the webhook tells what the server said. To an address that has failed before it
does not send, for days or for months.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final

from anymail.signals import AnymailTrackingEvent

from mailer.status import EVENT_STATUS, Status
from webhooks.exceptions import Rejected, Unreadable
from webhooks.providers.base import Incoming, Meaning, Proof, Webhook
from webhooks.providers.proofs import one_of
from webhooks.providers.replies import undelivered

# Bytes. The page names no limit; its events have some 600, so this is room for 8,000 of them, more than
# WEBHOOK_MAX_EVENTS takes.
LARGEST: Final = 5 * 1024 * 1024

STATUSES: Final[dict[str, str]] = {
    "accepted": "queued",
    "sent": "sent",
    "delivered": "delivered",
    "opened": "opened",
    "clicked": "clicked",
    "unsubscribed": "unsubscribed",
    "subscribed": "subscribed",
    "spam": "complained",
    "soft_bounced": "deferred",
    "hard_bounced": "bounced",
}
_Outcome = tuple[str, Status, str]
_NO_MAILBOX: Final[_Outcome] = ("bounced", Status.BOUNCED, "no_mailbox")
_MAILBOX_FULL: Final[_Outcome] = ("bounced", Status.SOFT_BOUNCED, "mailbox_full")
_SPAM: Final[_Outcome] = ("bounced", Status.BOUNCED, "spam")
_POLICY: Final[_Outcome] = ("bounced", Status.BOUNCED, "policy")
_UNREACHABLE: Final[_Outcome] = ("bounced", Status.SOFT_BOUNCED, "unreachable")
_LOST: Final[_Outcome] = ("failed", Status.FAILED, "other")
# A hard bounce's `delivery_status`; for one that is not here, the server's words count.
BOUNCES: Final[dict[str, _Outcome]] = {
    "err_user_unknown": _NO_MAILBOX,
    "err_user_inactive": _NO_MAILBOX,
    "err_mailbox_discarded": _NO_MAILBOX,
    "err_mailbox_full": _MAILBOX_FULL,
    "skip_dup_mailbox_full": ("suppressed", Status.SUPPRESSED, "mailbox_full"),
    "err_spam_rejected": _SPAM,
    "err_spam_skipped": _SPAM,
    "err_spam_removed": _SPAM,
    "err_blacklisted": _SPAM,
    "err_too_large": _POLICY,
    "err_unreachable": ("bounced", Status.BOUNCED, "unreachable"),  # after failures in the past, for months
    "skip_dup_unreachable": ("suppressed", Status.SUPPRESSED, "unreachable"),
    "skip_dup_temp_unreachable": ("suppressed", Status.SUPPRESSED, "unreachable"),
    "err_skip_letter": ("suppressed", Status.SUPPRESSED, "unreachable"),
    "err_destination_misconfigured": _UNREACHABLE,
    "err_no_smtp": _UNREACHABLE,
    "err_domain_inactive": ("bounced", Status.BOUNCED, "dns"),
    "err_no_dns": ("bounced", Status.BOUNCED, "dns"),
    "err_unsubscribed": ("suppressed", Status.SUPPRESSED, "policy"),
    "err_lost": _LOST,
    "err_internal": _LOST,
}

_AUTH: Final = re.compile(r"[0-9a-f]{32}")


def verify(incoming: Incoming, secrets: Sequence[str]) -> Proof:
    """Check the body's `auth`; any of the secrets will do. Raises `Rejected`."""
    try:
        body = incoming.json()
    except Unreadable:
        raise Rejected("the body is no JSON") from None
    given = body.get("auth") if isinstance(body, dict) else None
    if not isinstance(given, str) or not _AUTH.fullmatch(given):
        raise Rejected("the signature is missing or wrong")
    auth = given.encode()
    one_of([auth], [_digest(incoming.body.replace(auth, secret.encode())) for secret in secrets])
    return Proof()


def _digest(signed: bytes) -> bytes:
    # A system that has no MD5 for secrets (FIPS) has it for this: there is no other.
    return hashlib.md5(signed, usedforsecurity=False).hexdigest().encode()


def _is_secret(secret: str) -> bool:
    return len(secret) >= 16  # noqa: PLR2004  # its own have 40 and more


def _parts(incoming: Incoming) -> Sequence[Any]:
    body = incoming.json()
    if "events_by_user" not in body:
        return [body]
    return [event for user in body["events_by_user"] for event in list(user["events"])]


def _read(view: Any, part: Any, _incoming: Incoming) -> Iterable[AnymailTrackingEvent]:
    if part["event_name"] != "transactional_email_status":
        return []  # a block of one of its own servers
    data = {"email": "", **part.get("event_data", part)}
    for name in ("metadata", "delivery_info"):
        data[name] = data.get(name) or {}
    return [view.esp_to_anymail_event(data)]


def _judge(event: AnymailTrackingEvent) -> Meaning:
    raw, info = event.esp_event, event.esp_event["delivery_info"]
    event_type = STATUSES.get(raw["status"], event.event_type)
    reply = info.get("destination_response") or info.get("delivery_status")
    if event_type == "deferred":
        return undelivered(event_type, Status.DEFERRED, reply)
    if event_type == "bounced":
        kind, status, category = BOUNCES.get(info.get("delivery_status"), (event_type, Status.BOUNCED, ""))
        return undelivered(kind, status, reply, category)
    return Meaning(event_type, EVENT_STATUS.get(event_type))


WEBHOOK = Webhook(
    name="unisender_go",
    view="anymail.webhooks.unisender_go.UnisenderGoTrackingWebhookView",
    variable="WEBHOOK_SECRET_UNISENDER_GO",
    is_secret=_is_secret,
    looks="the API key of the user or project that the webhook is of",
    verify=verify,
    judge=_judge,
    parts=_parts,
    read=_read,
    repeats=timedelta(days=1),
    answers=("GET", "HEAD"),
    largest=LARGEST,
)
