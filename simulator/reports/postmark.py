"""Postmark's webhooks.

Sources: postmarkapp.com/developer/webhooks/{delivery,bounce,spam-complaint,open-tracking,click,
subscription-change}-webhook and /api/bounce-api#bounce-types.
"""

import uuid

from simulator.mail import addresses, rfc3339
from simulator.reports.base import AGENT, Build, Event, Happening, Posted, Reports, Sending
from simulator.reports.schemes import BASIC, basic_header

SERVER_ID = 23

# A standard rung, then a backoff rung: github.com/ActiveCampaign/postmark-skills, postmark-webhooks (August
# 2026). Until then 403 alone was final, bounces had ten retries in 10.5 hours and other events three.
RETRIES = (60.0, 300.0, 900.0, 60.0, 300.0, 600.0, 600.0, 600.0, 900.0)
RETRIED = {408, 429, *range(300, 400), *range(500, 600)}


def _is_retried(status: int | None) -> bool:
    """Whether Postmark tries again: every 4xx but 408 and 429 is final."""
    return status is None or status in RETRIED


def _common(happened: Happening, record: str) -> Event:
    mail = happened.mail
    return {
        "RecordType": record,
        "MessageStream": mail.payload.get("MessageStream") or "outbound",
        "ServerID": SERVER_ID,
        "MessageID": mail.id,
        "Tag": happened.tag,
        "Metadata": mail.metadata,
    }


def _delivery(happened: Happening) -> Event:
    return {
        **_common(happened, "Delivery"),
        "Recipient": happened.recipient,
        "DeliveredAt": _time(happened),
        "Details": f"smtp;250 2.0.0 OK {happened.mail.id}",
    }


def _time(happened: Happening) -> str:
    return rfc3339(happened.at, 7)


# TypeCode and wording as in the table of bounce types.
BOUNCES: dict[str, Event] = {
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
    "Blocked": {
        "TypeCode": 100006,
        "Name": "ISP block",
        "Description": "Blocked from this ISP due to content or blacklisting.",
        "Details": "smtp;550 5.7.1 The message was blocked by the recipient's server.",
        "Inactive": False,
        "CanActivate": False,
    },
    "TemplateRenderingFailed": {
        "TypeCode": 100010,
        "Name": "Template rendering failed",
        "Description": "An error occurred while attempting to render your template.",
        "Details": "",
        "Inactive": False,
        "CanActivate": False,
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


def _bounce(kind: str, record: str = "Bounce") -> Build:
    def build(happened: Happening) -> Event:
        mail, recipient = happened.mail, happened.recipient
        return {
            **_common(happened, record),
            "ID": uuid.uuid4().int % 10**10,
            "Type": kind,
            **BOUNCES[kind],
            "Email": recipient,
            "From": (addresses([mail.sender]) or [""])[0],
            "BouncedAt": _time(happened),
            "DumpAvailable": True,
            "Subject": mail.subject,
            "Content": f"Return-Path: <>\r\nTo: {recipient}\r\n\r\n{BOUNCES[kind]['Details']}",
        }

    return build


def _suppression(reason: str) -> Build:
    return lambda happened: {
        **_common(happened, "SubscriptionChange"),
        "ChangedAt": _time(happened),
        "Recipient": happened.recipient,
        "Origin": "Recipient",
        "SuppressSending": True,
        "SuppressionReason": reason,
    }


def _engagement(happened: Happening, record: str) -> Event:
    return {
        **_common(happened, record),
        "Recipient": happened.recipient,
        "ReceivedAt": _time(happened),
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


def _open(happened: Happening) -> Event:
    return {**_engagement(happened, "Open"), "FirstOpen": True, "ReadSeconds": 5}


def _click(happened: Happening) -> Event:
    return {**_engagement(happened, "Click"), "ClickLocation": "HTML", "OriginalLink": happened.link}


EVENTS: dict[str, tuple[Build, ...]] = {
    "delivered": (_delivery,),
    "bounced": (_bounce("HardBounce"), _suppression("HardBounce")),
    "soft_bounced": (_bounce("SoftBounce"),),
    "deferred": (_bounce("Transient"),),
    "complained": (_bounce("SpamComplaint", "SpamComplaint"), _suppression("SpamComplaint")),
    "rejected": (_bounce("Blocked"),),
    "failed": (_bounce("TemplateRenderingFailed"),),
    "opened": (_open,),
    "clicked": (_click,),
    "unsubscribed": (_suppression("ManualSuppression"),),
}


def _sign(body: str, sending: Sending, key: str) -> Posted:
    """Postmark signs nothing; the URL's user and password are all the proof there is."""
    headers = {
        "User-Agent": "Postmark",
        "X-PM-Webhook-Trace-Id": sending.id,
        "X-PM-Retries-Remaining": str(max(len(RETRIES) - sending.before, 0)),
    }
    return Posted(body.encode(), headers | basic_header(key))


REPORTS = Reports(
    name="postmark",
    events=EVENTS,
    kind=lambda event: str(event["RecordType"]),
    scheme=BASIC,
    sign=_sign,
    retries=RETRIES,
    is_retried=_is_retried,
    follow_redirects=True,
)
