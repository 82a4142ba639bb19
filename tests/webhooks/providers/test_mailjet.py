"""Mailjet's webhooks. The shapes: dev.mailjet.com/email/guides/webhooks/."""

import json
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import settings as limits

from mailer.models import DeliveryEvent
from tests.webhooks.conftest import basic, delivery_of
from tests.webhooks.providers import mangled
from webhooks import normal
from webhooks.models import WebhookReceipt
from webhooks.providers import Incoming, mailjet

URL = "/webhooks/mailjet/"
SECRETS = ("hook:first-password", "hook:second-password")
MESSAGE_ID = 19421777835146490
RECIPIENT = "john@example.com"
BROWSER = {"ip": "192.0.2.7", "geo": "FR", "agent": "Mozilla/5.0"}
OURS = UUID("01938f5a-5c00-7000-8000-000000000001")


def event(kind, **changes):
    return {
        "event": kind,
        "time": 1795197775,
        "MessageID": MESSAGE_ID,
        "Message_GUID": "1ab23cd4-e567-8901-2345-6789f0gh1i2j",
        "email": RECIPIENT,
        "mj_campaign_id": 7257,
        "mj_contact_id": 4,
        "customcampaign": "",
        "CustomID": "helloworld",
        "Payload": "",
        **changes,
    }


def bounce(error, related_to="recipient", *, hard=True, **changes):
    return event("bounce", blocked=False, hard_bounce=hard, error_related_to=related_to, error=error, **changes)


def blocked(error, related_to="mailjet", **changes):
    return event("blocked", error_related_to=related_to, error=error, **changes)


def contents(payload):
    return normal.read("mailjet", Incoming({}, json.dumps(payload).encode()), uuid4())


def read(data):
    [fact] = contents(data).facts
    return fact


@pytest.fixture(autouse=True)
def _secrets(settings):
    settings.WEBHOOK_SECRETS = {"mailjet": list(SECRETS)}


@pytest.fixture
def post(client):
    def send(payload, credentials=SECRETS[0]):
        body = payload if isinstance(payload, bytes) else json.dumps(payload)
        return client.post(URL, body, content_type="application/json", headers=basic(credentials))

    return send


EVENTS = [
    (event("sent", smtp_reply="sent (250 2.0.0 OK 1433333948 fa5si855896wjc.199 - gsmtp)"), "delivered", "delivered"),
    (event("open", **BROWSER), "opened", "delivered"),
    (event("click", url="https://example.com/", **BROWSER), "clicked", "delivered"),
    (bounce("user unknown"), "bounced", "bounced"),
    (blocked("user unknown", "recipient"), "rejected", "rejected"),
    (event("spam", source="JMRPP"), "complained", "complained"),
    (event("unsub", mj_list_id=1, **BROWSER), "unsubscribed", "delivered"),
    (event("teleported"), "unknown", None),
]


@pytest.mark.parametrize(("data", "event_type", "status"), EVENTS, ids=[row[0]["event"] for row in EVENTS])
def test_event_of_each_type(data, event_type, status):
    fact = read(data)

    assert (fact.event_type, fact.status) == (event_type, status)
    assert fact.occurred_at == datetime(2026, 11, 20, 18, 2, 55, tzinfo=UTC)
    assert (fact.esp_message_id, fact.recipient_canonical) == (str(MESSAGE_ID), RECIPIENT)


UNKNOWN_HOST = "Host or domain name not found. Name service error for name=example.com type=A: Host not found"
FAILURES = [
    (bounce("user unknown"), "bounced", "no_mailbox", ""),
    (bounce("mailbox inactive"), "bounced", "no_mailbox", ""),
    (bounce("quota exceeded", hard=False), "soft_bounced", "mailbox_full", ""),
    (bounce("invalid domain", "domain", comment=UNKNOWN_HOST), "bounced", "dns", ""),
    (bounce("no mail host", "domain", hard=False), "soft_bounced", "unreachable", ""),
    (bounce("relay/access denied", "domain"), "bounced", "policy", ""),
    (bounce("greylisted", "domain", hard=False), "deferred", "policy", ""),
    (bounce("greylisted", "domain"), "bounced", "policy", ""),
    (bounce("sender blocked", "spam", hard=False), "soft_bounced", "policy", ""),
    (bounce("content blocked", "spam", hard=False), "soft_bounced", "spam", ""),
    (bounce("policy issue", "spam", hard=False, comment="421 4.7.0 busy"), "soft_bounced", "policy", "4.7.0"),
    (bounce("system issue", "system", hard=False), "soft_bounced", "unreachable", ""),
    (bounce("protocol issue", "system", hard=False), "soft_bounced", "unreachable", ""),
    (bounce("connection issue", "system", hard=False), "soft_bounced", "unreachable", ""),
    (bounce("", "", comment="550 5.1.1 no such user"), "bounced", "no_mailbox", "5.1.1"),
    (bounce("user unknown", hard=None), "bounced", "no_mailbox", ""),
    (bounce("something new", hard=None), "soft_bounced", "other", ""),
    (blocked("preblocked"), "suppressed", "other", ""),
    (blocked("blacklisted", "recipient"), "suppressed", "policy", ""),
    (blocked("spam reporter", "recipient"), "suppressed", "policy", ""),
    (blocked("duplicate in campaign"), "rejected", "other", ""),
    (blocked("typofix", "domain"), "rejected", "dns", ""),
    (blocked("bad or empty template", "content"), "rejected", "other", ""),
    (blocked("error in template language", "content"), "rejected", "other", ""),
    (blocked("content blocked", "spam"), "rejected", "spam", ""),
]


@pytest.mark.parametrize(("data", "status", "category", "code"), FAILURES)
def test_failure_is_told_from_others(data, status, category, code):
    fact = read(data)

    assert (fact.status, fact.category, fact.smtp_status) == (status, category, code)


def test_failure_keeps_what_was_said():
    assert read(bounce("invalid domain", comment=UNKNOWN_HOST)).detail == UNKNOWN_HOST
    assert read(bounce("user unknown")).detail == "user unknown"


@pytest.mark.django_db
def test_group_of_events_is_recorded(post, sent):
    message = sent("mailjet", str(MESSAGE_ID))
    group = [event("sent"), event("open", Payload=json.dumps({"message_id": str(message.pk)}), **BROWSER)]

    response = post(group)

    assert (response.status_code, response.content) == (200, b"")
    delivery = delivery_of(message)
    assert (delivery.status, delivery.open_count) == ("delivered", 1)


@pytest.mark.django_db
def test_event_alone_is_recorded(post, sent):
    message = sent("mailjet", str(MESSAGE_ID))

    post(bounce("user unknown"))

    assert delivery_of(message).status == "bounced"


@pytest.mark.django_db
@pytest.mark.parametrize("bad", [None, [], 7, {}, {"event": {}}])
def test_event_that_cannot_be_read_harms_no_other(post, sent, bad):
    message = sent("mailjet", str(MESSAGE_ID))

    response = post([event("sent"), bad, event("spam", source="JMRPP")])

    assert response.status_code == 200
    assert delivery_of(message).status == "complained"
    assert WebhookReceipt.objects.get().unreadable == 1


@pytest.mark.django_db
def test_repeat_changes_nothing(post, sent):
    sent("mailjet", str(MESSAGE_ID))

    answers = [post([event("open"), event("open")]).status_code for _ in range(2)]

    assert answers == [200, 200]
    assert DeliveryEvent.objects.filter(source="webhook").count() == 1


@pytest.mark.parametrize("change", [{"email": "jane@example.com"}, {"MessageID": 1}, {"time": 1795197776}])
def test_other_event_has_another_key(change):
    assert read(event("open", **change)).dedupe_key != read(event("open")).dedupe_key


@pytest.mark.parametrize(
    "name", ["time", "MessageID", "email", "CustomID", "Payload", "customcampaign", "Message_GUID"]
)
def test_event_without_a_field_is_read(name):
    data = event("sent")
    del data[name]

    assert read(data).status == "delivered"
    assert read({**data, name: None}).status == "delivered"


@pytest.mark.parametrize("value", [None, "soon", [], 1e17, 10**400])
def test_event_whose_time_is_none_is_read(value):
    assert read(event("sent", time=value)).occurred_at is None


def test_id_as_older_events_have_it_is_read():
    data = event("sent", mj_message_id=str(MESSAGE_ID))
    del data["MessageID"]

    assert read(data).esp_message_id == str(MESSAGE_ID)


def test_event_without_a_message_names_none():
    assert read(event("unsub", MessageID=None)).esp_message_id == ""


@pytest.mark.parametrize(
    "change",
    [
        {"Payload": json.dumps({"message_id": str(OURS)})},
        {"CustomID": str(OURS)},
        {"CustomID": str(OURS), "Payload": '{"user": 42}'},
        {"CustomID": str(OURS), "Payload": "[]"},
        {"CustomID": str(OURS), "Payload": {}},
    ],
)
def test_our_id_is_read_from_the_payload_or_the_custom_id(change):
    assert read(event("sent", **change)).message_id == OURS


@pytest.mark.django_db
@pytest.mark.parametrize("credentials", SECRETS)
def test_either_secret_is_accepted(post, credentials):
    assert post([], credentials).status_code == 200


@pytest.mark.django_db
@pytest.mark.parametrize("credentials", ["hook:first-passwor", "hook:", ":first-password", "other:first-password"])
def test_other_credentials_are_answered_401(post, credentials):
    assert post(event("sent"), credentials).status_code == 401
    assert not WebhookReceipt.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("body", [b"", b"\xff", b"[", b"[" * 100_000, b'"sent"', b"7"])
def test_body_that_cannot_be_read_is_kept_as_poison(post, body):
    assert post(body).status_code == 200
    assert WebhookReceipt.objects.get().state == "poison"


def test_secret_is_a_user_and_a_password():
    assert mailjet.WEBHOOK.is_secret("hook:password")
    assert not mailjet.WEBHOOK.is_secret("password")


@limits(max_examples=200, deadline=None)
@given(data=mangled.payloads([row[0] for row in [*EVENTS, *FAILURES]]))
def test_mangled_event_is_read_or_unreadable(data):
    found = contents([data])

    assert len(found.facts) + len(found.unreadable) == 1


@limits(max_examples=100, deadline=None)
@given(body=mangled.bodies([[row[0] for row in EVENTS]]))
def test_mangled_body_is_read_or_unreadable(body):
    found = normal.read("mailjet", Incoming({}, body), uuid4())

    assert isinstance(found.facts, list)
