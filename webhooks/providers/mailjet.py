"""Mailjet.

https://documentation.mailjet.com/hc/en-us/articles/360043578154-Event-Tracking-API: it signs nothing, and can only be
given a user and a password in the address; what was not answered with 200 comes again for up to 24 hours.
https://dev.mailjet.com/email/guides/webhooks/: the events, one alone or a list of those of a second; the errors. An
event has no id. `CustomID` is our message's id, by which a mail is searched too.
"""

from datetime import timedelta
from typing import Any, Final

from anymail.signals import AnymailTrackingEvent

from mailer.status import EVENT_STATUS, Status
from webhooks.providers.base import Incoming, Meaning, Webhook, listed
from webhooks.providers.proofs import basic_auth, is_basic_auth
from webhooks.providers.replies import category_of, smtp_status_in
from webhooks.providers.times import with_readable_time

EVENTS: Final[dict[str, str]] = {
    "sent": "delivered",  # the receiving server has taken it
    "open": "opened",
    "click": "clicked",
    "bounce": "bounced",
    "blocked": "rejected",
    "spam": "complained",
    "unsub": "unsubscribed",
}
# The `error` of bounces and blocks; the server's words are read where it is another one.
ERRORS: Final[dict[str, str]] = {
    "user unknown": "no_mailbox",
    "mailbox inactive": "no_mailbox",
    "quota exceeded": "mailbox_full",
    "blacklisted": "policy",
    "spam reporter": "policy",
    "invalid domain": "dns",
    "typofix": "dns",
    "no mail host": "unreachable",
    "relay/access denied": "policy",
    "greylisted": "policy",
    "bad or empty template": "other",
    "error in template language": "other",
    "sender blocked": "policy",
    "content blocked": "spam",
    "policy issue": "policy",
    "system issue": "unreachable",
    "protocol issue": "unreachable",
    "connection issue": "unreachable",
    "preblocked": "other",
    "duplicate in campaign": "other",
}
# Blocks of an address that it does not mail now; the others are of the mail.
SUPPRESSIONS: Final = frozenset({"blacklisted", "preblocked", "spam reporter"})
# A bounce that it tries again.
TRIED_AGAIN: Final = "greylisted"

# What these are, where they are more than null; Anymail takes them for it unasked.
KINDS: Final[dict[str, tuple[type, ...]]] = {"MessageID": (int, str), "Payload": (str,)}


def _read(view: Any, part: Any, _incoming: Incoming) -> list[AnymailTrackingEvent]:
    timed = with_readable_time(part, "time")
    raw = {key: value for key, value in timed.items() if isinstance(value, KINDS.get(key, (object,)))}
    event = view.esp_to_anymail_event(raw)
    if not event.message_id:
        event.message_id = raw.get("mj_message_id")
    if not (isinstance(event.metadata, dict) and "message_id" in event.metadata):
        event.metadata = {"message_id": raw.get("CustomID")}
    return [event]


def _judge(event: AnymailTrackingEvent) -> Meaning:
    raw = event.esp_event
    event_type = EVENTS.get(raw["event"], "unknown")
    if event_type not in ("bounced", "rejected"):
        return Meaning(event_type, EVENT_STATUS[event_type], detail=raw.get("smtp_reply"))
    error = str(raw.get("error") or "")
    words = str(raw.get("comment") or raw.get("smtp_reply") or "")
    smtp_status = smtp_status_in(words)
    category = ERRORS.get(error) or category_of(smtp_status, words or error)
    if event_type == "bounced":
        event_type, status = _bounce(raw, error, category)
    elif error in SUPPRESSIONS:
        event_type, status = "suppressed", Status.SUPPRESSED
    else:
        status = Status.REJECTED
    return Meaning(event_type, status, category, smtp_status, detail=words or error or None)


def _bounce(raw: dict[str, Any], error: str, category: str) -> tuple[str, Status]:
    hard = raw.get("hard_bounce")
    if hard is None:
        hard = category == "no_mailbox"
    if hard:
        return "bounced", Status.BOUNCED
    return ("deferred", Status.DEFERRED) if error == TRIED_AGAIN else ("bounced", Status.SOFT_BOUNCED)


WEBHOOK = Webhook(
    name="mailjet",
    view="anymail.webhooks.mailjet.MailjetTrackingWebhookView",
    variable="WEBHOOK_SECRET_MAILJET",
    is_secret=is_basic_auth,
    looks="user:password",
    verify=basic_auth,
    judge=_judge,
    parts=listed,
    read=_read,
    repeats=timedelta(hours=25),
)
