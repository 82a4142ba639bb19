"""What is recorded of genuine requests: once, in any order, for whom; and what becomes of those nobody can read."""

import itertools
import json
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from mailer import ledger, operators, outbox, sweeping
from mailer.ledger import own_fact
from mailer.models import DeliveryEvent, Message
from mailer.outbox import Outcome
from mailer.verdicts import Verdict
from tests.webhooks import payloads
from tests.webhooks.conftest import delivery_of, settle, state_of
from users.models import User
from webhooks.models import WebhookReceipt

pytestmark = pytest.mark.django_db


def effects(message):
    """Return what each webhook's event did, in order of arrival."""
    events = DeliveryEvent.objects.filter(delivery__message=message.pk, source="webhook").order_by("pk")
    return [(event.event_type, event.effect) for event in events]


class TestDuplicates:
    def test_resend_same_svix_id_changes_nothing(self, post_resend, sent):
        message = sent()
        payload = payloads.resend("email.opened", message)
        post_resend(payload, svix_id="msg_same")
        before = delivery_of(message).__dict__

        response = post_resend(payload, svix_id="msg_same")

        assert response.status_code == 200
        after = delivery_of(message).__dict__
        assert {**after, "_state": None} == {**before, "_state": None}
        assert [(r.events, r.new_events) for r in WebhookReceipt.objects.order_by("id")] == [(1, 1), (1, 0)]

    @pytest.mark.parametrize("record_type", payloads.POSTMARK)
    def test_postmark_same_body_changes_nothing(self, post_postmark, sent, record_type):
        message = sent("postmark")
        post_postmark(payloads.postmark(record_type, message))
        before = delivery_of(message).__dict__

        response = post_postmark(payloads.postmark(record_type, message))

        assert response.status_code == 200
        assert {**delivery_of(message).__dict__, "_state": None} == {**before, "_state": None}
        assert DeliveryEvent.objects.filter(source="webhook").count() == 1

    def test_postmark_bounce_is_known_by_its_id_however_it_is_told(self, post_postmark, sent):
        message = sent("postmark")
        post_postmark(payloads.postmark("Bounce", message))

        post_postmark(payloads.postmark("Bounce", message, Details="told otherwise", BouncedAt="2026-11-20T17:00:00Z"))

        assert DeliveryEvent.objects.filter(source="webhook").count() == 1

    def test_two_recipients_with_one_event_id_are_two_facts(self, post_postmark, sent):
        first = sent("postmark", "id-1", "ada@example.com")
        second = sent("postmark", "id-2", "bob@example.com")

        post_postmark(payloads.postmark("SpamComplaint", first, MessageID="id-1", Email="ada@example.com"))
        post_postmark(payloads.postmark("SpamComplaint", second, MessageID="id-2", Email="bob@example.com"))

        assert (delivery_of(first).status, delivery_of(second).status) == ("complained", "complained")


class TestOrder:
    KINDS = ("email.sent", "email.delivery_delayed", "email.delivered", "email.opened", "email.complained")

    def test_any_order_gives_the_same(self, post_resend, sent):
        results = set()
        for order in itertools.permutations(enumerate(self.KINDS)):
            message = sent(esp_message_id="id")
            for number, kind in order:
                at = f"2026-11-20T23:4{number}:00.000Z"
                post_resend(payloads.resend(kind, message, created_at=at, email_id="id"))
            delivery = delivery_of(message)
            results.add((delivery.status, delivery.status_at, delivery.delivered_at, delivery.open_count))

        assert len(results) == 1
        [(status, *_)] = results
        assert status == "complained"

    def test_soft_bounce_after_the_delivery_does_not_undo_it(self, post_postmark, sent):
        message = sent("postmark")

        post_postmark(payloads.postmark("Delivery", message))
        post_postmark(payloads.postmark("Bounce", message, Type="SoftBounce", BouncedAt="2026-11-21T00:00:00Z"))

        assert delivery_of(message).status == "delivered"
        assert effects(message) == [("delivered", "changed"), ("bounced", "outranked")]

    def test_hard_bounce_after_the_delivery_counts(self, post_postmark, sent):
        message = sent("postmark")

        post_postmark(payloads.postmark("Delivery", message))
        post_postmark(payloads.postmark("Bounce", message))

        assert delivery_of(message).status == "bounced"
        assert effects(message) == [("delivered", "changed"), ("bounced", "changed")]

    def test_effect_of_each_event_is_kept(self, post_resend, sent):
        message = sent()

        post_resend(payloads.resend("email.delivered", message))
        post_resend(payloads.resend("email.opened", message, created_at="2026-11-20T23:50:00.000Z"))
        post_resend(payloads.resend("email.delivery_delayed", message))
        post_resend({**payloads.resend("email.sent", message), "type": "email.new"})

        assert effects(message) == [
            ("delivered", "changed"),
            ("opened", "confirmed"),
            ("deferred", "outranked"),
            ("unknown", "none"),
        ]


class TestMatching:
    def test_event_before_the_outcome_is_stored_finds_its_delivery_by_our_id(self, post_resend, sending):
        claim = sending()

        response = post_resend(payloads.resend("email.delivered", claim.message))

        assert response.status_code == 200
        assert delivery_of(claim.message).status == "delivered"
        assert delivery_of(claim.message).esp_message_id == payloads.RESEND_ID

    def test_event_before_the_outcome_proves_the_acceptance(self, post_resend, sending):
        claim = sending()

        post_resend(payloads.resend("email.sent", claim.message))
        settle(claim, "sent", payloads.RESEND_ID)

        assert state_of(claim.message) == "sent"
        assert delivery_of(claim.message).status == "sent"

    def test_event_for_nobody_is_parked_and_taken(self, post_resend):
        response = post_resend(payloads.resend("email.delivered"))

        assert response.status_code == 200
        event = DeliveryEvent.objects.get()
        assert (event.effect, event.delivery_id, event.esp_message_id) == ("parked", None, payloads.RESEND_ID)
        assert WebhookReceipt.objects.get().state == "processed"

    def test_event_about_a_message_of_ours_that_is_gone_is_parked(self, post_resend, sent):
        message = sent()
        Message.objects.all().delete()

        response = post_resend(payloads.resend("email.delivered", message))

        assert response.status_code == 200
        assert DeliveryEvent.objects.get().effect == "parked"

    def test_parked_event_is_matched_when_the_outcome_is_stored(self, post_resend, sending):
        post_resend(payloads.resend("email.delivered"))
        claim = sending()

        settle(claim, "sent", payloads.RESEND_ID)

        assert delivery_of(claim.message).status == "delivered"
        assert effects(claim.message) == [("delivered", "changed")]

    def test_parked_event_is_matched_by_the_sweep(self, post_resend, sent):
        post_resend(payloads.resend("email.opened"))
        message = sent(esp_message_id="another")
        ledger.DeliveryStatus.objects.filter(message=message.pk).update(esp_message_id=payloads.RESEND_ID)

        moved = sweeping.sweep()

        assert moved == {"matched": 1}
        delivery = delivery_of(message)
        assert (delivery.status, delivery.open_count) == ("delivered", 1)

    def test_id_of_another_provider_matches_nothing(self, post_resend, sent):
        message = sent("postmark", payloads.RESEND_ID)

        post_resend(payloads.resend("email.delivered"))

        assert delivery_of(message).status == "sent"

    def test_metadata_that_names_no_id_of_ours_is_passed_over(self, post_postmark, sent):
        message = sent("postmark")

        post_postmark(payloads.postmark("Delivery", Metadata={"message_id": "42"}))

        assert delivery_of(message).status == "delivered"

    def test_spelling_of_the_recipient_does_not_matter(self, post_postmark, sent):
        message = sent("postmark")

        post_postmark(payloads.postmark("Delivery", message, Recipient="JOHN@EXAMPLE.COM"))

        assert delivery_of(message).status == "delivered"


class TestOtherProviders:
    """What one provider says, or who holds its secret, of a mail that is with another one."""

    def test_mail_that_another_one_accepted_is_not_moved(self, post_postmark, sent):
        message = sent("resend")
        before = delivery_of(message).__dict__

        response = post_postmark(payloads.postmark("Bounce", message))

        assert response.status_code == 200
        assert {**delivery_of(message).__dict__, "_state": None} == {**before, "_state": None}
        assert DeliveryEvent.objects.get(source="webhook").delivery is None

    def test_mail_that_is_under_way_to_another_one_is_not_moved(self, post_postmark, post_resend, sending):
        claim = sending("resend")

        post_postmark(payloads.postmark("Delivery", claim.message))
        post_resend(payloads.resend("email.delivered", claim.message))

        delivery = delivery_of(claim.message)
        assert (delivery.status, delivery.provider, state_of(claim.message)) == ("delivered", "resend", "sent")
        assert DeliveryEvent.objects.get(provider="postmark", source="webhook").delivery is None

    def test_mail_that_one_refused_and_another_one_took_follows_the_other(self, post_postmark, post_resend, sending):
        refused = sending("postmark")
        outbox.settle([Outcome(refused.message.pk, refused.message.token, "retry", verdict=Verdict.NOT_SENT)])
        [claim] = outbox.claim("a worker", 1)
        claim.message.provider = "resend"
        outbox.intend([claim])
        settle(claim, "sent", payloads.RESEND_ID)

        post_postmark(payloads.postmark("Bounce", claim.message))
        sweeping.sweep()
        post_resend(payloads.resend("email.delivered", claim.message))

        delivery = delivery_of(claim.message)
        assert (delivery.status, delivery.provider) == ("delivered", "resend")
        late = DeliveryEvent.objects.get(provider="postmark", source="webhook")
        assert (late.effect, late.delivery, late.esp_message_id) == ("parked", None, payloads.POSTMARK_ID)

    def test_mail_that_was_given_up_at_one_and_sent_by_another_follows_the_other(self, post_resend, sending):
        failed = sending("postmark")
        facts = [
            own_fact("failed", recipient.delivery_id, failed.message.token, provider="postmark")
            for recipient in failed.recipients
        ]
        outbox.settle([Outcome(failed.message.pk, failed.message.token, "dead", facts=tuple(facts))])
        assert operators.retry([failed.message.pk])
        [claim] = outbox.claim("a worker", 1)
        claim.message.provider = "resend"
        outbox.intend([claim])
        post_resend(payloads.resend("email.opened", claim.message))
        settle(claim, "sent", payloads.RESEND_ID)

        post_resend(payloads.resend("email.delivered", claim.message))

        delivery = delivery_of(claim.message)
        assert (delivery.status, delivery.provider, delivery.esp_message_id, delivery.open_count) == (
            "delivered",
            "resend",
            payloads.RESEND_ID,
            1,
        )


class TestEvidence:
    @pytest.mark.parametrize(
        ("kind", "status"),
        [
            ("email.sent", "sent"),
            ("email.delivered", "delivered"),
            ("email.opened", "delivered"),
            ("email.delivery_delayed", "deferred"),
            ("email.bounced", "bounced"),
            ("email.complained", "complained"),
        ],
    )
    def test_message_in_doubt_becomes_sent(self, post_resend, sending, kind, status):
        claim = sending()
        settle(claim, "unknown")

        post_resend(payloads.resend(kind, claim.message))

        assert state_of(claim.message) == "sent"
        assert delivery_of(claim.message).status == status

    def test_postmark_message_in_doubt_becomes_sent(self, post_postmark, sending):
        claim = sending("postmark")
        settle(claim, "unknown")

        post_postmark(payloads.postmark("Delivery", claim.message))

        assert state_of(claim.message) == "sent"
        assert delivery_of(claim.message).status == "delivered"

    def test_word_of_another_provider_leaves_the_doubt(self, post_postmark, sending):
        claim = sending("resend")
        settle(claim, "unknown")

        post_postmark(payloads.postmark("Delivery", claim.message))

        assert (state_of(claim.message), delivery_of(claim.message).status) == ("unknown", "unknown")
        assert DeliveryEvent.objects.get(source="webhook").effect == "parked"

    def test_event_that_says_nothing_of_acceptance_leaves_the_doubt(self, post_resend, sending):
        claim = sending()
        settle(claim, "unknown")

        post_resend({**payloads.resend("email.sent", claim.message), "type": "email.new"})

        assert state_of(claim.message) == "unknown"

    def test_confirmed_message_is_not_sent_again(self, post_resend, sending):
        claim = sending()
        post_resend(payloads.resend("email.sent", claim.message))
        Message.objects.update(lease_until=ledger.Message.objects.get().created_at - timedelta(days=1))

        sweeping.sweep()

        assert state_of(claim.message) == "sent"
        assert outbox.claim("another worker", 10) == []


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


FUZZ = limits(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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


class TestAdmin:
    def test_receipts_are_shown_and_not_changed(self, admin_client, post_postmark):
        post_postmark(payloads.postmark("Delivery"))
        receipt = WebhookReceipt.objects.get()
        place = "admin:webhooks_webhookreceipt"

        answers = {
            "list": admin_client.get(reverse(f"{place}_changelist"), {"q": str(receipt.pk)}),
            "detail": admin_client.get(reverse(f"{place}_change", args=[receipt.pk])),
            "add": admin_client.get(reverse(f"{place}_add")),
            "delete": admin_client.post(reverse(f"{place}_delete", args=[receipt.pk]), {"post": "yes"}),
        }

        assert {name: answer.status_code for name, answer in answers.items()} == {
            "list": 200,
            "detail": 200,
            "add": 403,
            "delete": 403,
        }
        assert payloads.POSTMARK_ID in answers["detail"].content.decode()


@pytest.mark.django_db
@pytest.mark.parametrize("sign", ["@", "%40", r"\u0040"])
def test_receipt_is_masked_for_those_who_may_not_see_addresses(client, sign):
    local, domain = payloads.RECIPIENT.split("@")
    WebhookReceipt.objects.create(provider="postmark", body=f'"{local}{sign}{domain}"'.encode(), state="processed")
    staff = User.objects.create_user("staff@example.com", is_staff=True)
    staff.user_permissions.add(Permission.objects.get(codename="view_webhookreceipt"))
    client.force_login(staff)

    page = client.get(reverse("admin:webhooks_webhookreceipt_change", args=[WebhookReceipt.objects.get().pk]))

    assert page.status_code == 200
    assert f"{local[0]}***{sign}example.com" in page.content.decode()
    assert local not in page.content.decode()
