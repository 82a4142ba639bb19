"""Mailgun.

https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/securing-webhooks: HMAC-SHA256 in hex over time and
token, keyed with the webhook signing key; of a subaccount's events there is a second one, by the primary account's key.
It does not cover the event, so a token may come with one body only.
https://help.mailgun.com/hc/en-us/articles/202236504-Webhooks: what was not answered with 200 comes again for 8 hours (a
`delivered` does not), what was answered with 406 never.
https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads and .../events/event-types: one
event a request, whose `id` is unique within a day.
https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/stats: the reasons of failures.
https://help.mailgun.com/hc/en-us/articles/14048832145051-Legacy-Webhooks: forms instead of JSON, which ended in 2023,
are refused.
"""

import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, timedelta
from typing import Any, Final

from anymail.signals import AnymailTrackingEvent

from mailer.status import EVENT_STATUS, Status
from webhooks.exceptions import Rejected, Unreadable
from webhooks.providers.base import Incoming, Meaning, Proof, Webhook
from webhooks.providers.proofs import fresh, one_of
from webhooks.providers.replies import category_of, smtp_status_in
from webhooks.providers.times import with_readable_time

# Bytes. The page on payloads names no limit; it has one event in 1 to 3 kB, four of the mail's headers among it, and
# what we add as metadata is one id. The rest is room.
LARGEST: Final = 1024 * 1024
TOLERANCE: Final = 9 * 60 * 60  # seconds; it repeats for 8 hours and 5 minutes

SIGNATURES: Final = ("signature", "parent-signature")

EVENTS: Final[dict[str, str]] = {
    "accepted": "queued",
    "rejected": "rejected",
    "delivered": "delivered",
    "opened": "opened",
    "clicked": "clicked",
    "unsubscribed": "unsubscribed",
    "complained": "complained",
}
# Failures where Mailgun did not try, by `reason`, and by the code that stands for it in older events. Its bounces are
# mailboxes that do not exist: https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/bounces.
SUPPRESSIONS: Final[dict[str, str]] = {
    "suppress-bounce": "no_mailbox",
    "suppress-complaint": "policy",
    "suppress-unsubscribe": "policy",
    "605": "no_mailbox",
    "606": "policy",
    "607": "policy",
}
# What a `reason` says where the receiving server's words say nothing.
REASONS: Final[dict[str, str]] = {"espblock": "policy", "greylisted": "policy", "old": "unreachable"}
# Failures that are for good, and yet say nothing of the next mail: it was tried for too long.
GIVEN_UP: Final = "old"
BOUNCES: Final[dict[str, Status]] = {"hard": Status.BOUNCED, "soft": Status.SOFT_BOUNCED}


def verify(incoming: Incoming, secrets: Sequence[str]) -> Proof:
    """Check signature and freshness; any of the secrets will do. Raises `Rejected`."""
    block = _signature(incoming)
    timestamp, token = str(block.get("timestamp", "")), block.get("token")
    fresh(timestamp, TOLERANCE)
    if not isinstance(token, str) or not token.isascii() or not token:
        raise Rejected("the signature is missing or wrong")
    signed = f"{timestamp}{token}".encode()
    given = [str(block.get(name, "")).encode("utf-8", "replace") for name in SIGNATURES]
    one_of(given, [hmac.digest(secret.encode(), signed, "sha256").hex().encode() for secret in secrets])
    # Not the token alone: nothing parts it from the time in what is signed.
    return Proof(nonce=signed.decode())


def _signature(incoming: Incoming) -> Mapping[str, Any]:
    try:
        body = incoming.json()
    except Unreadable as error:
        raise Rejected("the body is not JSON") from error
    block = body.get("signature") if isinstance(body, dict) else None
    if not isinstance(block, dict):
        raise Rejected("the signature is missing or wrong")
    return block


def _read(view: Any, part: Any, _incoming: Incoming) -> list[AnymailTrackingEvent]:
    return [view.esp_to_anymail_event({**part, "event-data": with_readable_time(part["event-data"], "timestamp")})]


def _judge(event: AnymailTrackingEvent) -> Meaning:
    data = event.esp_event["event-data"]
    kind = data["event"]
    if kind == "failed":
        return _failure(event, data)
    event_type = EVENTS.get(kind, "unknown")
    category = category_of("", event.description or "") if event_type == "rejected" else ""
    return Meaning(event_type, EVENT_STATUS[event_type], category=category, event_id=_event_id(event, data))


def _failure(event: AnymailTrackingEvent, data: Mapping[str, Any]) -> Meaning:
    report = data.get("delivery-status") or {}
    text = str(report.get("message") or report.get("description") or "")
    reason, code = str(data.get("reason", "")), str(report.get("code", ""))
    smtp_status = smtp_status_in(str(report.get("enhanced-code") or "")) or smtp_status_in(text)
    category = category_of(smtp_status, text)
    if category in ("", "other"):
        category = REASONS.get(reason, category)
    suppressed = SUPPRESSIONS.get(reason) or SUPPRESSIONS.get(code)
    event_type, status = "bounced", BOUNCES.get(str(report.get("bounce-type")))
    if data.get("severity") == "temporary":
        event_type, status = "deferred", Status.DEFERRED
    elif suppressed:
        event_type, status, category = "suppressed", Status.SUPPRESSED, suppressed
    elif status is None:
        passes = reason == GIVEN_UP or category == "mailbox_full" or (smtp_status or code).startswith("4")
        status = Status.SOFT_BOUNCED if passes else Status.BOUNCED
    return Meaning(event_type, status, category, smtp_status, event_id=_event_id(event, data))


def _event_id(event: AnymailTrackingEvent, data: Mapping[str, Any]) -> str | None:
    """Return what tells an event from all others, also where two webhooks or the events API tell of it."""
    identifier = data.get("id")
    if not identifier or event.timestamp is None:
        return None  # Anymail's is the token of the request
    return f"{event.timestamp.astimezone(UTC):%Y-%m-%d}:{identifier}"


WEBHOOK = Webhook(
    name="mailgun",
    view="anymail.webhooks.mailgun.MailgunTrackingWebhookView",
    variable="WEBHOOK_SECRET_MAILGUN",
    is_secret=bool,
    looks="the webhook signing key",
    verify=verify,
    judge=_judge,
    read=_read,
    repeats=timedelta(hours=9),
    largest=LARGEST,
)
