"""What differs by provider, as data."""

from collections.abc import Mapping

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


def of_backend(name: str, path: str) -> Provider:
    """Return what is known of a provider that is reached through any backend of Django's: nothing but its path.

    For how long it may be busy with a mail nobody can know: as long as is allowed to SMTP.
    """
    return Provider(name, path, over_http=False, slowest=smtp.PROVIDER.slowest)


def add(backends: Mapping[str, str]) -> None:
    """Know these, too: paths of Django's backends, by the names that our settings have for them."""
    PROVIDERS.update({name: of_backend(name, path) for name, path in backends.items()})


def get(name: str) -> Provider:
    """Return a provider by our setting's name for it. Raises `UnknownProvider`."""
    try:
        return PROVIDERS[name]
    except KeyError:
        raise UnknownProvider(f"{name!r} is not one of {', '.join(PROVIDERS)}") from None


__all__ = ["PROVIDERS", "Provider", "add", "get", "of_backend"]
