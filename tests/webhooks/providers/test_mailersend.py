"""MailerSend's webhooks.

The shapes: developers.mailersend.com/api/v1/webhooks.html, as it is and as it was before August 2025.
"""

import hashlib
import hmac
import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from mailer.models import DeliveryEvent
from tests.webhooks.conftest import delivery_of
from tests.webhooks.providers import mangled
from webhooks import normal
from webhooks.exceptions import Rejected
from webhooks.models import WebhookReceipt
from webhooks.providers import Incoming, mailersend

URL = "/webhooks/mailersend/"
SECRETS = ("first-signing-secret", "second-signing-secret")
EVERYONE = mailersend.CHECK_SECRET
MESSAGE_ID = "6892766ae78995a317577aa1"
RECIPIENT = "john@example.com"
CHECK = {"type": "webhook.test", "message": "This is a ping test message", "created_at": "2026-11-20T18:02:55.577080Z"}


def event(kind, meta=(), **changes):
    return {
        "type": f"activity.{kind}",
        "created_at": "2026-11-20T18:02:55.000000Z",
        "data": {
            "id": "6892766a5b66e2daf3dc9155",
            "domain_id": "yv69oxl5kl785kw2",
            "message_id": MESSAGE_ID,
            "email_id": "6892766a8d52ba62543d5e71",
            "type": kind,
            "subject": "Welcome",
            "email": RECIPIENT,
            "tags": ["welcome"],
            "meta": meta or [],
            **changes,
        },
    }


def older(kind, morph=None, **changes):
    return {
        "type": f"activity.{kind}",
        "domain_id": "yv69oxl5kl785kw2",
        "created_at": "2026-11-20T18:02:57.298647Z",
        "webhook_id": "2351ndgwr4zqx8ko",
        "url": "https://accounts.example.com/webhooks/mailersend/",
        "data": {
            "object": "activity",
            "id": "6892766a5b66e2daf3dc9155",
            "type": kind,
            "created_at": "2026-11-20T18:02:55.000000Z",
            "email": {
                "object": "email",
                "id": "6892766a8d52ba62543d5e71",
                "from": "accounts@example.com",
                "subject": "Welcome",
                "status": "sent",
                "tags": None,
                "message": {"object": "message", "id": MESSAGE_ID, "created_at": "2026-11-20T18:02:50.061000Z"},
                "recipient": {"object": "recipient", "id": "5f6", "email": RECIPIENT},
            },
            "morph": morph,
            "template_id": "",
            **changes,
        },
    }


def bounced(kind, reason):
    return event(kind, {"reason": reason}), older(kind, {"object": "recipient_bounce", "reason": reason})


def encoded(payload):
    """Return a body as MailerSend writes it, with its slashes escaped."""
    return payload if isinstance(payload, bytes) else json.dumps(payload).replace("/", "\\/").encode()


def signature(body, secret=SECRETS[0]):
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def incoming(payload, **how):
    body = encoded(payload)
    return Incoming({"signature": signature(body, **how)}, body)


def accepts(request, secrets=SECRETS):
    try:
        mailersend.verify(request, secrets)
    except Rejected:
        return False
    return True


def contents(payload):
    return normal.read("mailersend", incoming(payload), uuid4())


def read(payload):
    [fact] = contents(payload).facts
    return fact


@pytest.fixture(autouse=True)
def _secrets(settings):
    settings.WEBHOOK_SECRETS = {"mailersend": list(SECRETS)}


@pytest.fixture
def post(client):
    def send(payload, **how):
        body = encoded(payload)
        headers = {"Signature": signature(body, **how)}
        return client.post(URL, body, content_type="application/json", headers=headers)

    return send


KINDS = [
    ("sent", "sent", "sent"),
    ("delivered", "delivered", "delivered"),
    ("soft_bounced", "bounced", "soft_bounced"),
    ("hard_bounced", "bounced", "bounced"),
    ("deferred", "deferred", "deferred"),
    ("opened", "opened", "delivered"),
    ("opened_unique", "unknown", "delivered"),
    ("clicked", "clicked", "delivered"),
    ("clicked_unique", "unknown", "delivered"),
    ("unsubscribed", "unsubscribed", "delivered"),
    ("spam_complaint", "complained", "complained"),
    ("survey_opened", "unknown", "delivered"),
    ("survey_submitted", "unknown", "delivered"),
    ("teleported", "unknown", None),
]


@pytest.mark.parametrize("shape", [event, older])
@pytest.mark.parametrize(("kind", "event_type", "status"), KINDS, ids=[row[0] for row in KINDS])
def test_event_of_each_type(shape, kind, event_type, status):
    fact = read(shape(kind))

    assert (fact.event_type, fact.status) == (event_type, status)
    assert fact.occurred_at == datetime(2026, 11, 20, 18, 2, 55, tzinfo=UTC)
    assert (fact.esp_message_id, fact.recipient_canonical) == (MESSAGE_ID, RECIPIENT)
    assert fact.esp_event_id == "6892766a5b66e2daf3dc9155"


@pytest.mark.parametrize(
    "payload",
    [
        {"type": "sender_identity.verified", "created_at": "2026-11-20 22:27:14", "data": {"email": RECIPIENT}},
        {"type": "maintenance.start", "created_at": "2026-11-20 22:27:14", "data": {"domain_id": "7nxe3yjmeq28vp0k"}},
        {"type": "maintenance.end", "created_at": "2026-11-20 22:27:31", "data": {"domain_id": "7nxe3yjmeq28vp0k"}},
        {"type": "inbound_forward.failed", "data": {"inbound_id": "7nxe3yjmeq28vp0k"}},
        {"object": "email_single.verified", "data": {"address": RECIPIENT, "result": "valid", "error": None}},
        {"type": "email_list.verified", "data": {"id": "lx1p78jk1o53rzn4", "total": 1}},
        {"type": "bulk_email.completed", "data": {"id": "689286b1cf375b31ffa45498", "state": "completed"}},
        {"type": "recipient.on_hold_added", "data": {"email": RECIPIENT}},
        {"type": "recipient.on_hold_removed", "data": {"email": RECIPIENT}},
        CHECK,
    ],
    ids=lambda payload: payload.get("type", "email_single.verified"),
)
def test_what_is_about_no_mail_says_nothing(payload):
    found = contents(payload)

    assert (found.facts, found.unreadable) == ([], [])


FAILURES = [
    *[(payload, "bounced", "dns", "") for payload in bounced("hard_bounced", "Host or domain name not found")],
    *[(payload, "bounced", "no_mailbox", "5.1.1") for payload in bounced("hard_bounced", "550 5.1.1 No such user")],
    *[(payload, "soft_bounced", "mailbox_full", "4.2.2") for payload in bounced("soft_bounced", "452 4.2.2 quota")],
    *[(payload, "soft_bounced", "other", "") for payload in bounced("soft_bounced", "Unknown reason")],
    *[(payload, "deferred", "unreachable", "") for payload in bounced("deferred", "Connection timed out")],
    (event("hard_bounced"), "bounced", "", ""),
]


@pytest.mark.parametrize(("payload", "status", "category", "code"), FAILURES)
def test_failure_is_told_from_others(payload, status, category, code):
    fact = read(payload)

    assert (fact.status, fact.category, fact.smtp_status) == (status, category, code)


@pytest.mark.parametrize("payload", bounced("hard_bounced", "550 5.1.1 No such user"))
def test_failure_keeps_what_was_said(payload):
    assert read(payload).detail == "550 5.1.1 No such user"


@pytest.mark.django_db
@pytest.mark.parametrize("shape", [event, older])
def test_event_finds_its_delivery_by_the_message_s_id(post, sent, shape):
    message = sent("mailersend", MESSAGE_ID)

    response = post(shape("hard_bounced"))

    assert (response.status_code, response.content) == (200, b"")
    assert delivery_of(message).status == "bounced"


@pytest.mark.django_db
def test_repeat_changes_nothing(post, sent):
    message = sent("mailersend", MESSAGE_ID)

    answers = [post(event("opened")).status_code for _ in range(2)]

    assert answers == [200, 200]
    assert delivery_of(message).open_count == 1
    assert DeliveryEvent.objects.filter(source="webhook").count() == 1


@pytest.mark.django_db
def test_first_open_is_counted_once(post, sent):
    message = sent("mailersend", MESSAGE_ID)

    post(event("opened"))
    post(event("opened_unique", id="6892766a5b66e2daf3dc9156"))

    assert delivery_of(message).open_count == 1


@pytest.mark.parametrize("change", [{"email": "jane@example.com"}, {"id": "another"}, {"type": "clicked"}])
def test_other_event_has_another_key(change):
    assert read(event("opened", **change)).dedupe_key != read(event("opened")).dedupe_key


@pytest.mark.parametrize("name", ["id", "message_id", "email", "tags", "meta", "subject"])
def test_event_without_a_field_is_read(name):
    payload = event("hard_bounced")
    del payload["data"][name]

    assert read(payload).status == "bounced"


@pytest.mark.parametrize("name", ["message", "recipient", "tags"])
def test_older_event_without_a_field_is_read(name):
    payload = older("hard_bounced")
    del payload["data"]["email"][name]

    assert read(payload).status == "bounced"


@pytest.mark.parametrize("value", [None, "soon", "2026-13-45T99:99:99Z", [], 1e17])
def test_event_whose_time_is_none_is_read(value):
    assert read({**event("sent"), "created_at": value}).occurred_at is None


@pytest.mark.django_db
@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"null", b"{}", b"[" * 100_000, b'{"type":"activity.sent"}'])
def test_body_that_cannot_be_read_is_kept_as_poison(post, body):
    assert post(body).status_code == 200
    assert WebhookReceipt.objects.get().state == "poison"


@pytest.mark.parametrize("secret", SECRETS)
def test_either_secret_is_accepted(secret):
    assert accepts(incoming(event("sent"), secret=secret))


def test_another_secret_is_refused():
    assert not accepts(incoming(event("sent"), secret="another"))


@pytest.mark.parametrize("header", ["", "x", "é", "\ud800", signature(b"another body"), "sha256="])
def test_another_signature_is_refused(header):
    body = encoded(event("sent"))

    assert not accepts(Incoming({"signature": header}, body))
    assert not accepts(Incoming({}, body))


@limits(max_examples=150, deadline=None)
@given(data=st.data())
def test_one_byte_of_the_body_decides(data):
    request = incoming(event("sent"))
    body = bytearray(request.body)
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))

    assert accepts(Incoming(request.headers, bytes(body))) == (bytes(body) == request.body)


def test_secret_that_all_know_proves_a_check_alone():
    assert accepts(incoming(CHECK, secret=EVERYONE), [EVERYONE])
    assert not accepts(incoming(CHECK, secret=EVERYONE))
    for payload in (event("sent"), older("sent"), b"", b"[]", b"\xff", {"type": ["webhook.test"]}):
        assert not accepts(incoming(payload, secret=EVERYONE), [EVERYONE, SECRETS[0]])


@pytest.mark.parametrize(
    ("payload", "accepted"),
    [
        ({**CHECK, "message": "x" * 850}, True),
        ({**CHECK, "message": "x" * 1024}, False),
        ({**CHECK, "data": {}}, False),
        ({**CHECK, "message": ["x"]}, False),
        ({"type": "webhook.test"}, False),
        ({"object": "webhook.test", "message": "", "created_at": ""}, False),
    ],
)
def test_check_is_small_and_of_one_shape(payload, accepted):
    assert accepts(incoming(payload, secret=EVERYONE), [EVERYONE]) == accepted


@pytest.mark.django_db
def test_check_of_the_address_is_answered_200(post, settings):
    settings.WEBHOOK_SECRETS = {"mailersend": [EVERYONE]}

    assert post(CHECK, secret=EVERYONE).status_code == 200
    assert WebhookReceipt.objects.get().events == 0


@pytest.mark.django_db
def test_forged_request_is_answered_401(post):
    assert post(event("sent"), secret="another").status_code == 401
    assert not WebhookReceipt.objects.exists()


VALID = [shape(row[0]) for row in KINDS for shape in (event, older)] + [row[0] for row in FAILURES]


@limits(max_examples=200, deadline=None)
@given(payload=mangled.payloads(VALID))
def test_mangled_event_is_read_or_unreadable(payload):
    found = contents(payload)

    assert len(found.facts) + len(found.unreadable) <= 1


@limits(max_examples=100, deadline=None)
@given(body=mangled.bodies(VALID))
def test_mangled_body_is_refused_or_read(body):
    request = Incoming({"signature": signature(encoded(VALID[0]))}, body)

    accepts(request, [*SECRETS, EVERYONE])
    found = normal.read("mailersend", request, uuid4())

    assert len(found.facts) + len(found.unreadable) <= 1
