"""What the providers post, complete, as their documentation shows it.

Postmark: postmarkapp.com/developer/webhooks/delivery-webhook, bounce-webhook, spam-complaint-webhook,
open-tracking-webhook, click-webhook, subscription-change-webhook; the bounces' types and codes:
postmarkapp.com/developer/api/bounce-api#bounce-types.
Resend: resend.com/docs/webhooks/emails/sent, delivered, delivery-delayed, bounced, complained, opened, clicked, failed,
suppressed, scheduled; the bounces' types: resend.com/docs/dashboard/emails/email-bounces. Anymail puts metadata into
the `X-Metadata` header, which Resend reports back among `headers`.
"""

import copy
import json

RECIPIENT = "john@example.com"
POSTMARK_ID = "883953f4-6105-42a2-a16a-77a8eac79483"
RESEND_ID = "56761188-7520-42d8-8898-ff6fc54ce618"

_POSTMARK_BROWSER = {
    "Client": {"Name": "Chrome 35.0.1916.153", "Company": "Google", "Family": "Chrome"},
    "OS": {"Name": "OS X 10.7 Lion", "Company": "Apple Computer, Inc.", "Family": "OS X 10"},
    "UserAgent": (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_7_5) AppleWebKit/537.36 (KHTML, like Gecko)"
        " Chrome/35.0.1916.153 Safari/537.36"
    ),
    "Geo": {
        "CountryISOCode": "RS",
        "Country": "Serbia",
        "RegionISOCode": "VO",
        "Region": "Autonomna Pokrajina Vojvodina",
        "City": "Novi Sad",
        "Zip": "21000",
        "Coords": "45.2517,19.8369",
        "IP": "188.2.95.4",
    },
}
POSTMARK = {
    "Delivery": {
        "RecordType": "Delivery",
        "MessageStream": "outbound",
        "ServerID": 23,
        "MessageID": POSTMARK_ID,
        "Recipient": RECIPIENT,
        "Tag": "welcome-email",
        "DeliveredAt": "2026-11-20T16:33:54.9070259Z",
        "Details": "smtp;250 2.0.0 OK 1572971634 a26si3012421qte",
        "Metadata": {"a_key": "a_value", "b_key": "b_value"},
    },
    "Bounce": {
        "RecordType": "Bounce",
        "MessageStream": "outbound",
        "ID": 4323372036854775807,
        "Type": "HardBounce",
        "TypeCode": 1,
        "Name": "Hard bounce",
        "Tag": "Test",
        "MessageID": POSTMARK_ID,
        "Metadata": {"a_key": "a_value", "b_key": "b_value"},
        "ServerID": 23,
        "Description": "The server was unable to deliver your message (ex: unknown user, mailbox not found).",
        "Details": "smtp;550 5.1.1 The email account that you tried to reach does not exist.",
        "Email": RECIPIENT,
        "From": "sender@example.com",
        "BouncedAt": "2026-11-20T16:33:54.9070259Z",
        "DumpAvailable": True,
        "Inactive": True,
        "CanActivate": True,
        "Subject": "Test subject",
        "Content": "<Full dump of bounce>",
    },
    "SpamComplaint": {
        "RecordType": "SpamComplaint",
        "MessageStream": "outbound",
        "ID": 42,
        "Type": "SpamComplaint",
        "TypeCode": 512,
        "Name": "Spam complaint",
        "Tag": "Test",
        "MessageID": POSTMARK_ID,
        "Metadata": {"a_key": "a_value", "b_key": "b_value"},
        "ServerID": 1234,
        "Description": "",
        "Details": "Test spam complaint details",
        "Email": RECIPIENT,
        "From": "sender@example.com",
        "BouncedAt": "2026-11-20T16:33:54.9070259Z",
        "DumpAvailable": True,
        "Inactive": True,
        "CanActivate": False,
        "Subject": "Test subject",
        "Content": "<Abuse report dump>",
    },
    "Open": {
        "RecordType": "Open",
        "MessageStream": "outbound",
        "FirstOpen": True,
        **_POSTMARK_BROWSER,
        "Platform": "WebMail",
        "MessageID": POSTMARK_ID,
        "Metadata": {"a_key": "a_value", "b_key": "b_value"},
        "ReceivedAt": "2026-11-20T16:43:54.9070259Z",
        "Tag": "welcome-email",
        "Recipient": RECIPIENT,
    },
    "Click": {
        "RecordType": "Click",
        "MessageStream": "outbound",
        "ClickLocation": "HTML",
        **_POSTMARK_BROWSER,
        "Platform": "Desktop",
        "OriginalLink": "https://example.com",
        "MessageID": POSTMARK_ID,
        "Metadata": {"a_key": "a_value", "b_key": "b_value"},
        "ReceivedAt": "2026-11-20T16:44:11.9065619Z",
        "Tag": "welcome-email",
        "Recipient": RECIPIENT,
    },
    "SubscriptionChange": {
        "RecordType": "SubscriptionChange",
        "MessageID": POSTMARK_ID,
        "ServerID": 123456,
        "MessageStream": "outbound",
        "ChangedAt": "2026-11-20T16:53:34.416071Z",
        "Recipient": RECIPIENT,
        "Origin": "Recipient",
        "SuppressSending": True,
        "SuppressionReason": "HardBounce",
        "Tag": "my-tag",
        "Metadata": {"example": "value", "example_2": "value"},
    },
}

_RESEND_CREATED_AT = "2026-11-20T23:41:12.126Z"
_RESEND_DATA = {
    "broadcast_id": "8b146471-e88e-4322-86af-016cd36fd216",
    "created_at": "2026-11-20T23:41:11.894719+00:00",
    "email_id": RESEND_ID,
    "message_id": "<56761188-7520-42d8-8898-ff6fc54ce618@email.amazonses.com>",
    "from": "Acme <onboarding@resend.dev>",
    "to": [RECIPIENT],
    "subject": "Sending this example",
    "template_id": "43f68331-0622-4e15-8202-246a0388854b",
    "headers": [{"name": "X-Entity-Ref-ID", "value": "8d7a5a1c"}],
    "tags": {"category": "confirm_email"},
}
_RESEND_MORE = {
    "email.sent": {},
    "email.delivered": {},
    "email.delivery_delayed": {},
    "email.bounced": {
        "bounce": {
            "diagnosticCode": ["smtp; 550 5.5.0 Requested action not taken: mailbox unavailable"],
            "message": (
                "The recipient's email provider sent a hard bounce message, but didn't specify the reason for the hard"
                " bounce."
            ),
            "subType": "General",
            "type": "Permanent",
        }
    },
    "email.complained": {},
    "email.opened": {},
    "email.clicked": {
        "click": {
            "ipAddress": "122.115.53.11",
            "link": "https://resend.com",
            "timestamp": "2026-11-20T23:41:12.126Z",
            "userAgent": (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)"
                " Version/17.4.1 Safari/605.1.15"
            ),
        }
    },
    "email.failed": {"failed": {"reason": "reached_daily_quota"}},
    "email.suppressed": {
        "suppressed": {
            "message": (
                "Resend has suppressed sending to this address because it is on the account-level suppression list."
                " This does not count toward your bounce rate metric"
            ),
            "type": "OnAccountSuppressionList",
        }
    },
    "email.scheduled": {},
}
RESEND = {
    kind: {"created_at": _RESEND_CREATED_AT, "data": {**_RESEND_DATA, **more}, "type": kind}
    for kind, more in _RESEND_MORE.items()
}


def postmark(record_type, message=None, **changes):
    """Return a payload, with our metadata where it is about a message of ours."""
    payload = {**copy.deepcopy(POSTMARK[record_type]), **changes}
    if message is not None:
        payload["Metadata"] = {"message_id": str(message.pk), "correlation_id": message.correlation_id}
    return payload


def resend(kind, message=None, *, created_at=_RESEND_CREATED_AT, **data):
    """Return a payload, with our metadata where it is about a message of ours; `data` changes what is in `data`."""
    payload = copy.deepcopy(RESEND[kind]) | {"created_at": created_at}
    payload["data"] |= data
    if message is not None:
        metadata = {"message_id": str(message.pk), "correlation_id": message.correlation_id}
        payload["data"]["headers"].append({"name": "X-Metadata", "value": json.dumps(metadata)})
    return payload
