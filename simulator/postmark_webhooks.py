"""Postmark's webhooks.

Sources: postmarkapp.com/developer/webhooks/{delivery,bounce,spam-complaint,open-tracking,click,
subscription-change}-webhook and /api/bounce-api#bounce-types.
"""

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

from simulator.mail import Mail, addresses, rfc3339

SERVER_ID = 23

# A standard rung, then a backoff rung: github.com/ActiveCampaign/postmark-skills, postmark-webhooks (August
# 2026). Until then 403 alone was final, bounces had ten retries in 10.5 hours and other events three.
RETRIES = (60.0, 300.0, 900.0, 60.0, 300.0, 600.0, 600.0, 600.0, 900.0)
# Postmark publishes no timeout for these webhooks.
TIMEOUT = 30.0
RETRIED = {408, 429, *range(300, 400), *range(500, 600)}

AGENT = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 Chrome/142.0.0.0 Safari/537.36"

Body = dict[str, Any]


def is_retried(status: int | None) -> bool:
    """Whether Postmark tries again. ``None`` is no answer. Every 4xx but 408 and 429 is final."""
    return status is None or status in RETRIED


def _common(mail: Mail, record: str) -> Body:
    return {
        "RecordType": record,
        "MessageStream": mail.payload.get("MessageStream") or "outbound",
        "ServerID": SERVER_ID,
        "MessageID": mail.id,
        "Tag": mail.payload.get("Tag") or "",
        "Metadata": mail.metadata,
    }


def _delivery(mail: Mail, recipient: str, at: str) -> Body:
    details = f"smtp;250 2.0.0 OK {mail.id}"
    return {**_common(mail, "Delivery"), "Recipient": recipient, "DeliveredAt": at, "Details": details}


# TypeCode and wording as in the table of bounce types.
BOUNCES: dict[str, Body] = {
    "HardBounce": {
        "TypeCode": 1,
        "Name": "Hard bounce",
        "Description": "The server was unable to deliver your message (ex: unknown user, mailbox not found).",
        "Details": "smtp;550 5.1.1 The email account that you tried to reach does not exist.",
        "Inactive": True,
        "CanActivate": True,
    },
    "SoftBounce": {
        "TypeCode": 4096,
        "Name": "Soft bounce",
        "Description": "Unable to temporarily deliver message (i.e. mailbox full, account disabled,"
        " exceeds quota, out of disk space).",
        "Details": "smtp;452 4.2.2 The email account that you tried to reach is over quota.",
        "Inactive": False,
        "CanActivate": True,
    },
    "Transient": {
        "TypeCode": 2,
        "Name": "Message delayed",
        "Description": "The server could not temporarily deliver your message"
        " (ex: Message is delayed due to network troubles).",
        "Details": "smtp;451 4.4.1 Connection timed out.",
        "Inactive": False,
        "CanActivate": True,
    },
    "SpamComplaint": {
        "TypeCode": 100001,
        "Name": "Spam complaint",
        "Description": "The subscriber explicitly marked this message as spam.",
        "Details": "",
        "Inactive": True,
        "CanActivate": False,
    },
}


def _bounce(kind: str, record: str = "Bounce") -> "Builder":
    def build(mail: Mail, recipient: str, at: str) -> Body:
        return {
            **_common(mail, record),
            "ID": uuid.uuid4().int % 10**10,
            "Type": kind,
            **BOUNCES[kind],
            "Email": recipient,
            "From": (addresses([mail.sender]) or [""])[0],
            "BouncedAt": at,
            "DumpAvailable": True,
            "Subject": mail.subject,
            "Content": f"Return-Path: <>\r\nTo: {recipient}\r\n\r\n{BOUNCES[kind]['Details']}",
        }

    return build


def _suppression(reason: str) -> "Builder":
    def build(mail: Mail, recipient: str, at: str) -> Body:
        return {
            **_common(mail, "SubscriptionChange"),
            "ChangedAt": at,
            "Recipient": recipient,
            "Origin": "Recipient",
            "SuppressSending": True,
            "SuppressionReason": reason,
        }

    return build


def _engagement(mail: Mail, record: str, recipient: str, at: str) -> Body:
    return {
        **_common(mail, record),
        "Recipient": recipient,
        "ReceivedAt": at,
        "Platform": "Desktop",
        "UserAgent": AGENT,
        "OS": {"Name": "macOS 10.15 Catalina", "Company": "Apple Inc.", "Family": "macOS"},
        "Client": {"Name": "Chrome 142.0.0.0", "Company": "Google Inc.", "Family": "Chrome"},
        "Geo": {
            "IP": "188.2.95.4",
            "City": "Novi Sad",
            "Country": "Serbia",
            "CountryISOCode": "RS",
            "Region": "Autonomna Pokrajina Vojvodina",
            "RegionISOCode": "VO",
            "Zip": "21000",
            "Coords": "45.2517,19.8369",
        },
    }


def _open(mail: Mail, recipient: str, at: str) -> Body:
    return {**_engagement(mail, "Open", recipient, at), "FirstOpen": True, "ReadSeconds": 5}


def _click(mail: Mail, recipient: str, at: str) -> Body:
    link = next(iter(mail.links), "https://example.com/")
    return {**_engagement(mail, "Click", recipient, at), "ClickLocation": "HTML", "OriginalLink": link}


Builder = Callable[[Mail, str, str], Body]
EVENTS: dict[str, tuple[Builder, ...]] = {
    "delivered": (_delivery,),
    "hard_bounced": (_bounce("HardBounce"), _suppression("HardBounce")),
    "soft_bounced": (_bounce("SoftBounce"),),
    "deferred": (_bounce("Transient"),),
    "complained": (_bounce("SpamComplaint", "SpamComplaint"), _suppression("SpamComplaint")),
    "opened": (_open,),
    "clicked": (_click,),
}


def events(mail: Mail, recipient: str, word: str, at: datetime) -> list[tuple[str, Body]]:
    """Build the webhooks Postmark posts when ``word`` happens to a recipient: (RecordType, body) each."""
    bodies = [build(mail, recipient, rfc3339(at, 7)) for build in EVENTS.get(word, ())]
    return [(body["RecordType"], body) for body in bodies]


def new_webhook_id() -> str:
    return str(uuid.uuid4())


def webhook_headers(webhook_id: str, attempts: int) -> dict[str, str]:
    """Postmark signs nothing; the URL's user and password are all the proof there is."""
    return {
        "User-Agent": "Postmark",
        "X-PM-Webhook-Trace-Id": webhook_id,
        "X-PM-Retries-Remaining": str(max(len(RETRIES) - attempts, 0)),
    }
