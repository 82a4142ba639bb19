"""Whatever is genuine is kept, also what cannot be read."""

import json

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from mailer.models import DeliveryEvent
from tests.webhooks import payloads
from webhooks.models import WebhookReceipt

pytestmark = pytest.mark.django_db

POISON = {
    "empty": b"",
    "text": b"no JSON",
    "half": b'{"type": "email.sent", "data": {',
    "bytes": b"\xff\xfe\x00{",
    "utf-16": '{"type": "email.sent"}'.encode("utf-16"),
    "list": b"[]",
    "list of objects": b'[{"type": "email.sent", "RecordType": "Delivery"}]',
    "null": b"null",
    "number": b"42",
    "string": b'"text"',
    "huge number": b"1" * 5000,
    "nested list": b"[" * 100_000,
    "nested object": b'{"a":' * 100_000,
    "nested in data": b'{"type":"email.sent","RecordType":"Open","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "data of another shape": b'{"type":"email.bounced","RecordType":[],"data":[1]}',
    "metadata null": b'{"type":null,"RecordType":"Delivery","Metadata":null,"data":{"headers":null}}',
    "metadata a list": b'{"type":{},"RecordType":"Delivery","Metadata":[],"data":{}}',
    "time a number": b'{"type":"email.sent","created_at":5,"RecordType":"Delivery","DeliveredAt":5,"data":{}}',
}


# Odd, but understood as far as it goes.
ODD = {
    "NUL": {"Details": "a\0b", "MessageID": "\0", "Metadata": {"message_id": "\0"}, "Recipient": "\0@\0"},
    "lone surrogates": {"Details": "\ud800", "MessageID": "\udfff", "Recipient": "\ud800@\udc00"},
    "lone surrogates as keys": {"\ud800": "", "Metadata": {"\ud800": "", "message_id": "\ud800"}},
    "long": {"Details": "x" * 100_000, "MessageID": "y" * 100_000, "Recipient": f"{'z' * 100_000}@example.com"},
    "grows when folded": {"Recipient": "\u0390" * 254, "MessageID": "\u0390" * 254},
    "grows when normalized": {"Recipient": "\ufdfa" * 254},
    "huge numbers": {"MessageID": 10**400, "Details": -(10**400), "ID": 1e308, "Recipient": 10**400},
    "not a number": {"ID": float("nan"), "Details": float("inf"), "Recipient": float("-inf")},
    "objects": {"MessageID": {"a": 1}, "Details": ["b"], "Recipient": {"c": []}, "ID": {}},
    "nulls": {"MessageID": None, "Details": None, "Recipient": None, "ID": None, "Description": None},
    "the first year": {"DeliveredAt": "0001-01-01T00:00:00Z"},
    "before the first year": {"DeliveredAt": "0001-01-01T00:00:00+14:00"},
    "after the last year": {"DeliveredAt": "9999-12-31T23:59:59-12:00"},
    "no time": {"DeliveredAt": "tomorrow"},
    "the 30th of February": {"DeliveredAt": "2026-02-30T00:00:00Z"},
}


class TestPoison:
    @pytest.mark.parametrize("body", POISON.values(), ids=POISON)
    def test_resend_body_that_cannot_be_read_is_kept(self, post_resend, body):
        response = post_resend(body)

        assert response.status_code == 200
        receipt = WebhookReceipt.objects.get()
        assert (receipt.state, bytes(receipt.body), receipt.events) == ("poison", body, 0)
        assert receipt.error.isidentifier()
        assert not DeliveryEvent.objects.exists()

    @pytest.mark.parametrize("body", POISON.values(), ids=POISON)
    def test_postmark_body_that_cannot_be_read_is_kept(self, post_postmark, body):
        response = post_postmark(body)

        assert response.status_code == 200
        receipt = WebhookReceipt.objects.get()
        assert (receipt.state, bytes(receipt.body), receipt.events) == ("poison", body, 0)
        assert not DeliveryEvent.objects.exists()

    @pytest.mark.parametrize("changes", ODD.values(), ids=ODD)
    def test_odd_values_are_taken(self, post_postmark, changes):
        response = post_postmark({**payloads.POSTMARK["Delivery"], **changes})

        assert response.status_code == 200
        assert WebhookReceipt.objects.count() == 1

    @pytest.mark.parametrize("name", payloads.POSTMARK["Bounce"])
    def test_postmark_missing_field_is_taken(self, post_postmark, name):
        response = post_postmark({key: value for key, value in payloads.POSTMARK["Bounce"].items() if key != name})

        assert response.status_code == 200
        assert WebhookReceipt.objects.get().state == "processed"

    @pytest.mark.parametrize("name", payloads.RESEND["email.bounced"]["data"])
    def test_resend_missing_field_is_taken(self, post_resend, name):
        payload = payloads.resend("email.bounced")
        del payload["data"][name]

        response = post_resend(payload)

        assert response.status_code == 200
        assert WebhookReceipt.objects.get().state == "processed"

    def test_error_is_a_name_and_quotes_nothing(self, post_postmark, caplog):
        post_postmark(b'{"Email": "ada@example.org", "Metadata": null}')

        assert WebhookReceipt.objects.get().error == "TypeError"
        assert "ada@example.org" not in caplog.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def paths(value, path=()):
    """Name each place in a JSON value, the whole of it too."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from paths(value[key], (*path, key))


def put(value, path, other):
    if not path:
        return other
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = put(value[path[0]], path[1:], other)
    return copied


@st.composite
def mutations(draw, valid):
    """Change a few values of a valid payload to anything, or a few bytes of its text."""
    payload = draw(st.sampled_from(valid))
    for _ in range(draw(st.integers(1, 3))):
        payload = put(payload, draw(st.sampled_from([*paths(payload)])), draw(JSON))
    body = json.dumps(payload).encode()
    if body and draw(st.booleans()):
        position = draw(st.integers(0, len(body) - 1))
        body = body[:position] + draw(st.binary(max_size=3)) + body[position + draw(st.integers(0, 3)) :]
    return body


# The parsers are fuzzed by `make fuzz`, too, and without a database: here is what comes through the door.
FUZZ = limits(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class TestFuzz:
    @FUZZ
    @given(body=mutations([*payloads.POSTMARK.values()]))
    def test_postmark_whatever_is_genuine_is_kept(self, post_postmark, body):
        known = WebhookReceipt.objects.count()

        assert post_postmark(body).status_code == 200
        assert WebhookReceipt.objects.count() == known + 1

    @FUZZ
    @given(body=mutations([*payloads.RESEND.values()]))
    def test_resend_whatever_is_genuine_is_kept(self, post_resend, body):
        known = WebhookReceipt.objects.count()

        assert post_resend(body).status_code == 200
        assert WebhookReceipt.objects.count() == known + 1
