"""What differs by provider, as data."""

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

# Every one of the outbound providers but Scaleway and SMTP, which have no webhooks.
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

__all__ = ["WEBHOOKS", "Incoming", "Meaning", "Proof", "Webhook"]
