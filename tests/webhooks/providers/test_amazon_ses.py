"""Every event of SES': docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-examples.html."""

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import settings as limits

from mailer.models import DeliveryEvent
from tests.webhooks.conftest import delivery_of, encoded
from tests.webhooks.providers import mangled
from tests.webhooks.providers.amazon import KEY, TOPIC, certificate, confirmation, notification, signed
from tests.webhooks.providers.reading import contents_of, facts_of
from webhooks import normal
from webhooks.exceptions import Unavailable
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS, sns

ADDRESS = "/webhooks/amazon_ses/"
JOHN, JANE = "john@example.com", "jane@example.com"
OURS = "0193b2a0-5d4c-7c11-8f00-1d2a3b4c5d6e"
SES_ID = "EXAMPLE7c191be45-e9aedb9a-02f9-4d12-a87d-dd0099a07f8a-000000"
SENT_AT, HAPPENED_AT = "2026-11-20T23:40:02.012Z", "2026-11-20T23:41:12.126Z"
BY_AMAZON = datetime(2026, 11, 20, 23, 41, 12, 126000, UTC)

MAIL = {
    "timestamp": SENT_AT,
    "source": "Accounts <accounts@example.com>",
    "sourceArn": "arn:aws:ses:us-east-1:123456789012:identity/example.com",
    "sendingAccountId": "123456789012",
    "messageId": SES_ID,
    "destination": [JOHN],
    "headersTruncated": False,
    "headers": [
        {"name": "From", "value": "Accounts <accounts@example.com>"},
        {"name": "To", "value": JOHN},
        {"name": "X-Metadata", "value": json.dumps({"message_id": OURS})},
    ],
    "commonHeaders": {"from": ["accounts@example.com"], "to": [JOHN], "messageId": SES_ID, "subject": "Welcome"},
    "tags": {"ses:configuration-set": ["events"]},
}


def event(kind, name, about, mail=MAIL):
    return {"eventType": kind, "mail": mail, name: about}


def bounce(bounce_type, subtype, recipients=(), **fields):
    about = {
        "bounceType": bounce_type,
        "bounceSubType": subtype,
        "bouncedRecipients": [*recipients] or [{"emailAddress": JOHN}],
        "timestamp": HAPPENED_AT,
        "feedbackId": "01000157c44f053b-61b59c11-9236-11e6-8f96-7be8aexample-000000",
        "reportingMTA": "dsn; mta.example.com",
        **fields,
    }
    return event("Bounce", "bounce", about)


def failed(address=JOHN, code="5.1.1", reply="smtp; 550 5.1.1 user unknown", action="failed"):
    return {"emailAddress": address, "action": action, "status": code, "diagnosticCode": reply}


def complaint(**fields):
    about = {"complainedRecipients": [{"emailAddress": JOHN}], "timestamp": HAPPENED_AT, "feedbackId": "1", **fields}
    return event("Complaint", "complaint", about)


def delay(delay_type, reply=""):
    recipient = {"emailAddress": JOHN, "status": "4.4.1", "diagnosticCode": reply}
    about = {
        "timestamp": HAPPENED_AT,
        "delayType": delay_type,
        "expirationTime": "2026-11-21T11:41:12.126Z",
        "delayedRecipients": [recipient],
    }
    return event("DeliveryDelay", "deliveryDelay", about)


def preferences(*, everything=False, topic="OptIn"):
    topics = [{"topicName": "news", "subscriptionStatus": topic}]
    new = {"unsubscribeAll": everything, "topicSubscriptionStatus": topics, "topicDefaultSubscriptionStatus": topics}
    about = {"contactList": "list", "timestamp": HAPPENED_AT, "source": "UnsubscribeHeader", "newTopicPreferences": new}
    return event("Subscription", "subscription", {**about, "oldTopicPreferences": new})


BUSY = "smtp; 421 4.4.2 connection timed out"
SEEN = {"timestamp": HAPPENED_AT, "ipAddress": "192.0.2.1", "userAgent": "Mozilla/5.0"}
DELIVERED = {
    "timestamp": HAPPENED_AT,
    "processingTimeMillis": 11893,
    "recipients": [JOHN],
    "smtpResponse": "250 2.6.0 Message received",
    "reportingMTA": "a8-50.smtp-out.amazonses.com",
}
# Event -> what it means: type, status, category, enhanced code, detail.
EVENTS = {
    "Bounce": (
        bounce("Permanent", "General", [failed()]),
        ("bounced", "bounced", "no_mailbox", "5.1.1", "smtp; 550 5.1.1 user unknown"),
    ),
    "Bounce, bare": (bounce("Permanent", "General"), ("bounced", "bounced", "", "", "Permanent: General")),
    "Bounce, no mailbox": (
        bounce("Permanent", "NoEmail"),
        ("bounced", "bounced", "no_mailbox", "", "Permanent: NoEmail"),
    ),
    "Bounce, suppressed": (
        bounce("Permanent", "Suppressed"),
        ("suppressed", "suppressed", "no_mailbox", "", "Permanent: Suppressed"),
    ),
    "Bounce, own list": (
        bounce("Permanent", "OnAccountSuppressionList"),
        ("suppressed", "suppressed", "other", "", "Permanent: OnAccountSuppressionList"),
    ),
    "Bounce, transient": (
        bounce("Transient", "General", [failed(code="4.4.2", reply=BUSY)]),
        ("bounced", "soft_bounced", "unreachable", "4.4.2", BUSY),
    ),
    "Bounce, full": (
        bounce("Transient", "MailboxFull"),
        ("bounced", "soft_bounced", "mailbox_full", "", "Transient: MailboxFull"),
    ),
    "Bounce, too large": (
        bounce("Transient", "MessageTooLarge"),
        ("bounced", "soft_bounced", "policy", "", "Transient: MessageTooLarge"),
    ),
    "Bounce, too late": (
        bounce("Transient", "CustomTimeoutExceeded"),
        ("bounced", "soft_bounced", "", "", "Transient: CustomTimeoutExceeded"),
    ),
    "Bounce, content": (
        bounce("Transient", "ContentRejected"),
        ("bounced", "soft_bounced", "policy", "", "Transient: ContentRejected"),
    ),
    "Bounce, attachment": (
        bounce("Transient", "AttachmentRejected"),
        ("bounced", "soft_bounced", "policy", "", "Transient: AttachmentRejected"),
    ),
    "Bounce, undetermined": (
        bounce("Undetermined", "Undetermined"),
        ("bounced", "soft_bounced", "", "", "Undetermined: Undetermined"),
    ),
    "Bounce, only delayed": (
        bounce("Permanent", "General", [failed(code="4.0.0", reply="smtp; 450 later", action="delayed")]),
        ("deferred", "deferred", "other", "4.0.0", "smtp; 450 later"),
    ),
    "Complaint": (
        complaint(complaintFeedbackType="abuse", userAgent="loop/1.0"),
        ("complained", "complained", "", "", "abuse"),
    ),
    "Complaint, bare": (complaint(complaintSubType=None), ("complained", "complained", "", "", "")),
    "Complaint, fraud": (complaint(complaintFeedbackType="fraud"), ("complained", "complained", "", "", "fraud")),
    "Complaint, not spam": (
        complaint(complaintFeedbackType="not-spam"),
        ("unknown", "delivered", "", "", "not-spam"),
    ),
    "Complaint, suppressed": (
        complaint(complaintSubType="OnAccountSuppressionList"),
        ("suppressed", "suppressed", "other", "", ""),
    ),
    "Delivery": (
        event("Delivery", "delivery", DELIVERED),
        ("delivered", "delivered", "", "2.6.0", "250 2.6.0 Message received"),
    ),
    "Open": (event("Open", "open", SEEN), ("opened", "delivered", "", "", "")),
    "Click": (event("Click", "click", {**SEEN, "link": "https://example.com/"}), ("clicked", "delivered", "", "", "")),
    "DeliveryDelay, failure": (
        delay("TransientCommunicationFailure", BUSY),
        ("deferred", "deferred", "unreachable", "4.4.1", BUSY),
    ),
    "DeliveryDelay, internal": (
        delay("InternalFailure"),
        ("deferred", "deferred", "other", "4.4.1", "InternalFailure"),
    ),
    "DeliveryDelay, general": (delay("General"), ("deferred", "deferred", "unreachable", "4.4.1", "General")),
    "DeliveryDelay, full": (delay("MailboxFull"), ("deferred", "deferred", "mailbox_full", "4.4.1", "MailboxFull")),
    "DeliveryDelay, spam": (delay("SpamDetected"), ("deferred", "deferred", "spam", "4.4.1", "SpamDetected")),
    "DeliveryDelay, server": (
        delay("RecipientServerError"),
        ("deferred", "deferred", "unreachable", "4.4.1", "RecipientServerError"),
    ),
    "DeliveryDelay, address": (delay("IPFailure"), ("deferred", "deferred", "policy", "4.4.1", "IPFailure")),
    "DeliveryDelay, name": (
        delay("BYOIPHostNameLookupUnavailable"),
        ("deferred", "deferred", "dns", "4.4.1", "BYOIPHostNameLookupUnavailable"),
    ),
    "DeliveryDelay, own": (delay("SendingDeferral"), ("deferred", "deferred", "policy", "4.4.1", "SendingDeferral")),
    "Subscription": (preferences(), ("subscribed", None, "", "", "Unknown SES eventType 'Subscription'")),
    "Subscription, left": (
        preferences(everything=True),
        ("unsubscribed", "delivered", "", "", "Unknown SES eventType 'Subscription'"),
    ),
    "Subscription, topic left": (
        preferences(topic="OptOut"),
        ("unsubscribed", "delivered", "", "", "Unknown SES eventType 'Subscription'"),
    ),
}
# Events without a time of their own: it is the mail's.
UNTIMED = {
    "Send": (event("Send", "send", {}), ("sent", "sent", "", "", "")),
    "Reject": (
        event("Reject", "reject", {"reason": "Bad content"}),
        ("rejected", "rejected", "policy", "", "Bad content"),
    ),
    "Rendering Failure": (
        event("Rendering Failure", "failure", {"templateName": "t", "errorMessage": "Attribute 'x' is not present"}),
        ("failed", "failed", "", "", "Attribute 'x' is not present"),
    ),
    "A new one": (event("Forwarded", "forward", {}), ("unknown", None, "", "", "Unknown SES eventType 'Forwarded'")),
}


def read(message):
    return contents_of("amazon_ses", message)


def facts(ses_event, **fields):
    return facts_of("amazon_ses", notification(ses_event, **fields))


def only(ses_event, **fields):
    [fact] = facts(ses_event, **fields)
    return fact


@pytest.fixture
def post(client, settings, monkeypatch):
    settings.WEBHOOK_SECRETS = {"amazon_ses": [TOPIC]}
    monkeypatch.setattr(sns, "CERTIFICATES", sns.Certificates(lambda _: certificate(KEY)))

    def post(message):
        headers = {"x-amz-sns-message-type": message["Type"], "x-amz-sns-message-id": message["MessageId"]}
        return client.post(ADDRESS, encoded(message), content_type="text/plain; charset=UTF-8", headers=headers)

    return post


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

    for event in (
        {**delivery, "delivery": {**delivery["delivery"], "recipients": recipients}},
        {**opened, "mail": {**opened["mail"], "destination": recipients}},
    ):
        contents = read(notification(event))
        assert (contents.facts, contents.unreadable) == ([], ["Unreadable"])


@limits(max_examples=100, deadline=None)
@given(body=mangled.bodies([notification(EVENTS["Bounce"][0]), confirmation()]))
def test_mangled_body_is_read_or_unreadable(body):
    contents = contents_of("amazon_ses", body)

    assert len(contents.facts) + len(contents.unreadable) <= 1


@pytest.mark.parametrize(
    "topic", ["", "events", TOPIC + ":uuid", TOPIC.replace("sns", "sqs"), TOPIC.replace("us-east-1", ""), TOPIC + " "]
)
def test_what_is_no_topic_is_no_secret(topic):
    assert not WEBHOOKS["amazon_ses"].is_secret(topic)


@pytest.mark.parametrize("topic", [TOPIC, "arn:aws-cn:sns:cn-north-1:123456789012:a_b-C"])
def test_topics_are_secrets(topic):
    assert WEBHOOKS["amazon_ses"].is_secret(topic)


@pytest.mark.django_db
@pytest.mark.parametrize("version", ["1", "2"])
def test_event_through_the_url(post, sent, version):
    message = sent("amazon_ses", SES_ID, JOHN)

    response = post(signed(notification(EVENTS["Bounce"][0]), version=version))

    assert response.status_code == 200
    assert delivery_of(message).status == "bounced"
    recorded = DeliveryEvent.objects.get(source="webhook")
    assert (recorded.category, recorded.smtp_status, recorded.occurred_at) == ("no_mailbox", "5.1.1", BY_AMAZON)


@pytest.mark.django_db
def test_replay_changes_nothing(post, sent):
    message = sent("amazon_ses", SES_ID, JOHN)
    genuine = signed(notification(EVENTS["Open"][0]))

    answers = [post(genuine).status_code for _ in range(2)]

    assert answers == [200, 200]
    assert delivery_of(message).open_count == 1


@pytest.mark.django_db
def test_forged_request_is_401_and_nothing_is_stored(post, sent):
    message = sent("amazon_ses", SES_ID, JOHN)
    genuine = signed(notification(EVENTS["Delivery"][0]))

    response = post({**genuine, "Message": json.dumps(EVENTS["Complaint"][0])})

    assert response.status_code == 401
    assert delivery_of(message).status == "sent"
    assert not WebhookReceipt.objects.exists()


@pytest.mark.django_db
def test_request_of_another_topic_is_401(post):
    assert post(signed(notification(EVENTS["Delivery"][0], TopicArn=TOPIC + "s"))).status_code == 401


@pytest.mark.django_db
def test_certificate_that_cannot_be_had_is_503_until_it_can(post, sent, monkeypatch):
    message = sent("amazon_ses", SES_ID, JOHN)
    genuine = signed(notification(EVENTS["Delivery"][0]))

    def nobody(_):
        raise Unavailable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(sns, "CERTIFICATES", sns.Certificates(nobody))
        first = post(genuine)
        assert not WebhookReceipt.objects.exists()

    second = post(genuine)

    assert (first.status_code, second.status_code) == (503, 200)
    assert first["Retry-After"]
    assert delivery_of(message).status == "delivered"


@pytest.mark.django_db
def test_confirmed_subscription_is_kept_and_says_nothing(post, monkeypatch):
    confirmed = []
    monkeypatch.setattr(sns, "confirm", lambda topic, token: confirmed.append((topic, token)))

    response = post(signed(confirmation()))

    assert response.status_code == 200
    assert confirmed == [(TOPIC, "2336412f37f")]
    receipt = WebhookReceipt.objects.get()
    assert (receipt.state, receipt.events) == ("processed", 0)
