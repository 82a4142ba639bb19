"""What differs by provider, as data."""

from typing import Final

from webhooks.providers import mailersend, mailgun, mailjet, mandrill, postmark, resend
from webhooks.providers.base import Incoming, Meaning, Proof, Webhook

WEBHOOKS: Final[dict[str, Webhook]] = {
    module.WEBHOOK.name: module.WEBHOOK for module in (mailersend, mailgun, mailjet, mandrill, postmark, resend)
}

__all__ = ["WEBHOOKS", "Incoming", "Meaning", "Proof", "Webhook"]
