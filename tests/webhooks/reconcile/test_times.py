"""When providers are asked, about what, and when no more."""

import pytest

from mailer import ledger
from mailer.ledger import own_fact
from mailer.models import DeliveryStatus
from tests.conftest import wait_until
from tests.mailer.conftest import fact, new_delivery
from tests.webhooks.reconcile.conftest import age, due_in
from webhooks import reconcile
from webhooks.models import Inquiry
from webhooks.reconcile import DELAYS

pytestmark = pytest.mark.django_db


class TestTimes:
    def test_it_is_asked_at_ten_minutes_an_hour_six_hours_and_a_day(self, sent):
        [delivery] = sent("postmark", "slow@example.com")

        waits = [due_in(delivery)]
        for seconds in DELAYS:
            age((seconds - DELAYS[0]) / 60 + 11 if waits[-1] is None else waits[-1] / 60 + 1)
            reconcile.reconcile()
            waits.append(due_in(delivery))

        assert waits.pop() is None
        sums = [waits[0], *(wait + seconds for wait, seconds in zip(waits[1:], DELAYS, strict=False))]
        for total, seconds in zip(sums, DELAYS, strict=True):
            assert seconds - 120 <= total <= seconds + 120
        assert Inquiry.objects.get().asked == 4
        delivery.refresh_from_db()
        assert delivery.status == "sent"

    def test_nobody_asks_before_the_time(self, sent):
        sent("postmark", "silent@example.com")
        age(9)

        assert reconcile.reconcile() == 0
        assert not Inquiry.objects.exists()

    def test_a_webhook_that_came_is_no_reason_to_ask(self, sent, post_postmark):
        [delivery] = sent("postmark", "silent@example.com")
        post_postmark(
            {
                "RecordType": "Delivery",
                "MessageID": delivery.esp_message_id,
                "Recipient": "silent@example.com",
                "DeliveredAt": "2026-11-20T16:33:54Z",
                "Details": "",
                "Metadata": {},
            }
        )

        assert due_in(delivery) is None

    def test_a_provider_that_cannot_be_asked_is_not(self, sent):
        [delivery] = sent("resend", "silent@example.com")
        other = new_delivery("sent")
        DeliveryStatus.objects.filter(pk=other).update(provider="smtp")

        assert due_in(delivery) is not None
        assert DeliveryStatus.objects.get(pk=other).inquire_at is None

    @pytest.mark.parametrize(
        ("kind", "status"), [("Transient", "deferred"), ("SoftBounce", "soft_bounced"), ("HardBounce", "bounced")]
    )
    def test_what_is_not_the_last_word_is_asked_about_still(self, sent, post_postmark, kind, status):
        [delivery] = sent("postmark", "silent@example.com")
        before = due_in(delivery)
        post_postmark(
            {
                "RecordType": "Bounce",
                "Type": kind,
                "ID": 1,
                "MessageID": delivery.esp_message_id,
                "Email": "silent@example.com",
                "BouncedAt": "2026-11-20T16:33:54Z",
                "Details": "",
            }
        )

        delivery.refresh_from_db()
        assert delivery.status == status
        assert due_in(delivery) == (None if status == "bounced" else pytest.approx(before, abs=30))

    def test_deferral_that_comes_before_the_answer_is_asked_about(self, db):
        delivery = new_delivery()
        ledger.record([fact("deferred", provider="postmark", delivery_id=delivery, esp_message_id="the-id")])

        before = DeliveryStatus.objects.get(pk=delivery)
        assert 590 < due_in(before) <= 600
        ledger.record([own_fact("sent", delivery, "1", provider="postmark", esp_message_id="the-id")])

        after = DeliveryStatus.objects.get(pk=delivery)
        assert (after.status, after.inquire_at) == ("deferred", before.inquire_at)

    def test_what_became_of_a_deferred_mail_is_found(self, simulator, sent):
        [delivery] = sent("postmark", "silent@example.com")
        wait_until(lambda: "Delivery" in simulator.happened(delivery.esp_message_id))
        ledger.record([fact("deferred", provider="postmark", delivery_id=delivery.pk)])
        age(11)

        assert reconcile.reconcile() == 1

        delivery.refresh_from_db()
        assert (delivery.status, delivery.inquire_at) == ("delivered", None)

    def test_off_is_off(self, sent, settings):
        [before] = sent("postmark", "silent@example.com")
        settings.RECONCILE = False
        [after] = sent("postmark", "silent@example.com")
        age(11)

        assert reconcile.reconcile() == 0
        assert (due_in(before) is None, due_in(after) is None) == (False, True)

    def test_mail_without_the_providers_id_is_asked_about_no_more(self, sent):
        [delivery] = sent("postmark", "silent@example.com")
        DeliveryStatus.objects.update(esp_message_id="")
        age(11)

        assert reconcile.reconcile() == 0
        assert due_in(delivery) is None
