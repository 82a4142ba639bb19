"""What differs by provider, as data."""

from typing import Final

from webhooks.providers import brevo, mailtrap, postal, postmark, resend, unisender_go
from webhooks.providers.base import Incoming, Meaning, Proof, Webhook

WEBHOOKS: Final[dict[str, Webhook]] = {
    module.WEBHOOK.name: module.WEBHOOK for module in (brevo, mailtrap, postal, postmark, resend, unisender_go)
}

__all__ = ["WEBHOOKS", "Incoming", "Meaning", "Proof", "Webhook"]
