"""Many senders at once, of batches that overlap."""

import random
from dataclasses import replace

import pytest

from mailer.models import DeliveryEvent, DeliveryStatus
from mailer.status import Mark, Status, fold
from tests.conftest import in_threads
from tests.mailer.conftest import new_delivery
from tests.webhooks import payloads
from tests.webhooks.conftest import encoded
from webhooks import inbox, later
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS, Incoming
from webhooks.providers.base import listed

SENDERS, BATCHES, BATCH, DELIVERIES = 8, 3, 1000, 1500
TYPES = ("Delivery", "Bounce", "SpamComplaint", "Open")


@pytest.mark.django_db(transaction=True)
def test_overlapping_batches_of_many_senders_wait_in_no_circle(monkeypatch):
    monkeypatch.setitem(WEBHOOKS, "postmark", replace(WEBHOOKS["postmark"], parts=listed))
    for number in range(DELIVERIES):
        new_delivery(recipient=f"{number}@example.com")
    DeliveryStatus.objects.update(provider="postmark")
    identifiers = dict(DeliveryStatus.objects.values_list("recipient_canonical", "message_id"))
    events = [
        payloads.postmark(
            kind,
            MessageID=str(number),
            Metadata={"message_id": str(identifiers[f"{number}@example.com"])},
            **{"Email" if kind in {"Bounce", "SpamComplaint"} else "Recipient": f"{number}@example.com", "ID": number},
        )
        for number in range(DELIVERIES)
        for kind in TYPES[: 1 + number % len(TYPES)]
    ]
    # Each batch overlaps with each other one, in an order of its own; together they hold each event.
    orders = [random.Random(number) for number in range(SENDERS)]

    def send(number):
        mine = [*events[number * 500 : number * 500 + 500], *events]
        states = []
        for start in range(0, BATCH * BATCHES, BATCH):
            batch = orders[number].sample(mine, BATCH - 500) + events[start // 2 : start // 2 + 500]
            states.append(inbox.process("postmark", Incoming({}, encoded(batch))).state)
            later.read_due(1)
        rest = [event for place, event in enumerate(events) if place % SENDERS == number]
        states.append(inbox.process("postmark", Incoming({}, encoded(rest))).state)
        return states

    answers = in_threads(SENDERS, send)

    while later.read_due():
        pass
    assert {state for states in answers for state in states} == {"waiting"}
    assert set(WebhookReceipt.objects.values_list("state", flat=True)) == {"processed"}
    assert WebhookReceipt.objects.count() == SENDERS * (BATCHES + 1)
    recorded = DeliveryEvent.objects.filter(source="webhook")
    assert recorded.count() == len(events)
    assert not recorded.filter(delivery=None).exists()
    for delivery in DeliveryStatus.objects.prefetch_related("events"):
        marks = [
            Mark(Status(event.status) if event.status else None, event.occurred_at, event.dedupe_key)
            for event in delivery.events.all()
        ]
        assert delivery.status == fold(marks).status
