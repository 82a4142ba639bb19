"""Amazon SES, which reports through a topic of Amazon SNS.

https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html and
https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html: one event may be about several recipients, each
with an outcome of its own, and be of a time before SNS'; who of several opened a mail it does not say.
https://docs.aws.amazon.com/sns/latest/dg/sns-message-delivery-retries.html: it is repeated for an hour at most, under
the same id, and not after a 4xx.

What proves a request is Amazon's own signature (`webhooks.providers.sns`), and that its topic is one of ours.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from anymail.signals import AnymailTrackingEvent
from django.utils.module_loading import import_string

from mailer.status import EVENT_STATUS, Status
from webhooks.exceptions import Unreadable
from webhooks.providers.base import Incoming, Meaning, Proof, Webhook
from webhooks.providers.replies import category_of, smtp_status_in
from webhooks.providers.times import of_iso

# Bytes. https://docs.aws.amazon.com/sns/latest/dg/large-message-payloads.html: a topic takes 256 KiB, and more only if
# it has no subscriber over HTTP. As a text within JSON a message grows threefold at most; the other fields are small.
LARGEST: Final = 1024 * 1024

TOPIC: Final = re.compile(r"arn:aws[a-z-]*:sns:[a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}:[0-9]{12}:[A-Za-z0-9_-]{1,256}")

# SES tries a topic with these; they are about no mail.
VALIDATED: Final = "Successfully validated SNS topic for Amazon SES event publishing."
TRIED: Final = "AmazonSnsSubscriptionSucceeded"

# Type of event -> the object about it.
OBJECTS: Final[dict[str, str]] = {
    "Bounce": "bounce",
    "Complaint": "complaint",
    "Delivery": "delivery",
    "DeliveryDelay": "deliveryDelay",
    "Send": "send",
    "Reject": "reject",
    "Open": "open",
    "Click": "click",
    "Rendering Failure": "failure",
    "Subscription": "subscription",
}
# Type of event -> the list of its recipients in that object; of other types all the mail's are concerned.
RECIPIENTS: Final[dict[str, str]] = {
    "Bounce": "bouncedRecipients",
    "Complaint": "complainedRecipients",
    "Delivery": "recipients",
    "DeliveryDelay": "delayedRecipients",
}
# Of these one recipient is the cause, unknown which.
ANONYMOUS: Final = frozenset({"Open", "Click"})

# `bounceType`, and what it means.
BOUNCES: Final[dict[str, Status]] = {
    "Permanent": Status.BOUNCED,
    "Transient": Status.SOFT_BOUNCED,
    "Undetermined": Status.SOFT_BOUNCED,
}
# `bounceSubType`; "General" and "CustomTimeoutExceeded" leave it to the server's reply.
BOUNCE_CATEGORIES: Final[dict[str, str]] = {
    "NoEmail": "no_mailbox",
    "MailboxFull": "mailbox_full",
    "MessageTooLarge": "policy",
    "ContentRejected": "policy",
    "AttachmentRejected": "policy",
}
# Subtypes of what SES never tried, and why.
SUPPRESSIONS: Final[dict[str, str]] = {
    "Suppressed": "no_mailbox",
    "OnAccountSuppressionList": "other",
    "OnTenantSuppressionList": "other",
    "EmailValidationSuppressed": "no_mailbox",
    "UnsubscribedRecipient": "policy",
}
# `action` of one recipient in a report of delivery (RFC 3464) that is no failure.
ACTIONS: Final[dict[str, str]] = {
    "delayed": "deferred",
    "delivered": "delivered",
    "relayed": "sent",
    "expanded": "sent",
}
# `delayType`; others leave it to the server's reply.
DELAYS: Final[dict[str, str]] = {
    "InternalFailure": "other",
    "MailboxFull": "mailbox_full",
    "SpamDetected": "spam",
    "RecipientServerError": "unreachable",
    "IPFailure": "policy",
    "TransientCommunicationFailure": "unreachable",
    "BYOIPHostNameLookupUnavailable": "dns",
    "SendingDeferral": "policy",
}


def verify(incoming: Incoming, secrets: Sequence[str]) -> Proof:
    """Check Amazon's signature and the topic, one of the secrets; confirm a subscription to it.

    Raises `Rejected`, and `Unavailable` where Amazon cannot be reached.
    """
    proof: Proof = import_string("webhooks.providers.sns.verify")(incoming, secrets)
    return proof


def _parts(incoming: Incoming) -> list[tuple[dict[str, Any], Any]]:
    message = incoming.json()
    if message["Type"] != "Notification" or message["Message"] == VALIDATED:
        return []
    event = json.loads(message["Message"])
    if not isinstance(event, dict):
        raise Unreadable("an event is no object")
    if _kind(event) == TRIED:
        return []
    return [(alone, message) for alone in _by_recipient(event)]


def _kind(event: Mapping[str, Any]) -> Any:
    return event.get("eventType") or event.get("notificationType")


def _by_recipient(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return an event about several recipients as one about each."""
    kind, mail = _kind(event), event.get("mail") or {}
    if kind in RECIPIENTS:
        name, about = OBJECTS[kind], event[OBJECTS[kind]]
        for entry in _listed(about[RECIPIENTS[kind]]):
            address = entry.get("emailAddress") if isinstance(entry, dict) else entry
            yield {
                **event,
                "mail": {**mail, "destination": [address]},
                name: {
                    **about,
                    RECIPIENTS[kind]: [{"emailAddress": None, **entry} if isinstance(entry, dict) else entry],
                },
            }
        return
    addresses = _listed(mail.get("destination") or [None])
    for address in [None] if kind in ANONYMOUS and len(addresses) > 1 else addresses:
        yield {**event, "mail": {**mail, "destination": [address]}}


def _listed(recipients: Any) -> list[Any]:
    """Return recipients. Raises `Unreadable` for what is no list: each letter of a text would be one."""
    if not isinstance(recipients, list):
        raise Unreadable("recipients are no list")
    return recipients


def _read(view: Any, part: Any, _incoming: Incoming) -> list[AnymailTrackingEvent]:
    return list(view.esp_to_anymail_events(*part))


def _judge(event: AnymailTrackingEvent) -> Meaning:
    raw = event.esp_event
    kind = _kind(raw)
    about = raw.get(OBJECTS.get(kind, "")) or {}
    judge = JUDGES.get(kind)
    meaning = judge(about) if judge else Meaning(event.event_type, EVENT_STATUS.get(event.event_type))
    return replace(meaning, occurred_at=_time(about, raw))


def _time(about: Mapping[str, Any], raw: Mapping[str, Any]) -> datetime | None:
    return of_iso(about.get("timestamp")) or of_iso((raw.get("mail") or {}).get("timestamp"))


def _bounce(bounce: Mapping[str, Any]) -> Meaning:
    [recipient] = bounce["bouncedRecipients"]
    reply, subtype = _text(recipient, "diagnosticCode"), _text(bounce, "bounceSubType")
    smtp_status = smtp_status_in(_text(recipient, "status")) or smtp_status_in(reply)
    if action := ACTIONS.get(_text(recipient, "action").casefold()):
        return Meaning(action, EVENT_STATUS[action], category_of(smtp_status, reply), smtp_status)
    if subtype in SUPPRESSIONS:
        return Meaning("suppressed", Status.SUPPRESSED, SUPPRESSIONS[subtype], smtp_status)
    status = BOUNCES.get(_text(bounce, "bounceType"), Status.SOFT_BOUNCED)
    category = BOUNCE_CATEGORIES.get(subtype) or category_of(smtp_status, reply)
    return Meaning("bounced", status, category, smtp_status)


def _complaint(complaint: Mapping[str, Any]) -> Meaning:
    if complaint.get("complaintSubType") in SUPPRESSIONS:
        return Meaning("suppressed", Status.SUPPRESSED, "other")
    if complaint.get("complaintFeedbackType") == "not-spam":
        return Meaning("unknown", Status.DELIVERED)  # a complaint that is taken back
    return Meaning("complained", Status.COMPLAINED)


def _delay(delay: Mapping[str, Any]) -> Meaning:
    [recipient] = delay["delayedRecipients"]
    reply, delay_type = _text(recipient, "diagnosticCode"), _text(delay, "delayType")
    smtp_status = smtp_status_in(_text(recipient, "status")) or smtp_status_in(reply)
    category = DELAYS.get(delay_type) or category_of(smtp_status, reply)
    return Meaning("deferred", Status.DEFERRED, category, smtp_status, detail=reply or delay_type)


def _delivery(delivery: Mapping[str, Any]) -> Meaning:
    return Meaning("delivered", Status.DELIVERED, smtp_status=smtp_status_in(_text(delivery, "smtpResponse")))


def _reject(_reject: Mapping[str, Any]) -> Meaning:
    return Meaning("rejected", Status.REJECTED, "policy")  # a virus, says the page


def _subscription(subscription: Mapping[str, Any]) -> Meaning:
    now = subscription.get("newTopicPreferences") or {}
    topics = now.get("topicSubscriptionStatus") or []
    left = now.get("unsubscribeAll") or any(topic["subscriptionStatus"] == "OptOut" for topic in topics)
    event_type = "unsubscribed" if left else "subscribed"
    return Meaning(event_type, EVENT_STATUS[event_type])


def _text(raw: Mapping[str, Any], name: str) -> str:
    value = raw.get(name)
    return value if isinstance(value, str) else ""


JUDGES: Final[dict[Any, Callable[[Mapping[str, Any]], Meaning]]] = {
    "Bounce": _bounce,
    "Complaint": _complaint,
    "Delivery": _delivery,
    "DeliveryDelay": _delay,
    "Reject": _reject,
    "Subscription": _subscription,
}

WEBHOOK = Webhook(
    name="amazon_ses",
    view="anymail.webhooks.amazon_ses.AmazonSESTrackingWebhookView",
    variable="WEBHOOK_TOPICS_AMAZON_SES",
    is_secret=lambda topic: bool(TOPIC.fullmatch(topic)),
    looks="the topics' ARNs, arn:aws:sns:...",
    verify=verify,
    judge=_judge,
    parts=_parts,
    read=_read,
    repeats=timedelta(hours=2),
    fetches=True,
    largest=LARGEST,
)
