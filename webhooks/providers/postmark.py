"""Postmark.

https://postmarkapp.com/developer/webhooks/webhooks-overview, "Protecting your webhook": it signs nothing, and can only
be given a user and a password in the webhook's URL. It repeats for some six hours.
https://postmarkapp.com/developer/api/bounce-api#bounce-types.
"""

from datetime import timedelta
from typing import Final

from anymail.signals import AnymailTrackingEvent

from mailer.status import EVENT_STATUS, Status
from webhooks.providers.base import Meaning, Webhook
from webhooks.providers.proofs import basic_auth, is_basic_auth

# Where Anymail says `bounced`.
BOUNCES: Final[dict[str, Status]] = {
    "HardBounce": Status.BOUNCED,
    "SoftBounce": Status.SOFT_BOUNCED,
    "VirusNotification": Status.BOUNCED,
}


def _judge(event: AnymailTrackingEvent) -> Meaning:
    if event.event_type == "bounced":
        raw = event.esp_event.get("Type") or event.esp_event.get("SuppressionReason") or ""
        return Meaning(event.event_type, BOUNCES.get(raw, Status.BOUNCED))
    if event.event_type == "unsubscribed" and event.esp_event.get("Origin", "Recipient") != "Recipient":
        return Meaning(event.event_type, None)  # an operator's doing, which says nothing of the mail
    return Meaning(event.event_type, EVENT_STATUS.get(event.event_type))


WEBHOOK = Webhook(
    name="postmark",
    view="anymail.webhooks.postmark.PostmarkTrackingWebhookView",
    variable="WEBHOOK_SECRET_POSTMARK",
    is_secret=is_basic_auth,
    looks="user:password",
    verify=basic_auth,
    judge=_judge,
    repeats=timedelta(hours=7),
)
