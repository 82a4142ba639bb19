"""What differs by provider, as data."""

from mailer.exceptions import UnknownProvider
from mailer.providers import postmark, resend
from mailer.providers.base import Provider

PROVIDERS: dict[str, Provider] = {provider.name: provider for provider in (postmark.PROVIDER, resend.PROVIDER)}


def get(name: str) -> Provider:
    """Return a provider by our setting's name for it. Raises `UnknownProvider`."""
    try:
        return PROVIDERS[name]
    except KeyError:
        raise UnknownProvider(f"{name!r} is not one of {', '.join(PROVIDERS)}") from None


__all__ = ["PROVIDERS", "Provider", "get"]
