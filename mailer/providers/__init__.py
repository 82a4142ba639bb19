"""What differs by provider, as data."""

from mailer.exceptions import UnknownProvider
from mailer.providers import (
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
    scaleway,
    sendgrid,
    smtp,
    sparkpost,
    unisender_go,
)
from mailer.providers.base import Provider

PROVIDERS: dict[str, Provider] = {
    module.PROVIDER.name: module.PROVIDER
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
        scaleway,
        sendgrid,
        smtp,
        sparkpost,
        unisender_go,
    )
}


def get(name: str) -> Provider:
    """Return a provider by our setting's name for it. Raises `UnknownProvider`."""
    try:
        return PROVIDERS[name]
    except KeyError:
        raise UnknownProvider(f"{name!r} is not one of {', '.join(PROVIDERS)}") from None


__all__ = ["PROVIDERS", "Provider", "get"]
