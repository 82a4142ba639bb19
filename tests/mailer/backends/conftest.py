"""Mails as any code of Django's makes them, and the messages that they become."""

import pytest
from anymail.message import AnymailMessage
from django.core.mail import (
    EmailMessage,
    EmailMultiAlternatives,
)

from mailer.models import DeliveryStatus, Message

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


BACKEND = "mailer.backends.OutboxBackend"


@pytest.fixture(autouse=True)
def backend(settings):
    """Use the project's own: Django's test runner puts another one in its place."""
    settings.EMAIL_BACKEND = BACKEND


def mail(**fields) -> EmailMessage:
    return EmailMultiAlternatives(
        **{"subject": "Hello", "body": "Good day.", "from_email": "x@example.com", "to": ["ada@example.com"]} | fields
    )


def queued(email: EmailMessage) -> Message:
    before = set(Message.objects.values_list("pk", flat=True))
    assert email.send() == 1
    return Message.objects.exclude(pk__in=before).get()


def recipients_of(message: Message) -> list[str]:
    return [*DeliveryStatus.objects.filter(message=message).order_by("id").values_list("recipient", flat=True)]


def templated() -> EmailMessage:
    return AnymailMessage("", "", None, ["ada@example.com"], template_id="hello")


def with_options(options) -> EmailMessage:
    email = mail()
    email.outbox = options
    return email
