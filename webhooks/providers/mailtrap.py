"""Mailtrap signs the body: HMAC-SHA256 in hex, in the header `Mailtrap-Signature`, with the webhook's signing secret.

https://docs.mailtrap.io/email-api-smtp/advanced/webhooks: up to 500 events at once, in JSON or a line each; 40 repeats,
five minutes apart. There is no time in the signature.
https://docs.mailtrap.io/email-api-smtp/analytics/statuses-and-events: a soft bounce is tried again, ten times.
https://docs.mailtrap.io/email-api-smtp/deliverability/bounce-categorization: the categories.
https://help.mailtrap.io/article/95-suppressions-list: what goes to an address on that list is rejected before it is
sent; which of the two reasons a reject has, it says in words only.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final

from anymail.signals import AnymailTrackingEvent

from mailer.status import EVENT_STATUS, Status
from webhooks.exceptions import Unreadable
from webhooks.providers.base import Incoming, Meaning, Proof, Webhook
from webhooks.providers.proofs import one_of
from webhooks.providers.replies import undelivered

# A mail that did not arrive, or not yet: its event's type, the status, and the category where the type says it.
FAILURES: Final[dict[str, tuple[str, Status, str]]] = {
    "bounce": ("bounced", Status.BOUNCED, ""),
    "soft bounce": ("deferred", Status.DEFERRED, ""),
    "suspension": ("deferred", Status.DEFERRED, "policy"),  # the sender's domain is not verified
    "reject": ("rejected", Status.REJECTED, "policy"),  # nor was it later, or the recipient is on a suppression list
}
# `bounce_category`. The others leave it to the server's words.
CATEGORIES: Final[dict[str, str]] = {
    "badrecipient": "no_mailbox",
    "badsender": "policy",
    "block": "policy",
    "content": "spam",
    "dnsFail": "dns",
    "greylisting": "policy",
    "overquota": "mailbox_full",
    "relayfail": "policy",
    "serverfail": "unreachable",
    "serverpolicy": "policy",
    "spam": "spam",
    "spam_gmail": "policy",
    "timeout": "unreachable",
}
# Of those, and of the others, what says nothing against the address even where it is given up.
PASSING: Final = frozenset({"greylisting", "overquota", "serverfail", "timeout", "transientfail"})
# In the reason of a reject, where it is for the recipient.
SUPPRESSED: Final = "suppress"


def verify(incoming: Incoming, secrets: Sequence[str]) -> Proof:
    """Check the signature; any of the secrets will do. Raises `Rejected`."""
    given = incoming.headers.get("mailtrap-signature", "").encode("utf-8", "replace")
    one_of(
        [given], [hmac.new(secret.encode(), incoming.body, hashlib.sha256).hexdigest().encode() for secret in secrets]
    )
    return Proof()


def _is_secret(secret: str) -> bool:
    return len(secret) >= 16  # noqa: PLR2004  # its own have 32


def _parts(incoming: Incoming) -> Sequence[Any]:
    try:
        body = incoming.json()
    except Unreadable:
        lines = [line for line in incoming.body.splitlines() if line.strip()]
        if len(lines) < 2:  # noqa: PLR2004  # one line would have been read
            raise
        return [_line(line) for line in lines]
    if not isinstance(body, dict):
        raise Unreadable("neither events nor one of them")
    events = body.get("events", [body])
    if not isinstance(events, list):
        raise Unreadable("no list of events")
    return events


def _line(line: bytes) -> Any:
    """Return an event, or None, which no event is: so this line harms no other."""
    try:
        return json.loads(line)
    except (RecursionError, ValueError):
        return None


def _read(view: Any, part: Any, _incoming: Incoming) -> Iterable[AnymailTrackingEvent]:
    if part["event"].startswith("activity_log."):
        return []  # what people did in the account
    event = view.esp_to_anymail_event({"timestamp": 0, "message_id": None, **part})
    if "timestamp" not in part:
        event.timestamp = None
    return [event]


def _judge(event: AnymailTrackingEvent) -> Meaning:
    raw = event.esp_event
    if failure := FAILURES.get(raw["event"]):
        event_type, status, category = failure
        kind, said = raw.get("bounce_category"), raw.get("response") or raw.get("reason")
        if event_type == "rejected" and SUPPRESSED in str(said).casefold():
            return undelivered("suppressed", Status.SUPPRESSED, said, "other")
        if status is Status.BOUNCED and kind in PASSING:
            status = Status.SOFT_BOUNCED
        return undelivered(event_type, status, said, category or CATEGORIES.get(kind, ""))
    return Meaning(event.event_type, EVENT_STATUS.get(event.event_type))


WEBHOOK = Webhook(
    name="mailtrap",
    view="anymail.webhooks.mailtrap.MailtrapTrackingWebhookView",
    variable="WEBHOOK_SECRET_MAILTRAP",
    is_secret=_is_secret,
    looks="the webhook's signing secret",
    verify=verify,
    judge=_judge,
    parts=_parts,
    read=_read,
    repeats=timedelta(hours=4),
)
