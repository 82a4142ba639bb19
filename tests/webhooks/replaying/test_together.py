"""Replays beside each other, the sweep and what comes in meanwhile."""

from dataclasses import replace
from datetime import timedelta

import pytest
from django.db.models.functions import Now

from mailer.models import DeliveryEvent, DeliveryStatus
from tests.conftest import in_threads
from tests.webhooks import payloads
from tests.webhooks.conftest import delivery_of, encoded
from tests.webhooks.replaying.conftest import replay
from webhooks import inbox, later
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS, Incoming
from webhooks.providers.base import listed

pytestmark = pytest.mark.django_db


@pytest.mark.django_db(transaction=True)
def test_two_replays_at_once_record_once(lost):
    delivered, bounced = lost()

    done = in_threads(4, lambda _: replay(states=["poison", "processed"]))

    assert sum(each.new_events for each in done) == 2
    assert [delivery_of(message).status for message in (delivered, bounced)] == ["delivered", "bounced"]
    assert list(WebhookReceipt.objects.values_list("new_events", flat=True)) == [1, 1]


@pytest.mark.django_db(transaction=True)
def test_replay_beside_the_sweep_records_once(lost):
    lost("retry")
    WebhookReceipt.objects.update(run_at=Now() - timedelta(seconds=1))

    done = in_threads(4, lambda number: later.read_due() if number % 2 else replay(states=["retry"]).receipts)

    assert sum(done) >= 2
    assert list(WebhookReceipt.objects.values_list("state", "new_events")) == [("processed", 1)] * 2
    assert DeliveryEvent.objects.filter(source="webhook").count() == 2


@pytest.mark.django_db(transaction=True)
def test_dry_runs_and_replays_beside_what_comes_in_wait_in_no_circle(post_postmark, sent, monkeypatch):
    monkeypatch.setitem(WEBHOOKS, "postmark", replace(WEBHOOKS["postmark"], parts=listed))
    numbers = range(60)
    for number in numbers:
        sent("postmark", f"id-{number}", f"{number}@example.com")

    def told(kind, number):
        return payloads.postmark(kind, MessageID=f"id-{number}", Email=f"{number}@example.com", ID=number)

    for number in numbers:
        post_postmark([told("Bounce", each) for each in (number, 59 - number)])
    DeliveryEvent.objects.filter(source="webhook").delete()
    batch = encoded([told("SpamComplaint", number) for number in reversed(numbers)])

    def work(number):
        for _ in range(3):
            match number % 3:
                case 0:
                    replay(dry_run=True, providers=["postmark"])
                case 1:
                    replay(providers=["postmark"])
                case _:
                    inbox.process("postmark", Incoming({}, batch))

    in_threads(6, work)

    assert set(DeliveryStatus.objects.values_list("status", flat=True)) == {"complained"}
    assert not WebhookReceipt.objects.exclude(state="processed").exists()
