"""Anymail's backends and payloads, set up for one provider."""

import pytest
from anymail.utils import UNSET
from django.core.mail import get_connection

from mailer import content
from mailer.models import Message


class Settings(dict):
    """Anymail's settings, which remember what was asked of them."""

    def __init__(self, values):
        super().__init__(values)
        self.asked = set()

    def __getitem__(self, name):
        self.asked.add(name)
        return super().__getitem__(name)


@pytest.fixture
def configure(settings):
    """Give Anymail all that a provider needs, and nothing else."""

    def configure(provider, without=""):
        values = {name: "https://api.example.com/v1" if name.endswith("_URL") else "value" for name in provider.needs}
        values.pop(without, None)
        settings.ANYMAIL = Settings({**provider.fixed, **values})
        return settings.ANYMAIL

    return configure


def email_to(provider, recipient="ada@example.com"):
    message = Message(
        kind="welcome",
        correlation_id="c",
        content={"subject": "Hi", "text": "t", "html": "<p>h</p>", "from_email": "Me <me@example.org>"},
    )
    email = content.thaw(message, [recipient])
    for name in provider.lacks:
        setattr(email, name, UNSET)
    return message, email


@pytest.fixture
def build(configure):
    """Build the payload for a message, marked with its id as the provider wants it."""

    def build(provider, recipient="ada@example.com"):
        configure(provider)
        backend = get_connection(provider.backend)
        message, email = email_to(provider, recipient)
        payload = backend.build_message_payload(email, backend.send_defaults)
        for place in filter(None, (provider.key, provider.search)):
            place.mark(payload, str(message.pk))
        return message, email, backend, payload

    return build
