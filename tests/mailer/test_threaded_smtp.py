"""SMTP, against servers of this process that take mails, refuse them, or hang up."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from mailer import couriers, letters, sender
from mailer.models import Attempt, Message, ProviderState
from tests.mailer import mailserver
from tests.mailer.conftest import delivery_of, enqueue, read


@pytest.fixture(autouse=True)
def fresh_threads():
    """Have the threads, and the connections they keep, end with the test."""
    letters.backend_at.cache_clear()
    yield
    couriers.close()
    letters.backend_at.cache_clear()


@pytest.fixture
def point(settings):
    """Have mails go to a server at a port."""

    def point(port: int, **fields) -> None:
        settings.MAIL_PROVIDERS = ["smtp"]
        settings.EMAIL_HOST, settings.EMAIL_PORT, settings.EMAIL_USE_TLS = "localhost", port, False
        for name, value in fields.items():
            setattr(settings, name, value)

    return point


@pytest.fixture
def server(point):
    with mailserver.taking() as server:
        point(server.port)
        yield server
        couriers.close()


def send_again() -> None:
    """Drain as if the time to retry had come, and no provider was left alone any more."""
    ProviderState.objects.all().delete()
    Message.objects.filter(state="retry").update(run_at=Now() - timedelta(seconds=1))
    sender.drain()


def test_drain_sends_what_is_due(db, server):
    message = enqueue("Ada@example.com")

    assert sender.drain() == 1

    (mail,) = server.mails
    delivery = delivery_of(message)
    assert (mail.sender, mail.recipients) == ("accounts@example.com", ["Ada@example.com"])
    assert (read(message).state, delivery.status, delivery.provider) == ("sent", "sent", "smtp")
    assert delivery.esp_message_id == mail.message["Message-ID"] == f"<{message.pk}@example.com>"
    assert Attempt.objects.get().outcome == "accepted"
