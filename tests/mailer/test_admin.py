"""The operators' pages about messages and deliveries: to look at, never to write, and with no secret on them."""

import pytest
from django.contrib.auth.models import Permission
from django.urls import reverse

from mailer import ledger, sender
from mailer.admin import DeliveryStatusAdmin, MessageAdmin
from mailer.models import DeliveryStatus, Message
from tests.mailer.conftest import at, delivery_of, enqueue, fact, read
from users.models import User

ADDRESS = "ada.lovelace@example.com"
CONTENT = {"subject": "s", "text": "the-token-in-a-link", "html": "the-token-in-a-link", "from_email": "f"}


@pytest.fixture
def message(db) -> Message:
    """A message under way, with its delivery and events."""
    message = enqueue(ADDRESS, context={"challenge_id": "the-challenges-id"})
    Message.objects.update(content=CONTENT, state="sending")
    ledger.record(
        [
            fact("sent", delivery_id=delivery_of(message).pk, provider="resend", esp_message_id="re-1"),
            fact("bounced", delivery_id=delivery_of(message).pk, occurred_at=at(1), detail="550 no such user"),
        ]
    )
    return message


@pytest.fixture
def looker(client, db):
    """Log in somebody of the staff who may look at both, but not at whole addresses."""
    user = User.objects.create_user("staff@example.com", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=["view_message", "view_deliverystatus"]))
    client.force_login(user)
    return client


def page(client, name: str, *args, **query) -> str:
    response = client.get(reverse(f"admin:mailer_{name}", args=args), query)
    assert response.status_code == 200
    return response.content.decode()


def test_messages_are_listed(admin_client, message):
    assert str(message.pk) in page(admin_client, "message_changelist")


@pytest.mark.parametrize("name", ["pk", "correlation_id", "dedupe_key"])
def test_messages_are_found(admin_client, message, name):
    other = enqueue()

    listed = page(admin_client, "message_changelist", q=str(getattr(message, name)))

    assert str(message.pk) in listed
    assert str(other.pk) not in listed


def test_a_message_shows_its_deliveries_and_attempts(admin_client, simulator):
    message = enqueue(ADDRESS)
    sender.drain()

    shown = page(admin_client, "message_change", message.pk)

    assert delivery_of(message).esp_message_id in shown
    assert "accepted" in shown


@pytest.mark.parametrize("name", ["message_changelist", "message_change"])
def test_messages_do_not_show_what_they_say(admin_client, message, name):
    shown = page(admin_client, name, *([message.pk] if name == "message_change" else []))

    assert "the-token-in-a-link" not in shown
    assert "the-challenges-id" not in shown


def test_deliveries_are_listed(admin_client, message):
    listed = page(admin_client, "deliverystatus_changelist")

    assert ADDRESS in listed
    assert str(delivery_of(message).pk) in listed


@pytest.mark.parametrize("query", [{"status": "bounced"}, {"kind": "welcome"}, {"q": ADDRESS}, {"q": "re-1"}], ids=str)
def test_deliveries_are_found(admin_client, message, query):
    delivery = delivery_of(message)
    other = delivery_of(enqueue("bob@example.com"))
    DeliveryStatus.objects.filter(pk=other.pk).update(kind="verification")

    listed = page(admin_client, "deliverystatus_changelist", **query)

    assert str(delivery.pk) in listed
    assert str(other.pk) not in listed


def test_a_delivery_shows_its_events(admin_client, message):
    shown = page(admin_client, "deliverystatus_change", delivery_of(message).pk)

    assert "550 no such user" in shown
    assert ADDRESS in shown


@pytest.mark.parametrize("name", ["deliverystatus_changelist", "deliverystatus_change", "message_change"])
def test_addresses_are_masked_for_those_who_may_not_see_them(looker, message, name):
    delivery = delivery_of(message)
    args = {"deliverystatus_change": [delivery.pk], "message_change": [message.pk]}.get(name, [])

    shown = page(looker, name, *args)

    assert ADDRESS not in shown
    assert "a***@example.com" in shown


def test_addresses_cannot_be_guessed_by_those_who_may_not_see_them(looker, message):
    listed = page(looker, "deliverystatus_changelist", q=ADDRESS)

    assert str(delivery_of(message).pk) not in listed


@pytest.mark.parametrize("name", ["message_add", "deliverystatus_add"])
def test_nothing_is_added_by_hand(admin_client, name):
    assert admin_client.get(reverse(f"admin:mailer_{name}")).status_code == 403


@pytest.mark.parametrize("action", ["change", "delete"])
def test_nothing_is_changed_or_deleted_by_hand(admin_client, message, action):
    for name, row in {"message": message, "deliverystatus": delivery_of(message)}.items():
        answer = admin_client.post(reverse(f"admin:mailer_{name}_{action}", args=[row.pk]), {"kind": "other"})
        assert answer.status_code == 403

    assert read(message).kind == "welcome"
    assert delivery_of(message).kind == "welcome"


def test_lists_take_a_constant_number_of_queries(admin_client, message, django_assert_max_num_queries):
    for _ in range(20):
        enqueue()

    for name in ("message_changelist", "deliverystatus_changelist"):
        with django_assert_max_num_queries(8):
            page(admin_client, name)


def test_every_page_is_read_only():
    for page_ in (MessageAdmin, DeliveryStatusAdmin):
        for inline in page_.inlines:
            assert not inline.has_add_permission(None, None)
            assert not inline.has_change_permission(None, None)
            assert not inline.has_delete_permission(None, None)


@pytest.mark.parametrize(
    ("recipient", "masked"),
    [
        ("ada@example.com", "a***@example.com"),
        ("a@example.com", "a***@example.com"),
        ('"a b"@example.com', '"***@example.com'),
    ],
)
def test_masked_recipient(recipient, masked):
    assert DeliveryStatus(recipient=recipient).masked_recipient == masked


def test_names_hold_no_address(message):
    delivery = delivery_of(message)

    names = [str(message), str(delivery), *map(str, delivery.events.all())]

    assert [sign for sign in ("@", "example") if sign in " ".join(names)] == []
