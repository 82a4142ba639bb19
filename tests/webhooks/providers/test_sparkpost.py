"""Every event of SparkPost's: developers.sparkpost.com/api/webhooks."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import settings as limits

from tests.webhooks.conftest import basic, delivery_of, encoded
from tests.webhooks.providers import mangled
from tests.webhooks.providers.reading import contents_of, fact_of
from webhooks import normal
from webhooks.models import WebhookReceipt

URL = "/webhooks/sparkpost/"
SECRETS = ["hook:first-password", "hook:second-password"]
RECIPIENT = "john@example.com"

COMMON = {
    "event_id": "92356927693813856",
    "timestamp": "1795218072",  # 2026-11-20T23:41:12Z
    "message_id": "000443ee14578172be22",
    "transmission_id": "65832150921904138",
    "rcpt_to": RECIPIENT,
    "raw_rcpt_to": RECIPIENT,
    "rcpt_meta": {"message_id": "0193b2a0-5d4c-7c11-8f00-1d2a3b4c5d6e"},
    "rcpt_tags": ["male", "US"],
    "campaign_id": "welcome",
    "subject": "Welcome",
}
CLASSES = {
    "message_event": [
        "bounce",
        "delivery",
        "injection",
        "spam_complaint",
        "out_of_band",
        "policy_rejection",
        "delay",
        "sms_status",
    ],
    "track_event": ["click", "open", "initial_open", "amp_click", "amp_open", "amp_initial_open"],
    "gen_event": ["generation_failure", "generation_rejection"],
    "unsubscribe_event": ["list_unsubscribe", "link_unsubscribe"],
    "ab_test_event": ["ab_test_completed", "ab_test_cancelled"],
    "ingest_event": ["success", "error"],
    "relay_event": ["relay_injection", "relay_delivery", "relay_tempfail", "relay_permfail", "relay_rejection"],
}
OF = {kind: name for name, kinds in CLASSES.items() for kind in kinds}


def event(kind, **fields):
    return {"msys": {OF[kind]: {**COMMON, "type": kind, **fields}}}


def bounce(number, reply="", kind="bounce"):
    return event(kind, bounce_class=number, raw_reason=reply, reason=reply, error_code=reply[:3])


def without(name):
    return {"msys": {"message_event": {key: v for key, v in {**COMMON, "type": "delivery"}.items() if key != name}}}


GONE, FULL = "550 5.1.1 no such user", "452 4.2.2 mailbox full"
SUPPRESSED = "550 5.7.1 recipient address was suppressed due to customer policy"
# Event -> what it means: type, status, category, enhanced code, detail.
EVENTS = [
    (event("injection"), ("queued", "queued", "", "", "")),
    (event("delivery"), ("delivered", "delivered", "", "", "")),
    (bounce("21", FULL, "delay"), ("deferred", "deferred", "dns", "4.2.2", FULL)),
    (bounce("20", FULL, "delay"), ("deferred", "deferred", "mailbox_full", "4.2.2", FULL)),
    (bounce("60", FULL, "delay"), ("deferred", "deferred", "mailbox_full", "4.2.2", FULL)),
    (bounce("1", "550 whatever"), ("bounced", "soft_bounced", "other", "", "550 whatever")),
    (bounce("10", GONE), ("bounced", "bounced", "no_mailbox", "5.1.1", GONE)),
    (bounce("20", FULL), ("bounced", "soft_bounced", "mailbox_full", "4.2.2", FULL)),
    (bounce("21"), ("bounced", "soft_bounced", "dns", "", "")),
    (bounce("22", FULL), ("bounced", "soft_bounced", "mailbox_full", "4.2.2", FULL)),
    (bounce("23"), ("bounced", "soft_bounced", "policy", "", "")),
    (bounce("24"), ("bounced", "soft_bounced", "unreachable", "", "")),
    (bounce("25"), ("rejected", "rejected", "policy", "", "")),
    (bounce("25", SUPPRESSED), ("suppressed", "suppressed", "policy", "5.7.1", SUPPRESSED)),
    (bounce("10", "550 5.1.1 suppressed"), ("bounced", "bounced", "no_mailbox", "5.1.1", "550 5.1.1 suppressed")),
    (bounce("26"), ("suppressed", "suppressed", "policy", "", "")),
    (bounce("30", GONE), ("bounced", "bounced", "no_mailbox", "5.1.1", GONE)),
    (bounce("40"), ("bounced", "soft_bounced", "", "", "")),
    (bounce("50"), ("bounced", "soft_bounced", "policy", "", "")),
    (bounce("51"), ("bounced", "soft_bounced", "spam", "", "")),
    (bounce("52"), ("bounced", "soft_bounced", "spam", "", "")),
    (bounce("53"), ("bounced", "soft_bounced", "policy", "", "")),
    (bounce("54"), ("bounced", "soft_bounced", "policy", "", "")),
    (bounce("70"), ("bounced", "soft_bounced", "", "", "")),
    (bounce("999", GONE), ("bounced", "soft_bounced", "no_mailbox", "5.1.1", GONE)),
    (event("bounce"), ("bounced", "soft_bounced", "", "", "")),
    (bounce("60"), ("autoresponded", None, "", "", "")),
    (bounce("80"), ("subscribed", None, "", "", "")),
    (bounce("90"), ("unsubscribed", "delivered", "", "", "")),
    (bounce("100"), ("autoresponded", None, "", "", "")),
    (bounce("10", GONE, "out_of_band"), ("bounced", "bounced", "no_mailbox", "5.1.1", GONE)),
    (bounce("60", "", "out_of_band"), ("autoresponded", None, "", "", "")),
    (event("spam_complaint", fbtype="abuse"), ("complained", "complained", "", "", "")),
    (bounce("25", SUPPRESSED, "policy_rejection"), ("suppressed", "suppressed", "policy", "5.7.1", SUPPRESSED)),
    (bounce("25", "550 no", "policy_rejection"), ("rejected", "rejected", "policy", "", "550 no")),
    (event("generation_failure", raw_reason="no template"), ("failed", "failed", "", "", "no template")),
    (event("generation_rejection", raw_reason="no"), ("rejected", "rejected", "policy", "", "no")),
    (event("click", target_link_url="https://example.com/"), ("clicked", "delivered", "", "", "")),
    (event("amp_click"), ("clicked", "delivered", "", "", "")),
    (event("open"), ("opened", "delivered", "", "", "")),
    (event("amp_open"), ("opened", "delivered", "", "", "")),
    (event("initial_open"), ("unknown", "delivered", "", "", "")),
    (event("amp_initial_open"), ("unknown", "delivered", "", "", "")),
    (event("list_unsubscribe"), ("unsubscribed", "delivered", "", "", "")),
    (event("link_unsubscribe"), ("unsubscribed", "delivered", "", "", "")),
    *(
        (event(kind), ("unknown", None, "", "", ""))
        for name in ("ab_test_event", "ingest_event")
        for kind in CLASSES[name]
    ),
    *((event(kind), ("unknown", None, "", "", "")) for kind in ("relay_injection", "relay_permfail", "sms_status")),
]


def name(row):
    [raw] = row[0]["msys"].values()
    return f"{raw['type']} {raw.get('bounce_class', '')}".strip()


def read(*events):
    return contents_of("sparkpost", [*events])


def only(payload):
    return fact_of("sparkpost", [payload])


@pytest.fixture
def post(client, settings):
    settings.WEBHOOK_SECRETS = {"sparkpost": SECRETS}

    def post(payload, credentials=SECRETS[0]):
        headers = {"X-MessageSystems-Batch-ID": str(uuid4()), **(basic(credentials) if credentials else {})}
        return client.post(URL, encoded(payload), content_type="application/json", headers=headers)

    return post


@pytest.mark.parametrize(("payload", "meaning"), EVENTS, ids=map(name, EVENTS))
def test_meaning_of_each_event(payload, meaning):
    fact = only(payload)

    assert (fact.event_type, fact.status, fact.category, fact.smtp_status, fact.detail) == meaning
    assert fact.occurred_at == datetime(2026, 11, 20, 23, 41, 12, tzinfo=UTC)


def test_every_documented_type_is_here():
    assert {name(row).partition(" ")[0] for row in EVENTS} >= {*OF} - {*CLASSES["relay_event"]}


def test_identity_of_a_mail():
    fact = only(event("delivery"))

    assert fact.message_id == UUID(COMMON["rcpt_meta"]["message_id"])
    assert (fact.esp_message_id, fact.recipient_canonical) == (COMMON["transmission_id"], RECIPIENT)
    assert fact.esp_event_id == COMMON["event_id"]


def test_one_id_for_several_recipients_is_several_events():
    john, jane = event("delivery"), event("delivery", raw_rcpt_to="jane@example.com")

    assert only(john).dedupe_key == only(event("delivery")).dedupe_key != only(jane).dedupe_key


@pytest.mark.parametrize("missing", sorted(COMMON))
def test_event_lacks_a_field(missing):
    fact = only(without(missing))

    assert (fact.event_type, fact.status) == ("delivered", "delivered")


def test_events_without_an_id_are_told_apart():
    one, other = without("event_id"), without("event_id")
    other["msys"]["message_event"]["timestamp"] = "1795218073"

    assert only(one).dedupe_key == only(without("event_id")).dedupe_key != only(other).dedupe_key


@pytest.mark.parametrize("timestamp", [10**17, -(10**17), 2**70, "1e9", "9" * 30, None, [], {}])
def test_time_that_is_none(timestamp):
    assert only(event("delivery", timestamp=timestamp)).occurred_at is None


@pytest.mark.parametrize(
    "broken",
    [5, None, [], {}, {"msys": 5}, {"msys": {"a": {}, "b": {}}}, {"msys": {"relay_message": {}}}, {"msys": {"a": 5}}],
)
def test_broken_event_harms_no_neighbour(broken):
    contents = read(event("open"), broken, event("delivery"))

    assert [fact.event_type for fact in contents.facts] == ["opened", "delivered"]
    assert len(contents.unreadable) == 1


def test_ping_says_nothing():
    assert read({"msys": {}}) == normal.Contents()


@limits(max_examples=200, deadline=None)
@given(body=mangled.bodies([[payload for payload, _ in EVENTS], *([payload] for payload, _ in EVENTS)]))
def test_mangled_body_is_read_or_unreadable(body):
    contents = contents_of("sparkpost", body)

    assert len(contents.facts) <= len(EVENTS)


@pytest.mark.django_db
def test_batch_through_the_url(post, sent):
    message = sent("sparkpost", COMMON["transmission_id"], RECIPIENT)

    response = post([{"msys": {}}, event("injection"), event("delivery"), bounce("10", GONE, "out_of_band")])

    assert response.status_code == 200
    assert delivery_of(message).status == "bounced"


@pytest.mark.django_db
def test_replay_changes_nothing(post, sent):
    message = sent("sparkpost", COMMON["transmission_id"], RECIPIENT)

    answers = [post([event("open")]).status_code for _ in range(2)]

    assert answers == [200, 200]
    assert delivery_of(message).open_count == 1


@pytest.mark.django_db
@pytest.mark.parametrize("credentials", SECRETS)
def test_ping_with_either_password_is_200(post, credentials):
    assert post([{"msys": {}}], credentials).status_code == 200
    assert WebhookReceipt.objects.get().state == "processed"


@pytest.mark.django_db
@pytest.mark.parametrize("credentials", ["", "hook:wrong", "hook:first-password,hook:second-password"])
def test_wrong_password_is_401_and_nothing_is_stored(post, credentials):
    response = post([event("delivery")], credentials)

    assert response.status_code == 401
    assert response["WWW-Authenticate"].startswith("Basic ")
    assert not WebhookReceipt.objects.exists()
