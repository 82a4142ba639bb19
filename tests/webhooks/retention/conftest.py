"""Webhooks of the past."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from mailer import ledger
from mailer.models import DeliveryEvent
from tests.mailer.conftest import fact
from webhooks.models import WebhookReceipt

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def ages(settings):
    settings.WEBHOOK_RECEIPT_DAYS, settings.WEBHOOK_EVENT_DAYS, settings.WEBHOOK_NONCE_DAYS = 30, 400, 2


def receipt(days=0, body=b"{}", **fields):
    """Store a receipt that came so many days ago."""
    return WebhookReceipt.objects.create(
        **{"provider": "postmark", "body": body, "state": "processed", "received_at": Now() - days * DAY, **fields}
    )


def report(event_type, days=0, *, of=None, **fields):
    """Record what a provider reported so many days ago, as the receipt `of` has it."""
    [recorded] = ledger.record([fact(event_type, provider="postmark", receipt_id=of and of.pk, **fields)])
    DeliveryEvent.objects.filter(dedupe_key=recorded.dedupe_key).update(recorded_at=Now() - days * DAY)
    return recorded.dedupe_key
