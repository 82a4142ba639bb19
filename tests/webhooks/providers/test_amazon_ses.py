"""Amazon SES' events: what each of them means, and what cannot be read."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import settings as limits

from tests.webhooks.providers import mangled
from tests.webhooks.providers.amazon import confirmation, notification
from tests.webhooks.providers.reading import contents_of, facts_of
from tests.webhooks.providers.ses_events import (
    BY_AMAZON,
    EVENTS,
    HAPPENED_AT,
    JANE,
    JOHN,
    MAIL,
    OURS,
    SES_ID,
    UNTIMED,
    bounce,
    event,
    failed,
)
from webhooks import normal


def read(message):
    return contents_of("amazon_ses", message)


def facts(ses_event, **fields):
    return facts_of("amazon_ses", notification(ses_event, **fields))


def only(ses_event, **fields):
    [fact] = facts(ses_event, **fields)
    return fact


@pytest.mark.parametrize(("ses_event", "meaning"), EVENTS.values(), ids=EVENTS)
def test_meaning_of_each_event(ses_event, meaning):
    fact = only(ses_event)

    assert (fact.event_type, fact.status, fact.category, fact.smtp_status, fact.detail) == meaning
    assert fact.occurred_at == BY_AMAZON
    assert fact.recipient_canonical == JOHN


@pytest.mark.parametrize(("ses_event", "meaning"), UNTIMED.values(), ids=UNTIMED)
def test_meaning_of_each_event_without_a_time(ses_event, meaning):
    fact = only(ses_event)

    assert (fact.event_type, fact.status, fact.category, fact.smtp_status, fact.detail) == meaning
    assert fact.occurred_at == datetime(2026, 11, 20, 23, 40, 2, 12000, UTC)


@pytest.mark.parametrize("kind", ["Bounce", "Complaint", "Delivery"])
def test_older_form_means_the_same(kind):
    ses_event, meaning = EVENTS[kind]
    older = {("notificationType" if name == "eventType" else name): value for name, value in ses_event.items()}

    fact = only(older)

    assert (fact.event_type, fact.status, fact.category, fact.smtp_status, fact.detail) == meaning


def test_identity_of_a_mail():
    fact = only(EVENTS["Delivery"][0])

    assert (fact.message_id, fact.esp_message_id) == (UUID(OURS), SES_ID)
    assert fact.esp_event_id == notification({})["MessageId"]


def test_repeat_is_the_same_event():
    first, second = only(EVENTS["Open"][0]), only(EVENTS["Open"][0], age=60)

    assert first.dedupe_key == second.dedupe_key != only(EVENTS["Open"][0], MessageId="another").dedupe_key


def test_recipients_of_one_bounce_have_outcomes_of_their_own():
    delayed = failed(JANE, "4.0.0", "smtp; 450 later", "delayed")

    one, other = facts(bounce("Permanent", "General", [failed(), delayed]))

    assert (one.recipient_canonical, one.status, one.smtp_status) == (JOHN, "bounced", "5.1.1")
    assert (other.recipient_canonical, other.status, other.smtp_status) == (JANE, "deferred", "4.0.0")
    assert one.dedupe_key != other.dedupe_key


@pytest.mark.parametrize("kind", ["Send", "Reject", "Rendering Failure"])
def test_what_is_of_the_mail_is_of_each_recipient(kind):
    ses_event = {**UNTIMED[kind][0], "mail": {**MAIL, "destination": [JOHN, JANE]}}

    assert {fact.recipient_canonical for fact in facts(ses_event)} == {JOHN, JANE}


@pytest.mark.parametrize("kind", ["Open", "Click"])
def test_who_of_several_opened_a_mail_is_unknown(kind):
    fact = only({**EVENTS[kind][0], "mail": {**MAIL, "destination": [JOHN, JANE]}})

    assert fact.recipient_canonical == ""


@pytest.mark.parametrize("broken", [5, None, [], "x", {"emailAddress": 5, "status": []}])
def test_broken_recipient_harms_no_other(broken):
    contents = read(notification(bounce("Permanent", "General", [failed(), broken, failed(JANE)])))

    assert {JOHN, JANE} <= {fact.recipient_canonical for fact in contents.facts}
    assert len(contents.facts) + len(contents.unreadable) == 3


@pytest.mark.parametrize("missing", sorted(MAIL))
def test_mail_lacks_a_field(missing):
    mail = {name: value for name, value in MAIL.items() if name != missing}

    fact = only({**EVENTS["Delivery"][0], "mail": mail})

    assert (fact.status, fact.recipient_canonical, fact.occurred_at) == ("delivered", JOHN, BY_AMAZON)


@pytest.mark.parametrize("kind", ["Open", "Delivery", "Bounce"])
def test_event_lacks_its_mail(kind):
    ses_event = {name: value for name, value in EVENTS[kind][0].items() if name != "mail"}

    assert only(ses_event).esp_message_id == ""


def test_recipient_is_missing():
    assert only(bounce("Permanent", "General", [{"status": "5.1.1"}])).recipient_canonical == ""


@pytest.mark.parametrize("when", [None, "", "soon", 5, []])
def test_time_is_missing(when):
    ses_event = bounce("Permanent", "General", timestamp=when)

    assert only(ses_event).occurred_at == datetime(2026, 11, 20, 23, 40, 2, 12000, UTC)


def test_no_time_but_that_of_the_notification():
    mail = {**MAIL, "timestamp": None}

    fact = only(event("Send", "send", {}, mail), Timestamp=HAPPENED_AT)

    assert fact.occurred_at == BY_AMAZON


@pytest.mark.parametrize(
    "message",
    [
        notification("Successfully validated SNS topic for Amazon SES event publishing."),
        notification({"notificationType": "AmazonSnsSubscriptionSucceeded", "message": "You have subscribed."}),
        confirmation(),
        confirmation(Type="UnsubscribeConfirmation"),
    ],
)
def test_what_is_about_no_mail_says_nothing(message):
    assert read(message) == normal.Contents()


@pytest.mark.parametrize("text", ["", "hello", "[]", "5", "null", '{"a":', "[" * 100_000])
def test_message_that_is_no_event_is_unreadable(text):
    contents = read(notification(text))

    assert (contents.facts, len(contents.unreadable)) == ([], 1)


def test_inbound_mail_is_unreadable():
    ses_event = {"notificationType": "Received", "mail": MAIL, "receipt": {"recipients": [JOHN]}, "content": "..."}

    assert read(notification(ses_event)).unreadable == ["AnymailConfigurationError"]


@limits(max_examples=300, deadline=None)
@given(ses_event=mangled.payloads([ses_event for ses_event, _ in [*EVENTS.values(), *UNTIMED.values()]]))
def test_mangled_event_is_read_or_unreadable(ses_event):
    contents = read(notification(ses_event))

    # As many as there are recipients.
    assert len(contents.facts) + len(contents.unreadable) <= 10


@pytest.mark.parametrize("recipients", ["x" * 3000, {JOHN: 1}, 7, True])
def test_recipients_that_are_no_list_are_unreadable(recipients):
    delivery, opened = EVENTS["Delivery"][0], EVENTS["Open"][0]

    for odd in (
        {**delivery, "delivery": {**delivery["delivery"], "recipients": recipients}},
        {**opened, "mail": {**opened["mail"], "destination": recipients}},
    ):
        contents = read(notification(odd))
        assert (contents.facts, contents.unreadable) == ([], ["Unreadable"])


@limits(max_examples=100, deadline=None)
@given(body=mangled.bodies([notification(EVENTS["Bounce"][0]), confirmation()]))
def test_mangled_body_is_read_or_unreadable(body):
    contents = contents_of("amazon_ses", body)

    assert len(contents.facts) + len(contents.unreadable) <= 1
