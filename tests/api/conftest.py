"""People, their clients and their deliveries."""

import io
import itertools
import json

import pytest
from django.contrib.auth.models import Permission
from django.core.management import call_command
from knox.models import AuthToken
from rest_framework.test import APIClient

from mailer import ledger, outbox
from mailer.ledger import Fact, Source
from mailer.models import DeliveryStatus, Message
from mailer.status import EVENT_STATUS
from users.models import User
from webhooks import inbox
from webhooks.providers import Incoming

PASSWORD = "correct horse battery"
_numbers = itertools.count()


def make_user(email="ada@example.com", *permissions, **fields):
    """Save a user who gets no mail, as one whose address was verified long ago."""
    user = User(email=email, email_canonical=email.casefold(), **fields)
    user.set_password(PASSWORD)
    User.objects.bulk_create([user])
    for permission in permissions:
        user.user_permissions.add(Permission.objects.get(codename=permission))
    return user


def client_of(user):
    """Return a client that sends a token of the user's."""
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {AuthToken.objects.create(user=user)[1]}")
    return client


def happen(delivery, event_type, **fields):
    """Let a webhook tell of an event."""
    key = ledger.dedupe_key("test", next(_numbers))
    given = {"status": EVENT_STATUS[event_type], "source": Source.WEBHOOK, **fields}
    ledger.record([Fact(event_type=event_type, dedupe_key=key, delivery_id=delivery.pk, **given)])


def deliver(recipient="ada@example.com", *, user=None, kind="welcome", events=(), **fields):
    """Enqueue a message, let these events happen to it, and return its delivery."""
    message = outbox.enqueue(kind, recipient, dedupe_key=f"test:{next(_numbers)}", user=user)
    delivery = DeliveryStatus.objects.get(message=message)
    for event_type in events:
        happen(delivery, event_type, **fields)
    delivery.refresh_from_db()
    return delivery


def post(delivery, body=None):
    """Let Postmark post that a mail was delivered, or a body of one's own; return the receipt."""
    told = {
        "RecordType": "Delivery",
        "MessageID": "esp-1",
        "Recipient": delivery.recipient,
        "DeliveredAt": "2026-11-20T16:33:54Z",
        "Details": "smtp;250 OK",
        "Metadata": {"message_id": str(delivery.message_id)},
    }
    Message.objects.filter(pk=delivery.message_id).update(provider="postmark")  # as the intent to send it does
    return inbox.process("postmark", Incoming({}, json.dumps(told).encode() if body is None else body))


def problem_of(response, status, code):
    """Return the problem that a response holds, checked for what every one of them has."""
    body = response.json()
    assert response["Content-Type"] == "application/problem+json"
    assert [*body] == ["type", "title", "status", "detail", "instance", "code", "request_id", "errors"]
    assert (response.status_code, body["status"], body["code"]) == (status, status, code)
    assert body["instance"] == response.request["PATH_INFO"]
    assert body["request_id"]
    return body


def places(problem):
    """Return where the errors of a problem are, and what they are."""
    return [(error.get("pointer") or error.get("parameter"), error["code"]) for error in problem["errors"]]


@pytest.fixture
def anyone():
    return APIClient()


@pytest.fixture
def ada(db):
    return make_user()


@pytest.fixture
def owner(ada):
    return client_of(ada)


@pytest.fixture
def operator(db):
    """One who sees deliveries, and no whole address."""
    return client_of(make_user("operator@example.net", "view_deliverystatus"))


@pytest.fixture
def supervisor(db):
    """One who sees whole addresses, too."""
    return client_of(make_user("supervisor@example.net", "view_deliverystatus", "view_recipient"))


@pytest.fixture
def repairer(db):
    """One who sees webhook receipts and has them read again, and sees no whole address."""
    return client_of(make_user("repairer@example.net", "view_webhookreceipt", "change_webhookreceipt"))


@pytest.fixture(scope="session")
def document():
    """The OpenAPI document, as a program reads it."""
    written = io.StringIO()
    call_command("spectacular", "--validate", "--fail-on-warn", "--format", "openapi-json", stdout=written)
    return json.loads(written.getvalue())
