"""Mandrill's webhooks.

The shapes: mandrill.zendesk.com/hc/en-us/articles/205583307-Message-Event-Webhook-Format, and what its own test posts.
"""

import base64
import hashlib
import hmac
import json
import tracemalloc
from datetime import UTC, datetime
from urllib.parse import quote, unquote_plus, urlencode
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
from webhooks.providers import Incoming, mandrill

PATH = "/webhooks/mandrill/"
URL = f"http://testserver{PATH}"
FORM = "application/x-www-form-urlencoded"
SECRETS = ("first-webhook-key", "second-webhook-key")
MESSAGE_ID = "1dbc399ff23847f1a7bd5bcc047b3089"
RECIPIENT = "john@example.com"
SERVER_SAID = "smtp;550 5.1.1 The email account that you tried to reach does not exist."


def event(kind, message=None, **changes):
    return {
        "event": kind,
        "msg": {
            "ts": 1795197000,
            "_id": MESSAGE_ID,
            "_version": "n7ryzhjgtNQ7iu-681TS9g",
            "state": "sent",
            "subject": "Welcome",
            "email": RECIPIENT,
            "sender": "accounts@example.com",
            "tags": ["welcome"],
            "metadata": {"user": "42"},
            "opens": [],
            "clicks": [],
            "smtp_events": [],
            "resends": [],
            "template": None,
            **(message or {}),
        },
        "_id": MESSAGE_ID,
        "ts": 1795197775,
        **changes,
    }


def bounce(kind, description, diag, code=10):
    return event(kind, {"state": "bounced", "bounce_description": description, "bgtools_code": code, "diag": diag})


def reject(reason, **more):
    return event("reject", {"state": "rejected", "reject": {"reason": reason, "last_event_at": None, **more}})


DELAYED = event(
    "deferral",
    {
        "state": "deferred",
        "smtp_events": [
            {"ts": 1795197100, "type": "deferred", "diag": "421 4.7.0 busy", "source_ip": "192.0.2.1", "size": 0},
            {"ts": 1795197200, "type": "deferred", "diag": "451 4.3.5 try again later", "source_ip": "192.0.2.1"},
        ],
    },
)


def signature(fields, secret=SECRETS[0], url=URL):
    signed = url + "".join(f"{name}{fields[name]}" for name in sorted(fields))
    return base64.b64encode(hmac.new(secret.encode(), signed.encode(), hashlib.sha1).digest()).decode()


def form(*events):
    return {"mandrill_events": json.dumps([*events])}


def incoming(fields, *, body=None, url=URL, **how):
    headers = {"x-mandrill-signature": signature(fields, **how)}
    return Incoming(headers, urlencode(fields).encode() if body is None else body, url)


def accepts(request, secrets=SECRETS):
    try:
        mandrill.verify(request, secrets)
    except Rejected:
        return False
    return True


def read(data):
    [fact] = normal.read("mandrill", incoming(form(data)), uuid4()).facts
    return fact


@pytest.fixture(autouse=True)
def _secrets(settings):
    settings.WEBHOOK_SECRETS = {"mandrill": list(SECRETS)}


@pytest.fixture
def post(client):
    def send(*events, **how):
        fields = form(*events)
        headers = {"X-Mandrill-Signature": signature(fields, **how)}
        return client.post(PATH, urlencode(fields), content_type=FORM, headers=headers)

    return send


EVENTS = [
    (event("send"), "sent", "sent"),
    (DELAYED, "deferred", "deferred"),
    (event("delivered"), "delivered", "delivered"),
    (bounce("hard_bounce", "bad_mailbox", SERVER_SAID), "bounced", "bounced"),
    (bounce("soft_bounce", "mailbox_full", "smtp;552 5.2.2 Over Quota", 22), "bounced", "soft_bounced"),
    (event("open", ip="192.0.2.7", user_agent="Mozilla/5.0", location=None), "opened", "delivered"),
    (event("click", ip="192.0.2.7", url="https://example.com/"), "clicked", "delivered"),
    (event("spam"), "complained", "complained"),
    (event("unsub"), "unsubscribed", "delivered"),
    (event("reject", {"state": "rejected"}), "rejected", "rejected"),
    (event("teleported"), "unknown", None),
]


@pytest.mark.parametrize(("data", "event_type", "status"), EVENTS, ids=[row[0]["event"] for row in EVENTS])
def test_event_of_each_type(data, event_type, status):
    fact = read(data)

    assert (fact.event_type, fact.status) == (event_type, status)
    assert fact.occurred_at == datetime(2026, 11, 20, 18, 2, 55, tzinfo=UTC)
    assert (fact.esp_message_id, fact.recipient_canonical) == (MESSAGE_ID, RECIPIENT)


@pytest.mark.parametrize("kind", ["blacklist", "whitelist", "denylist", "allowlist"])
def test_change_of_a_list_says_nothing_of_a_mail(kind):
    entry = {"email": RECIPIENT, "detail": "by hand", "created_at": "2026-11-20 12:03:19"}

    fact = read({"type": kind, "action": "add", "reject": {**entry, "reason": "custom"}, "ts": 1795197775})

    assert (fact.event_type, fact.status, fact.recipient_canonical) == ("unknown", None, RECIPIENT)


FAILURES = [
    (bounce("hard_bounce", "bad_mailbox", SERVER_SAID), "bounced", "no_mailbox", "5.1.1"),
    (bounce("hard_bounce", "bad_mailbox", ""), "bounced", "no_mailbox", ""),
    (bounce("hard_bounce", "general", "smtp;550 5.7.1 denied by policy"), "bounced", "policy", "5.7.1"),
    (bounce("soft_bounce", "invalid_domain", "", 21), "soft_bounced", "dns", ""),
    (bounce("soft_bounce", "mailbox_full", "smtp;552 5.2.2 Over Quota"), "soft_bounced", "mailbox_full", "5.2.2"),
    (DELAYED, "deferred", "unreachable", "4.3.5"),
    (event("deferral"), "deferred", "", ""),
    (reject("hard-bounce"), "suppressed", "no_mailbox", ""),
    (reject("soft-bounce"), "suppressed", "other", ""),
    (reject("spam"), "suppressed", "policy", ""),
    (reject("unsub"), "suppressed", "policy", ""),
    (reject("custom"), "suppressed", "policy", ""),
    (reject("invalid"), "rejected", "no_mailbox", ""),
    (reject("unsigned"), "rejected", "policy", ""),
    (reject("something new"), "rejected", "other", ""),
]


@pytest.mark.parametrize(("data", "status", "category", "code"), FAILURES)
def test_failure_is_told_from_others(data, status, category, code):
    fact = read(data)

    assert (fact.status, fact.category, fact.smtp_status) == (status, category, code)


def test_failure_keeps_what_was_said():
    assert read(FAILURES[0][0]).detail == SERVER_SAID
    assert read(DELAYED).detail == "451 4.3.5 try again later"
    assert read(reject("custom", detail="by hand")).detail == "by hand"


@pytest.mark.django_db
def test_events_of_a_request_are_recorded(post, sent):
    message = sent("mandrill", MESSAGE_ID)
    metadata = {"metadata": {"message_id": str(message.pk)}}

    response = post(event("send", metadata), bounce("hard_bounce", "bad_mailbox", SERVER_SAID), event("open", metadata))

    assert (response.status_code, response.content) == (200, b"")
    assert delivery_of(message).status == "bounced"
    assert DeliveryEvent.objects.filter(source="webhook", delivery_id=delivery_of(message).pk).count() == 3


@pytest.mark.django_db
@pytest.mark.parametrize("bad", [{"event": "inbound", "msg": {"raw_msg": "From: x"}}, None, [], 7, {"msg": None}])
def test_event_that_cannot_be_read_harms_no_other(post, sent, bad):
    message = sent("mandrill", MESSAGE_ID)

    response = post(event("send"), bad, event("delivered"))

    assert response.status_code == 200
    assert delivery_of(message).status == "delivered"
    assert WebhookReceipt.objects.get().unreadable == 1


@pytest.mark.django_db
def test_repeat_changes_nothing(post, sent):
    sent("mandrill", MESSAGE_ID)

    answers = [post(event("open"), event("open")).status_code for _ in range(2)]

    assert answers == [200, 200]
    assert DeliveryEvent.objects.filter(source="webhook").count() == 1


@pytest.mark.parametrize(
    "data", [event("open", {"email": "jane@example.com"}), event("open", ts=1795197776), event("click")]
)
def test_other_event_has_another_key(data):
    assert read(data).dedupe_key != read(event("open")).dedupe_key


@pytest.mark.parametrize("name", ["_id", "ts", "msg"])
def test_event_without_a_field_is_read(name):
    data = event("delivered")
    del data[name]

    assert read(data).status == "delivered"


@pytest.mark.parametrize("name", ["email", "metadata", "tags", "ts", "_id"])
def test_event_without_a_field_of_its_message_is_read(name):
    data = event("delivered")
    del data["msg"][name]

    assert read(data).status == "delivered"


@pytest.mark.parametrize("value", [None, "soon", [], 1e17, 10**400])
def test_event_whose_time_is_none_is_read(value):
    assert read(event("delivered", ts=value)).occurred_at is None


def test_time_in_digits_is_read():
    assert read(event("delivered", ts="1795197775")).occurred_at == datetime(2026, 11, 20, 18, 2, 55, tzinfo=UTC)


@pytest.mark.parametrize("secret", SECRETS)
def test_either_secret_is_accepted(secret):
    assert accepts(incoming(form(event("send")), secret=secret))


def test_example_of_the_form_with_two_fields():
    assert accepts(incoming({"mandrill_events": "[]", "a_new_field": "1"}))


def test_text_beyond_ascii_is_accepted():
    assert accepts(
        incoming({"mandrill_events": json.dumps([event("send", {"subject": "Grüße 🎉"})], ensure_ascii=False)})
    )


@given(text=st.text(st.characters(codec="utf-8")), safe=st.sampled_from(["", "=", " \r\n\t", "._+"]))
def test_form_is_decoded_as_the_standard_library_decodes_it(text, safe):
    encoded = quote(text, safe)

    assert mandrill._decoded(encoded.encode()) == unquote_plus(encoded)


def test_forged_form_takes_little_more_than_its_own_size():
    body = b"mandrill_events=" + b"%41" * 300_000

    tracemalloc.start()
    try:
        assert not accepts(Incoming({}, body, URL))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 5 * len(body)


@pytest.mark.parametrize("url", [URL[:-1], URL.upper(), f"{URL}?a=1", URL.replace("http:", "https:"), ""])
def test_another_url_is_refused(url):
    request = incoming(form(event("send")))

    assert not accepts(Incoming(request.headers, request.body, url))


def test_another_secret_is_refused():
    assert not accepts(incoming(form(event("send")), secret="another"))


@pytest.mark.parametrize("header", ["", "x", "=", "é", "\ud800"])
def test_another_signature_is_refused(header):
    request = incoming(form(event("send")))

    assert not accepts(Incoming({"x-mandrill-signature": header}, request.body, URL))
    assert not accepts(Incoming({}, request.body, URL))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"mandrill_events",
        b"mandrill_event=s%5B%5D",
        b"mandrill_events=%5B%5D&mandrill_events=%5B%5D",
        b"mandrill_events=%FF",
        b"\xff",
        b"[]",
        b"m=1" + b"&m=1" * 50,
    ],
)
def test_another_form_is_refused(body):
    assert not accepts(incoming({"mandrill_events": "[]"}, body=body))


@limits(max_examples=100, deadline=None)
@given(data=st.data())
def test_one_character_of_the_events_changed_is_refused(data):
    fields = form(event("send"))
    text = fields["mandrill_events"]
    position = data.draw(st.integers(0, len(text) - 1))
    changed = text[:position] + data.draw(st.characters(codec="utf-8")) + text[position + 1 :]

    request = incoming(fields, body=urlencode({"mandrill_events": changed}).encode())

    assert accepts(request) == (changed == text)


def test_key_that_all_know_proves_a_request_without_events_alone():
    everyone = ["test-webhook"]

    assert accepts(incoming({"mandrill_events": "[]"}, secret="test-webhook"), everyone)
    assert not accepts(incoming(form(event("send")), secret="test-webhook"), everyone)
    assert not accepts(incoming({"mandrill_events": "[]"}, secret="test-webhook"), SECRETS)


@pytest.mark.parametrize(
    "fields",
    [
        {"mandrill_events": "[" + " " * 1024 + "]"},
        {"mandrill_events": "[]", "more": "x"},
        {"mandrill_events": "[]", "more": "x" * 100_000},
        {"mandrill_events": " []"},
        {"mandrill_events": "[[]]"},
        {"mandrill_events": ""},
    ],
    ids=lambda fields: str(fields)[:40],
)
def test_check_is_small_and_of_one_shape(fields):
    assert not accepts(incoming(fields, secret="test-webhook"), ["test-webhook"])


@pytest.mark.django_db
def test_check_of_the_address_by_post_is_answered_200(post, settings):
    settings.WEBHOOK_SECRETS = {"mandrill": ["test-webhook"]}

    assert post(secret="test-webhook").status_code == 200
    assert WebhookReceipt.objects.get().events == 0


def test_address_is_asked_by_head():
    assert mandrill.WEBHOOK.answers == ("HEAD",)


@pytest.mark.django_db
def test_forged_request_is_answered_401(post):
    assert post(event("send"), secret="another").status_code == 401
    assert not WebhookReceipt.objects.exists()


@pytest.mark.parametrize("events", ["", "null", "{}", "[", "[" * 100_000, '"text"', "9" * 5000])
def test_field_that_is_no_list_is_unreadable(events):
    contents = normal.read("mandrill", incoming({"mandrill_events": events}), uuid4())

    assert (contents.facts, len(contents.unreadable)) == ([], 1)


@limits(max_examples=200, deadline=None)
@given(data=mangled.payloads([row[0] for row in [*EVENTS, *FAILURES]]))
def test_mangled_event_is_read_or_unreadable(data):
    contents = normal.read("mandrill", incoming(form(data)), uuid4())

    assert len(contents.facts) + len(contents.unreadable) == 1


@limits(max_examples=100, deadline=None)
@given(data=st.data())
def test_mangled_body_is_refused_or_read(data):
    body = bytearray(urlencode(form(event("send"), DELAYED)).encode())
    for _ in range(data.draw(st.integers(1, 6))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    request = incoming(form(event("send"), DELAYED), body=bytes(body))

    accepts(request)
    contents = normal.read("mandrill", request, uuid4())

    assert contents.facts or contents.unreadable
