"""Whether a request is Amazon's: docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html."""

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from tests.webhooks.conftest import encoded
from tests.webhooks.providers import mangled
from tests.webhooks.providers.amazon import TOPIC, confirmation, incoming, notification, signed
from tests.webhooks.providers.sns.conftest import accepts
from webhooks.providers import sns


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("fields", [{}, {"Subject": "Amazon SES Email Event Notification"}, {"Subject": None}])
def test_notification_is_accepted(version, fields):
    assert accepts(incoming(signed(notification({}, **fields), version=version)))


@pytest.mark.parametrize("version", ["1", "2"])
def test_goodbye_is_accepted_and_nothing_asked_of_amazon(version):
    assert accepts(incoming(signed(confirmation(Type="UnsubscribeConfirmation"), version=version)))


@pytest.mark.parametrize("version", ["", "0", "3", "11", None, 1])
def test_other_signature_version_is_refused(version):
    assert not accepts(incoming({**signed(notification({})), "SignatureVersion": version}))


def test_version_1_signature_is_none_of_version_2():
    assert not accepts(incoming({**signed(notification({}), version="1"), "SignatureVersion": "2"}))


@pytest.mark.parametrize("field", ["Message", "MessageId", "Subject", "Timestamp", "Type"])
def test_field_that_was_changed_is_refused(field):
    message = signed(notification({}, Subject="one"))
    changed = {"Timestamp": sns.datetime.now(sns.UTC).isoformat(), "Type": "UnsubscribeConfirmation"}.get(field, "two")

    assert not accepts(incoming({**message, field: changed, "Token": "t", "SubscribeURL": "https://example.com"}))


@pytest.mark.parametrize("field", sorted({*sns.SIGNED["Notification"]} - {"Subject"}))
@pytest.mark.parametrize("value", [None, 5, ["text"], {"text": 1}, True])
def test_field_that_is_no_text_is_refused(field, value):
    assert not accepts(incoming({**signed(notification({})), field: value}))


@pytest.mark.parametrize("field", ["Signature", "SignatureVersion", "SigningCertURL", "Timestamp", "TopicArn", "Type"])
def test_field_is_missing(field):
    message = signed(notification({}))
    del message[field]

    assert not accepts(incoming(message))


@limits(max_examples=60, deadline=None)
@given(data=st.data())
def test_one_byte_of_the_message_decides(data):
    message = signed(notification({"eventType": "Delivery"}))
    body = encoded(message)
    start = body.index(b'"Message": "') + 12
    position = data.draw(st.integers(start, body.index(b'", "Timestamp"') - 1))
    changed = body[:position] + bytes([data.draw(st.integers(0, 255))]) + body[position + 1 :]

    assert accepts(incoming(changed)) == (changed == body)


def test_another_key_is_refused():
    assert not accepts(incoming(signed(notification({}), key=rsa.generate_private_key(65537, 2048))))


@pytest.mark.parametrize("topics", [[], ["arn:aws:sns:us-east-1:123456789012:other"], [TOPIC + "s"], [TOPIC[:-1]]])
def test_topic_is_not_allowed_and_nothing_is_fetched(topics, store):
    assert not accepts(incoming(signed(notification({}))), topics)
    assert store.asked == []


@pytest.mark.parametrize("age", [-240, 0, 3600, 7000])
def test_age_up_to_an_hour_of_repeats_is_accepted(age):
    assert accepts(incoming(signed(notification({}, age=age))))


@pytest.mark.parametrize("age", [-600, 7500, 86400, 10**9])
def test_older_or_of_the_future_is_refused(age, store):
    assert not accepts(incoming(signed(notification({}, age=age))))
    assert store.asked == []


@pytest.mark.parametrize("timestamp", ["", "now", "2026-13-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9" * 30])
def test_timestamp_that_is_none_is_refused(timestamp):
    assert not accepts(incoming(signed(notification({}, Timestamp=timestamp))))


@pytest.mark.parametrize("signature", ["", "!", "AAAA", "é", "A" * 344, "\ud800"])
def test_signature_that_is_none_is_refused(signature):
    assert not accepts(incoming({**signed(notification({})), "Signature": signature}))


def test_header_of_another_type_is_refused():
    message = signed(notification({}))

    assert not accepts(incoming(message, **{"x-amz-sns-message-type": "SubscriptionConfirmation"}))
    assert accepts(incoming(message, **{"x-amz-sns-message-type": "Notification"}))


@pytest.mark.parametrize("body", [b"", b"[]", b"5", b"null", b'"x"', b"\xff", b"[" * 100_000, b"{}", b'{"Type": []}'])
def test_body_that_is_no_message_is_refused(body):
    assert not accepts(incoming(body))


@limits(max_examples=150, deadline=None)
@given(body=mangled.bodies([signed(notification({"eventType": "Send"})), signed(confirmation())]))
def test_mangled_request_is_accepted_refused_or_put_off(body):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sns, "confirm", lambda topic, token: None)
        assert accepts(incoming(body)) in (True, False)
