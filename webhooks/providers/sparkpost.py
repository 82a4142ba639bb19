"""SparkPost.

https://developers.sparkpost.com/api/webhooks/ and https://docs.bird.com/api/email-api/webhooks: batches, each event in
its class; a ping has none. It signs nothing, and can be given a user and a password. What is not answered with 200 is
repeated for 8 hours. One `event_id` may stand for several recipients.
https://support.sparkpost.com/docs/deliverability/bounce-classification-codes: only "hard" is a verdict on the address.
https://support.sparkpost.com/docs/tech-resources/preparing-for-async-suppressions: for an address on its suppression
list there is a bounce of class 25, or there was a rejection, that says so in words only.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from anymail.signals import AnymailTrackingEvent

from mailer.status import EVENT_STATUS, Status
from webhooks.exceptions import Unreadable
from webhooks.providers.base import Incoming, Meaning, Webhook, listed
from webhooks.providers.proofs import basic_auth, is_basic_auth
from webhooks.providers.replies import category_of, smtp_status_in
from webhooks.providers.times import of_epoch

# A bounce's class -> status and category; an empty one is left to the server's reply.
CLASSES: Final[dict[str, tuple[Status, str]]] = {
    "1": (Status.SOFT_BOUNCED, ""),  # undetermined
    "10": (Status.BOUNCED, "no_mailbox"),
    "20": (Status.SOFT_BOUNCED, ""),
    "21": (Status.SOFT_BOUNCED, "dns"),
    "22": (Status.SOFT_BOUNCED, "mailbox_full"),
    "23": (Status.SOFT_BOUNCED, "policy"),  # too large
    "24": (Status.SOFT_BOUNCED, "unreachable"),
    "25": (Status.REJECTED, "policy"),  # by SparkPost's own rules
    "26": (Status.SUPPRESSED, "policy"),
    "30": (Status.BOUNCED, "no_mailbox"),
    "40": (Status.SOFT_BOUNCED, ""),
    "50": (Status.SOFT_BOUNCED, "policy"),
    "51": (Status.SOFT_BOUNCED, "spam"),
    "52": (Status.SOFT_BOUNCED, "spam"),
    "53": (Status.SOFT_BOUNCED, "policy"),
    "54": (Status.SOFT_BOUNCED, "policy"),
    "70": (Status.SOFT_BOUNCED, ""),
}
# The type of an event whose status its class decides.
NAMES: Final[dict[Status, str]] = {
    Status.BOUNCED: "bounced",
    Status.SOFT_BOUNCED: "bounced",
    Status.REJECTED: "rejected",
    Status.SUPPRESSED: "suppressed",
}
# Classes of what came back and is no bounce.
NO_BOUNCES: Final[dict[str, str]] = {
    "60": "autoresponded",
    "80": "subscribed",
    "90": "unsubscribed",
    "100": "autoresponded",  # a challenge
}
# Counted as no open, since an `open` often follows; but who opened the mail has it.
FIRST_OPENS: Final = frozenset({"initial_open", "amp_initial_open"})
REFUSALS: Final = frozenset({"policy_rejection", "generation_rejection"})


def _read(view: Any, part: Any, _incoming: Incoming) -> list[AnymailTrackingEvent]:
    event_class, event, raw = view.unwrap_event(part)
    if event is None:
        return []
    if not isinstance(event, dict) or not isinstance(event.get("rcpt_meta") or {}, dict):
        raise Unreadable("an event is no object")
    known = {name: value for name, value in event.items() if name != "timestamp"}
    if time := of_epoch(event.get("timestamp")):
        known["timestamp"] = time.timestamp()
    return [view.esp_to_anymail_event(event_class, known, raw)]


def _judge(event: AnymailTrackingEvent) -> Meaning:
    [raw] = event.esp_event["msys"].values()
    kind, bounce_class = raw["type"], str(raw.get("bounce_class", ""))
    said = _text(raw, "raw_reason") or _text(raw, "reason")
    smtp_status = smtp_status_in(said)
    if kind in ("bounce", "out_of_band"):
        if bounce_class in NO_BOUNCES:
            event_type = NO_BOUNCES[bounce_class]
            return Meaning(event_type, EVENT_STATUS[event_type])
        status, category = CLASSES.get(bounce_class, (Status.SOFT_BOUNCED, ""))
        if status is Status.REJECTED and _is_suppressed(said):
            status = Status.SUPPRESSED
        return Meaning(NAMES[status], status, category or category_of(smtp_status, said), smtp_status, said or None)
    if kind == "delay":
        _, category = CLASSES.get(bounce_class, (None, ""))
        category = category or category_of(smtp_status, said)
        return Meaning("deferred", Status.DEFERRED, category, smtp_status, said or None)
    if kind in REFUSALS:
        event_type = "suppressed" if _is_suppressed(said) else "rejected"
        return Meaning(event_type, EVENT_STATUS[event_type], "policy", smtp_status, said or None)
    if kind in FIRST_OPENS:
        return Meaning("unknown", Status.DELIVERED)
    return Meaning(event.event_type, EVENT_STATUS.get(event.event_type), smtp_status=smtp_status, detail=said or None)


def _is_suppressed(reason: str) -> bool:
    return "suppress" in reason.casefold()


def _text(raw: Mapping[str, Any], name: str) -> str:
    value = raw.get(name)
    return value if isinstance(value, str) else ""


WEBHOOK = Webhook(
    name="sparkpost",
    view="anymail.webhooks.sparkpost.SparkPostTrackingWebhookView",
    variable="WEBHOOK_SECRET_SPARKPOST",
    is_secret=is_basic_auth,
    looks="user:password",
    verify=basic_auth,
    judge=_judge,
    parts=listed,
    read=_read,
    repeats=timedelta(hours=9),
)
