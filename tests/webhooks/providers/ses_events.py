"""Every event of SES': docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-examples.html."""

import json
from datetime import UTC, datetime

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
