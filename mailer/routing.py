"""Which provider a message goes through."""

from django.conf import settings

from mailer import providers
from mailer.models import Message
from mailer.providers import Provider


def choose(message: Message) -> Provider:
    """Return the provider a message is pinned to, or the one preferred now.

    A message stays with the provider of its first intent: only that one can tell a repeat from a second mail.
    Raises `UnknownProvider` where this release no longer knows it.
    """
    # Not every provider can take every mail that came through `EMAIL_BACKEND`.
    preferred: str = message.context.get("providers", settings.MAIL_PROVIDERS)[0]
    return providers.get(message.provider or preferred)
