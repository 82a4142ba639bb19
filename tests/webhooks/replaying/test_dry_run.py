"""What a replay would change, and whom it tells."""

from dataclasses import replace

import pytest
from anymail.signals import tracking

from mailer.models import DeliveryEvent
from mailer.signals import delivery_changed
from tests.mailer.conftest import signal_receiver
from tests.webhooks import payloads
from tests.webhooks.conftest import delivery_of
from tests.webhooks.replaying.conftest import broken, replay, stored
from webhooks import replaying
from webhooks.providers import WEBHOOKS
from webhooks.providers.base import listed
from webhooks.replaying import Change, Selection

pytestmark = pytest.mark.django_db


class TestDryRun:
    @pytest.mark.django_db(transaction=True)
    def test_dry_run_says_what_would_change_and_writes_nothing_and_tells_nobody(self, lost):
        delivered, bounced = lost()
        before, heard = stored(), []

        def hear(**_):
            heard.append(1)

        with signal_receiver(delivery_changed, hear), signal_receiver(tracking, hear):
            done = replay(dry_run=True, states=["poison"])

        assert done.changes == [
            Change("postmark", delivery_of(delivered).pk, "sent", "delivered"),
            Change("postmark", delivery_of(bounced).pk, "sent", "bounced"),
        ]
        assert (done.receipts, done.new_events, done.failures) == (2, 2, {})
        assert stored() == before
        assert heard == []

    @pytest.mark.django_db(transaction=True)
    def test_replay_tells_those_who_listen(self, lost):
        lost()
        heard = []

        def hear(sender, **_):
            heard.append(sender.__name__)

        with signal_receiver(delivery_changed, hear), signal_receiver(tracking, hear):
            replay(states=["poison"])
            replay(states=["processed"])

        assert sorted(heard) == ["DeliveryStatus"] * 2 + ["PostmarkTrackingWebhookView"] * 2

    def test_several_receipts_of_one_delivery_are_one_change(self, post_postmark, sent, judged):
        message, judge = sent("postmark"), WEBHOOKS["postmark"].judge
        judged(broken)
        for kind in ("SpamComplaint", "Delivery"):
            post_postmark(payloads.postmark(kind, message))
        judged(judge)

        done = replay(dry_run=True, providers=["postmark"])

        assert done.changes == [Change("postmark", delivery_of(message).pk, "sent", "complained")]

    def test_events_of_nobodys_mail_are_counted(self, post_postmark, judged):
        judge = WEBHOOKS["postmark"].judge
        judged(broken)
        post_postmark(payloads.postmark("Delivery"))
        judged(judge)

        assert replay(dry_run=True, providers=["postmark"]).parked == 1
        assert replay(providers=["postmark"]).parked == 1

    def test_events_of_many_receipts_are_looked_at_in_parts(self, post_postmark, sent, monkeypatch):
        monkeypatch.setitem(WEBHOOKS, "postmark", replace(WEBHOOKS["postmark"], parts=listed))
        monkeypatch.setattr(replaying, "EVENTS", 5)
        sent("postmark")
        for number in range(4):
            post_postmark([payloads.postmark("Open", MessageID=f"{number} {each}") for each in range(3)])
        DeliveryEvent.objects.filter(source="webhook").delete()

        rounds = list(replaying.replay(Selection(providers=["postmark"]), dry_run=True))

        assert [(done.receipts, done.new_events) for done in rounds] == [(2, 6), (2, 6), (0, 0)]
