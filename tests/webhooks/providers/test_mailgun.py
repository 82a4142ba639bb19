"""Mailgun's webhooks.

The shapes: documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads; before 2026 without
`bounce-type`.
"""

import hashlib
import hmac
import json
import time
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from mailer.models import DeliveryEvent
from tests.webhooks.conftest import delivery_of
from webhooks import normal
from webhooks.exceptions import Rejected
from webhooks.models import WebhookReceipt
from webhooks.providers import Incoming, mailgun

URL = "/webhooks/mailgun/"
SECRETS = ("first-signing-key", "second-signing-key")
TOKEN = "e0b5477167110d68991efc6b9f89f0a11066af27834600e123"
MESSAGE_ID = "20261120174255.58bbb7ce85a423e5@mg.example.com"
RECIPIENT = "john@example.com"
SERVER_SAID = "5.1.1 The email account that you tried to reach does not exist."


def event(kind, **changes):
    return {
        "event": kind,
        "id": "MXcc2gEpS-eN8HfkOnmK2w",
        "timestamp": 1795197775.5923693,
        "log-level": "info",
        "flags": {"is-authenticated": True, "is-routed": False, "is-test-mode": False},
        "message": {
            "headers": {
                "message-id": MESSAGE_ID,
                "from": "Accounts <accounts@mg.example.com>",
                "to": RECIPIENT,
                "subject": "Welcome",
            },
            "attachments": [],
            "size": 341,
        },
        "recipient": RECIPIENT,
        "recipient-domain": "example.com",
        "account": {"id": "1234567890303a4bd1f33898"},
        "domain": {"name": "mg.example.com"},
        "tags": ["welcome"],
        "campaigns": [],
        "user-variables": [],
        **changes,
    }


def failed(severity="permanent", reason="bounce", code=550, message=SERVER_SAID, **status):
    report = {"attempt-no": 1, "code": code, "message": message, "description": None, "session-seconds": 0.2, **status}
    return event("failed", severity=severity, reason=reason, **{"delivery-status": report})


def signature(timestamp, token, secret):
    return hmac.new(secret.encode(), f"{timestamp}{token}".encode(), hashlib.sha256).hexdigest()


def signed(data, *, timestamp=None, token=TOKEN, secret=SECRETS[0]):
    timestamp = str(int(time.time()) if timestamp is None else timestamp)
    block = {"token": token, "timestamp": timestamp, "signature": signature(timestamp, token, secret)}
    return {"signature": block, "event-data": data}


def incoming(payload):
    return Incoming({}, payload if isinstance(payload, bytes) else json.dumps(payload).encode())


def accepts(payload, secrets=SECRETS):
    try:
        mailgun.verify(incoming(payload), secrets)
    except Rejected:
        return False
    return True


def read(data, **how):
    [fact] = normal.read("mailgun", incoming(signed(data, **how)), uuid4()).facts
    return fact


@pytest.fixture(autouse=True)
def _secrets(settings):
    settings.WEBHOOK_SECRETS = {"mailgun": list(SECRETS)}


@pytest.fixture
def post(client):
    return lambda payload: client.post(URL, json.dumps(payload), content_type="application/json")


EVENTS = [
    (event("accepted"), "queued", "queued"),
    (event("delivered", **{"delivery-status": {"code": 250, "message": "OK"}}), "delivered", "delivered"),
    (event("opened", ip="192.0.2.10", **{"client-info": {"user-agent": "Mozilla/5.0"}}), "opened", "delivered"),
    (event("clicked", url="https://example.com/", **{"client-info": {"bot": None}}), "clicked", "delivered"),
    (event("unsubscribed", tags=["*"], storage=[]), "unsubscribed", "delivered"),
    (event("complained", envelope={"sending-ip": "192.0.2.9"}), "complained", "complained"),
    (event("rejected", reject={"reason": "Rate limit", "description": ""}), "rejected", "rejected"),
    (failed(**{"enhanced-code": "5.1.1", "bounce-type": "hard"}), "bounced", "bounced"),
    (failed("temporary", "generic", 421, "try again later"), "deferred", "deferred"),
    (event("stored"), "unknown", None),
]


@pytest.mark.parametrize(
    ("data", "event_type", "status"), EVENTS, ids=[f"{row[0]['event']}-{row[1]}" for row in EVENTS]
)
def test_event_of_each_type(data, event_type, status):
    fact = read(data)

    assert (fact.event_type, fact.status) == (event_type, status)
    assert fact.occurred_at == datetime(2026, 11, 20, 18, 2, 55, 592369, UTC)
    assert (fact.esp_message_id, fact.recipient_canonical) == (f"<{MESSAGE_ID}>", RECIPIENT)


FAILURES = [
    (failed(), "bounced", "bounced", "no_mailbox", "5.1.1"),
    (failed("permanent", "delayed-bounce"), "bounced", "bounced", "no_mailbox", "5.1.1"),
    (failed(message="5.2.2 over quota", **{"bounce-type": "soft"}), "bounced", "soft_bounced", "mailbox_full", "5.2.2"),
    (failed(message="5.2.2 over quota"), "bounced", "soft_bounced", "mailbox_full", "5.2.2"),
    (failed(message="over quota", **{"bounce-type": "hard"}), "bounced", "bounced", "mailbox_full", ""),
    (failed(message="5.7.1 rejected by policy"), "bounced", "bounced", "policy", "5.7.1"),
    (failed(message="", **{"enhanced-code": "5.1.2"}), "bounced", "bounced", "dns", "5.1.2"),
    (failed("permanent", "old", 421, "Too old"), "bounced", "soft_bounced", "unreachable", ""),
    (failed("permanent", "old", 602, ""), "bounced", "soft_bounced", "unreachable", ""),
    (failed("permanent", "generic", 499, ""), "bounced", "soft_bounced", "", ""),
    (failed("permanent", "suppress-bounce", 605, ""), "suppressed", "suppressed", "no_mailbox", ""),
    (failed("permanent", "suppress-unsubscribe", 606, ""), "suppressed", "suppressed", "policy", ""),
    (failed("permanent", "suppress-complaint", 607, ""), "suppressed", "suppressed", "policy", ""),
    (failed("permanent", "generic", 605, ""), "suppressed", "suppressed", "no_mailbox", ""),
    (failed("temporary", "espblock", 421, ""), "deferred", "deferred", "policy", ""),
    (failed("temporary", "greylisted", 450, "4.7.1 Greylisted"), "deferred", "deferred", "policy", "4.7.1"),
    (failed("temporary", "generic", 498, "No MX for example.com"), "deferred", "deferred", "dns", ""),
]


@pytest.mark.parametrize(("data", "event_type", "status", "category", "code"), FAILURES)
def test_failure_is_told_from_others(data, event_type, status, category, code):
    fact = read(data)

    assert (fact.event_type, fact.status, fact.category, fact.smtp_status) == (event_type, status, category, code)


def test_failure_keeps_what_the_server_said():
    assert read(failed()).detail == SERVER_SAID


def test_severity_of_another_event_than_a_failure_says_nothing():
    assert read(event("complained", severity="temporary")).status == "complained"


@pytest.mark.django_db
def test_event_is_recorded(post, sent):
    message = sent("mailgun", f"<{MESSAGE_ID}>")

    response = post(signed(failed(**{"user-variables": {"message_id": str(message.pk)}})))

    assert (response.status_code, response.content) == (200, b"")
    assert delivery_of(message).status == "bounced"
    recorded = DeliveryEvent.objects.get(source="webhook")
    assert (recorded.category, recorded.smtp_status) == ("no_mailbox", "5.1.1")


@pytest.mark.django_db
def test_event_without_metadata_finds_its_delivery(post, sent):
    message = sent("mailgun", f"<{MESSAGE_ID}>")

    post(signed(event("delivered")))

    assert delivery_of(message).status == "delivered"


@pytest.mark.django_db
def test_repeat_changes_nothing(post, sent):
    sent("mailgun", f"<{MESSAGE_ID}>")
    payload = signed(event("opened"))

    answers = [post(payload).status_code for _ in range(2)]

    assert answers == [200, 200]
    assert DeliveryEvent.objects.filter(source="webhook").count() == 1


def test_event_has_one_key_in_whatever_request_it_comes():
    assert read(event("opened")).dedupe_key == read(event("opened"), token="f" * 50).dedupe_key


@pytest.mark.parametrize("change", [{"recipient": "jane@example.com"}, {"id": "another"}, {"timestamp": 1795284175.5}])
def test_other_event_has_another_key(change):
    assert read(event("opened")).dedupe_key != read(event("opened", **change)).dedupe_key


@pytest.mark.parametrize("name", ["id", "timestamp", "recipient", "message", "user-variables", "tags", "account"])
def test_event_without_a_field_is_read(name):
    data = event("delivered", **{"delivery-status": None})
    del data[name]

    assert read(data).status == "delivered"


@pytest.mark.parametrize("value", [None, "", "soon", [], 1e17, -1e18, 1e300, float("inf")])
def test_event_whose_time_is_none_is_read(value):
    assert read(event("delivered", timestamp=value)).occurred_at is None


@pytest.mark.django_db
@pytest.mark.parametrize("data", [None, {}, [], "delivered", {"event": {}}, event("failed", **{"delivery-status": 1})])
def test_event_that_cannot_be_read_is_kept_as_poison(post, data):
    response = post(signed(data))

    assert response.status_code == 200
    assert WebhookReceipt.objects.get().state == "poison"


@pytest.mark.parametrize("secret", SECRETS)
def test_either_secret_is_accepted(secret):
    assert accepts(signed(event("opened"), secret=secret))


def test_proof_names_the_request():
    payload = signed(event("opened"), timestamp=(now := int(time.time())))

    assert mailgun.verify(incoming(payload), SECRETS).nonce == f"{now}{TOKEN}"


def test_signature_of_the_primary_account_is_accepted():
    payload = signed(event("opened"), secret="the key of the subaccount")
    payload["signature"]["parent-signature"] = signed(event("opened"))["signature"]["signature"]

    assert accepts(payload)


@pytest.mark.parametrize("offset", [-9 * 3600 + 60, -8 * 3600, 0, 240])
def test_time_within_the_repeats_is_accepted(offset):
    assert accepts(signed(event("opened"), timestamp=int(time.time()) + offset))


@pytest.mark.parametrize("timestamp", [0, -9 * 3600 - 60, 400, 10**9])
def test_stale_or_future_time_is_refused(timestamp):
    assert not accepts(signed(event("opened"), timestamp=timestamp and int(time.time()) + timestamp))


def test_digit_moved_from_the_token_to_the_time_is_refused():
    """Nothing parts them in what is signed."""
    payload = signed(event("opened"), token=f"7{TOKEN}")
    payload["signature"] |= {"timestamp": payload["signature"]["timestamp"] + "7", "token": TOKEN}

    assert not accepts(payload)


@pytest.mark.parametrize("name", ["token", "timestamp", "signature"])
@pytest.mark.parametrize("value", ["", None, 1, [], {}, "x", "\ud800", "é"])
def test_signature_with_another_value_is_refused(name, value):
    payload = signed(event("opened"))
    payload["signature"][name] = value

    assert not accepts(payload)


@pytest.mark.parametrize("name", ["token", "timestamp", "signature"])
def test_one_character_of_the_signature_changed_is_refused(name):
    payload = signed(event("opened"))
    value = payload["signature"][name]
    payload["signature"][name] = value[:-1] + ("1" if value[-1] != "1" else "2")

    assert not accepts(payload)


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"signature":[]}', b"token=1&timestamp=2&signature=3"],
)
def test_other_body_is_refused(body):
    assert not accepts(body)


def test_another_secret_is_refused():
    assert not accepts(signed(event("opened"), secret="another"))


@pytest.mark.django_db
def test_forged_request_is_answered_401(post):
    response = post(signed(event("opened"), secret="another"))

    assert response.status_code == 401  # 406 would stop it for good
    assert not WebhookReceipt.objects.exists()


@limits(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_change_of_a_body_is_refused_or_read(data):
    body = bytearray(json.dumps(signed(data.draw(st.sampled_from([row[0] for row in EVENTS])))).encode())
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))

    accepts(bytes(body))
    contents = normal.read("mailgun", Incoming({}, bytes(body)), uuid4())

    assert len(contents.facts) + len(contents.unreadable) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@limits(max_examples=150, deadline=None)
@given(data=st.data(), value=JSON)
def test_any_value_of_a_field_is_read_or_unreadable(data, value):
    changed = dict(data.draw(st.sampled_from([row[0] for row in [*EVENTS, *FAILURES]])))
    place = data.draw(st.sampled_from([changed, *[each for each in changed.values() if isinstance(each, dict)]]))
    name = data.draw(st.sampled_from(sorted(place)))
    before = place[name]
    place[name] = value

    contents = normal.read("mailgun", incoming(signed(changed)), uuid4())

    place[name] = before
    assert len(contents.facts) + len(contents.unreadable) == 1
