"""How providers are asked what became of a mail, as data."""

from typing import Final

from webhooks.polls import brevo, mailgun, mailjet, mandrill, postmark, resend, sendgrid, sparkpost
from webhooks.polls.base import Poll, Story

POLLS: Final[dict[str, Poll]] = {
    module.POLL.name: module.POLL
    for module in (brevo, mailgun, mailjet, mandrill, postmark, resend, sendgrid, sparkpost)
}

# Why the others are not asked.
NOT_ASKED: Final[dict[str, str]] = {
    "amazon_ses": "its message insights are of the Virtual Deliverability Manager, which is sold apart",
    "mailersend": "a message shows its mails without saying whose each is",
    "mailtrap": "no page of its sending API shows a mail's events by its id",
    "postal": "its numbers of mails are of one server, and the API that knows them is called legacy",
    "scaleway": "it shows whether its own server has sent a mail, not what became of it",
    "smtp": "there is nobody to ask",
    "unisender_go": "it writes events to a file that is made on request, within minutes",
}

__all__ = ["NOT_ASKED", "POLLS", "Poll", "Story"]
