"""What was reported stays known for as long as it can come again, however old its mail is."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from mailer import retention, suppressions
from mailer.models import DeliveryEvent, Message, Suppression
from tests.webhooks import payloads
from webhooks import replaying
from webhooks.models import WebhookReceipt

pytestmark = pytest.mark.django_db


@pytest.fixture
def bounced(post_resend, sent):
    """A mail that ended years ago, and whose bounce is of today; somebody has released its address since."""
    message = sent("resend")
    Message.objects.filter(pk=message.pk).update(finished_at=Now() - timedelta(days=4000))
    post_resend(payloads.resend("email.bounced", message), svix_id="msg_once")
    suppressions.release(payloads.RECIPIENT, by="an operator")
    assert Suppression.objects.get().released_at
    return message


def test_bounce_that_is_replayed_after_a_cleanup_undoes_no_release(bounced):
    retention.cleanup(retention.rules())

    [done] = replaying.replay(replaying.Selection(ids=[WebhookReceipt.objects.get().pk]))

    assert (done.new_events, done.parked, done.failures) == (0, 0, {})
    assert not Suppression.objects.filter(released_at=None).exists()


def test_bounce_that_its_provider_repeats_after_a_cleanup_undoes_no_release(bounced, post_resend):
    retention.cleanup(retention.rules())

    post_resend(payloads.resend("email.bounced", bounced), svix_id="msg_once")

    assert DeliveryEvent.objects.filter(source="webhook").count() == 1
    assert not Suppression.objects.filter(released_at=None).exists()


def test_mail_goes_once_nothing_of_it_can_come_again(bounced, settings):
    DeliveryEvent.objects.update(recorded_at=Now() - timedelta(days=settings.WEBHOOK_KEY_DAYS + 1))

    retention.cleanup(retention.rules())

    assert not Message.objects.filter(pk=bounced.pk).exists()
