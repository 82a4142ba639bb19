"""Postmark.

https://postmarkapp.com/developer/webhooks/webhooks-overview, "Protecting your webhook": it signs nothing, and can only
be given a user and a password in the webhook's URL. It repeats for some six hours.
https://postmarkapp.com/developer/api/bounce-api#bounce-types.
https://postmarkapp.com/developer/webhooks/smtp-api-error: the type of what went to a suppressed recipient over SMTP and
was never sent; over the API the answer says so.
"""

from datetime import timedelta
from typing import Final

from anymail.signals import AnymailTrackingEvent

from mailer.status import EVENT_STATUS, Status
from webhooks.providers.base import Meaning, Webhook
from webhooks.providers.proofs import basic_auth, is_basic_auth
from webhooks.providers.replies import undelivered

# Of each type that tells of a mail that did not arrive: the status where Anymail says `bounced`, and the category where
# the type says it. The others leave it to the server's words.
BOUNCES: Final[dict[str, tuple[Status | None, str]]] = {
    "HardBounce": (Status.BOUNCED, ""),
    "Transient": (None, ""),
    "DnsError": (None, "dns"),
    "OpenRelayTest": (None, "policy"),
    "SoftBounce": (Status.SOFT_BOUNCED, ""),
    "VirusNotification": (Status.BOUNCED, "policy"),
    "BadEmailAddress": (None, "no_mailbox"),
    "ManuallyDeactivated": (None, "policy"),
    "Unconfirmed": (None, "policy"),
    "Blocked": (None, ""),
    "DMARCPolicy": (None, "policy"),
    "TemplateRenderingFailed": (None, ""),
}
# The type of what Postmark never tried.
SUPPRESSED: Final = "SMTPApiError"


def _judge(event: AnymailTrackingEvent) -> Meaning:
    raw = event.esp_event.get("Type") or event.esp_event.get("SuppressionReason") or ""
    event_type, status = event.event_type, EVENT_STATUS.get(event.event_type)
    if event_type == "unsubscribed" and event.esp_event.get("Origin", "Recipient") != "Recipient":
        return Meaning(event_type, None)  # an operator's doing, which says nothing of the mail
    reply = event.esp_event.get("Details") or event.esp_event.get("Description")
    if raw == SUPPRESSED:
        return undelivered("suppressed", Status.SUPPRESSED, reply, "other")
    if status is not None and (raw in BOUNCES or event_type == "bounced"):
        told, category = BOUNCES.get(raw, (None, ""))
        return undelivered(event_type, told or status, reply, category)
    return Meaning(event_type, status)


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
