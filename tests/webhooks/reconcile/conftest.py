"""Mails of which no webhook told, and providers that are asked about them."""

from datetime import timedelta

import pytest
from django.db.models import F

from mailer import couriers, letters, sender
from mailer.models import DeliveryEvent, DeliveryStatus
from tests.mailer import tiny
from tests.mailer.conftest import ask, delivery_of, enqueue
from webhooks.models import Inquiry

pytestmark = pytest.mark.django_db


MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def fresh_courier():
    letters.backend_at.cache_clear()
    yield
    couriers.close()
    letters.backend_at.cache_clear()


def age(minutes, **which):
    """Let so many minutes have passed since deliveries were sent, and since anybody asked."""
    past = timedelta(minutes=minutes)
    DeliveryStatus.objects.filter(**which).update(
        sent_at=F("sent_at") - past, status_at=F("status_at") - past, inquire_at=F("inquire_at") - past
    )
    Inquiry.objects.update(silent_until=F("silent_until") - past, refilled_at=F("refilled_at") - past)


@pytest.fixture
def sent(simulator, settings):
    """Send mails through a provider's simulator, of which no webhook tells."""

    def sent(provider, *recipients):
        settings.MAIL_PROVIDERS = [provider]
        messages = [enqueue(recipient) for recipient in recipients]
        sender.drain()
        deliveries = [delivery_of(message) for message in messages]
        assert {delivery.status for delivery in deliveries} == {"sent"}
        return deliveries

    return sent


def events_of(delivery):
    return list(
        DeliveryEvent.objects.filter(delivery=delivery).exclude(source="sender").values_list("event_type", "source")
    )


def due_in(delivery):
    """Return in how many seconds a delivery is asked about; None where it is not."""
    if DeliveryStatus.objects.get(pk=delivery.pk).inquire_at is None:
        return None
    return ask(
        "SELECT extract(epoch FROM inquire_at - now()) FROM mailer_deliverystatus WHERE id = %s", str(delivery.pk)
    )


@pytest.fixture
def answering(settings):
    """Have both providers asked at a server that answers as a test says."""
    servers = []

    def answering(status, body=b"{}", **headers):
        server = tiny.serving(lambda: (status, {name.replace("_", "-"): v for name, v in headers.items()}, body))
        servers.append(server)
        it = server.__enter__()
        settings.ANYMAIL = {**settings.ANYMAIL, "POSTMARK_API_URL": f"{it.url}/", "RESEND_API_URL": f"{it.url}/"}
        letters.backend_at.cache_clear()
        return it

    yield answering
    couriers.close()
    for server in servers:
        server.__exit__(None, None, None)


def silence():
    return ask("SELECT coalesce(extract(epoch FROM silent_until - now()), 0) FROM webhooks_inquiry")
