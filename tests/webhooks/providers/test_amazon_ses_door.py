"""Amazon's notifications through the URL, and topics, which are its secrets."""

import json

import pytest

from mailer.models import DeliveryEvent
from tests.webhooks.conftest import delivery_of, encoded
from tests.webhooks.providers.amazon import KEY, TOPIC, certificate, confirmation, notification, signed
from tests.webhooks.providers.ses_events import (
    ADDRESS,
    BY_AMAZON,
    EVENTS,
    JOHN,
    SES_ID,
)
from webhooks.exceptions import Unavailable
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS, sns


@pytest.fixture
def post(client, settings, monkeypatch):
    settings.WEBHOOK_SECRETS = {"amazon_ses": [TOPIC]}
    monkeypatch.setattr(sns, "CERTIFICATES", sns.Certificates(lambda _: certificate(KEY)))

    def post(message):
        headers = {"x-amz-sns-message-type": message["Type"], "x-amz-sns-message-id": message["MessageId"]}
        return client.post(ADDRESS, encoded(message), content_type="text/plain; charset=UTF-8", headers=headers)

    return post


@pytest.mark.parametrize(
    "topic", ["", "events", TOPIC + ":uuid", TOPIC.replace("sns", "sqs"), TOPIC.replace("us-east-1", ""), TOPIC + " "]
)
def test_what_is_no_topic_is_no_secret(topic):
    assert not WEBHOOKS["amazon_ses"].is_secret(topic)


@pytest.mark.parametrize("topic", [TOPIC, "arn:aws-cn:sns:cn-north-1:123456789012:a_b-C"])
def test_topics_are_secrets(topic):
    assert WEBHOOKS["amazon_ses"].is_secret(topic)


@pytest.mark.django_db
@pytest.mark.parametrize("version", ["1", "2"])
def test_event_through_the_url(post, sent, version):
    message = sent("amazon_ses", SES_ID, JOHN)

    response = post(signed(notification(EVENTS["Bounce"][0]), version=version))

    assert response.status_code == 200
    assert delivery_of(message).status == "bounced"
    recorded = DeliveryEvent.objects.get(source="webhook")
    assert (recorded.category, recorded.smtp_status, recorded.occurred_at) == ("no_mailbox", "5.1.1", BY_AMAZON)


@pytest.mark.django_db
def test_replay_changes_nothing(post, sent):
    message = sent("amazon_ses", SES_ID, JOHN)
    genuine = signed(notification(EVENTS["Open"][0]))

    answers = [post(genuine).status_code for _ in range(2)]

    assert answers == [200, 200]
    assert delivery_of(message).open_count == 1


@pytest.mark.django_db
def test_forged_request_is_401_and_nothing_is_stored(post, sent):
    message = sent("amazon_ses", SES_ID, JOHN)
    genuine = signed(notification(EVENTS["Delivery"][0]))

    response = post({**genuine, "Message": json.dumps(EVENTS["Complaint"][0])})

    assert response.status_code == 401
    assert delivery_of(message).status == "sent"
    assert not WebhookReceipt.objects.exists()


@pytest.mark.django_db
def test_request_of_another_topic_is_401(post):
    assert post(signed(notification(EVENTS["Delivery"][0], TopicArn=TOPIC + "s"))).status_code == 401


@pytest.mark.django_db
def test_certificate_that_cannot_be_had_is_503_until_it_can(post, sent, monkeypatch):
    message = sent("amazon_ses", SES_ID, JOHN)
    genuine = signed(notification(EVENTS["Delivery"][0]))

    def nobody(_):
        raise Unavailable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(sns, "CERTIFICATES", sns.Certificates(nobody))
        first = post(genuine)
        assert not WebhookReceipt.objects.exists()

    second = post(genuine)

    assert (first.status_code, second.status_code) == (503, 200)
    assert first["Retry-After"]
    assert delivery_of(message).status == "delivered"


@pytest.mark.django_db
def test_confirmed_subscription_is_kept_and_says_nothing(post, monkeypatch):
    confirmed = []
    monkeypatch.setattr(sns, "confirm", lambda topic, token: confirmed.append((topic, token)))

    response = post(signed(confirmation()))

    assert response.status_code == 200
    assert confirmed == [(TOPIC, "2336412f37f")]
    receipt = WebhookReceipt.objects.get()
    assert (receipt.state, receipt.events) == ("processed", 0)
