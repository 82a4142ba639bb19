"""What differs by provider, as data."""

from typing import Final

from webhooks.providers import amazon_ses, postmark, resend, sendgrid, sparkpost
from webhooks.providers.base import Incoming, Meaning, Proof, Webhook

WEBHOOKS: Final[dict[str, Webhook]] = {
    module.WEBHOOK.name: module.WEBHOOK for module in (amazon_ses, postmark, resend, sendgrid, sparkpost)
}

__all__ = ["WEBHOOKS", "Incoming", "Meaning", "Proof", "Webhook"]
