"""How large a body may be of which nobody knows yet whose it is."""

import pytest

from tests.webhooks.conftest import encoded
from tests.webhooks.providers.test_unisender_go import EVENT
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS

# Those whose signature stands in the body, or is over parts of it. Mandrill's form may be large, and costs
# little to take apart.
DECODED = {
    "amazon_ses": ["arn:aws:sns:us-east-1:123456789012:events"],
    "mailgun": ["a-signing-key"],
    "unisender_go": ["6nsx9rrwhcerqdzbuzjt4osg9d4cqr8e"],
}


@pytest.mark.django_db
@pytest.mark.parametrize("esp", DECODED)
def test_larger_body_than_its_provider_sends_is_413_before_it_is_decoded(client, settings, esp):
    settings.WEBHOOK_SECRETS = DECODED
    largest = WEBHOOKS[esp].largest

    codes = [
        client.post(f"/webhooks/{esp}/", b" " * size, content_type="application/json").status_code
        for size in (largest, largest + 1)
    ]

    assert codes == [401, 413]
    assert not WebhookReceipt.objects.exists()


def test_every_provider_whose_body_has_to_be_decoded_first_has_a_limit():
    assert {name for name, webhook in WEBHOOKS.items() if webhook.largest} == {*DECODED}


def test_largest_message_of_a_topic_fits():
    # 256 KiB of letters beyond ASCII, each two octets, as SNS writes them in JSON at the most: six.
    sizes = [len(encoded({"Message": "é" * length * 1024})) for length in (128, 256)]

    assert sizes[0] <= WEBHOOKS["amazon_ses"].largest < sizes[1]


def test_as_many_events_of_unisender_go_fit_as_one_request_may_hold(settings):
    events = [{"event_name": "transactional_email_status", "event_data": EVENT}] * settings.WEBHOOK_MAX_EVENTS
    body = encoded({"auth": "0" * 32, "events_by_user": [{"user_id": 1, "events": events}]})

    assert len(body) <= WEBHOOKS["unisender_go"].largest
