"""What each provider tells of a mail, in its own words and with its own proof: a module a provider."""

from simulator.reports import (
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
from simulator.reports.base import Happening, Reports, Sending

REPORTS: dict[str, Reports] = {
    module.REPORTS.name: module.REPORTS
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

__all__ = ["REPORTS", "Happening", "Reports", "Sending"]
