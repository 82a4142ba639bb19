"""What differs by provider, as data."""

from datetime import timedelta
from typing import Final

from webhooks.providers import (
    amazon_ses,
    brevo,
    mailersend,
    mailgun,
    mailjet,
    mailtrap,
    mandrill,
    postal,
    postmark,
    resend,
    sendgrid,
    sparkpost,
    unisender_go,
)
from webhooks.providers.base import Incoming, Meaning, Proof, Webhook

# Every one of the outbound providers but SMTP and Scaleway. What Scaleway calls webhooks goes through a message service
# (https://www.scaleway.com/en/docs/transactional-email/how-to/create-webhooks/), and Anymail has no view for it.
WEBHOOKS: Final[dict[str, Webhook]] = {
    module.WEBHOOK.name: module.WEBHOOK
    for module in (
        amazon_ses,
        brevo,
        mailersend,
        mailgun,
        mailjet,
        mailtrap,
        mandrill,
        postal,
        postmark,
        resend,
        sendgrid,
        sparkpost,
        unisender_go,
    )
}

# Days for which an event is known when it comes again, at the least: twice as long as any provider repeats.
KEY_DAYS: Final = 2 * max(webhook.repeats for webhook in WEBHOOKS.values()) / timedelta(days=1)
# The same of a request that came under a name: twice as long as its signature is taken.
NONCE_DAYS: Final = 2 * timedelta(seconds=mailgun.TOLERANCE) / timedelta(days=1)

__all__ = ["KEY_DAYS", "NONCE_DAYS", "WEBHOOKS", "Incoming", "Meaning", "Proof", "Webhook"]
