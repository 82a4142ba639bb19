"""Postmark: its send API and its webhooks.

Sources: postmarkapp.com/developer/api/email-api, /api/messages-api, /api/overview#error-codes and
/api/bounce-api#bounce-types,
/webhooks/{delivery,bounce,spam-complaint,open-tracking,click,subscription-change}-webhook.
"""

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

from simulator.behaviour import REJECTED, behaviour_of
from simulator.mail import Mail, Refusal, RefusedError, addresses, is_address, rfc3339

NAME = "postmark"
SERVER_ID = 23
BATCH_LIMIT = 500
RECIPIENT_LIMIT = 50
METADATA_LIMITS = {"fields": 10, "name": 20, "value": 80}
SUBJECT_LIMIT = 2000
TAG_LIMIT = 1000
TEXTS = ("From", "To", "Cc", "Bcc", "Subject", "TextBody", "HtmlBody", "Tag")

# A standard rung, then a backoff rung: github.com/ActiveCampaign/postmark-skills, postmark-webhooks (August
# 2026). Until then 403 alone was final, bounces had ten retries in 10.5 hours and other events three.
RETRIES = (60.0, 300.0, 900.0, 60.0, 300.0, 600.0, 600.0, 600.0, 900.0)
# Postmark publishes no timeout for these webhooks.
TIMEOUT = 30.0
RETRIED = {408, 429, *range(300, 400), *range(500, 600)}

INACTIVE = "Inactive recipients are ones that have generated a hard bounce, a spam complaint, or a manual suppression."
AGENT = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 Chrome/142.0.0.0 Safari/537.36"

Body = dict[str, Any]


def is_retried(status: int | None) -> bool:
    """Whether Postmark tries again. ``None`` is no answer. Every 4xx but 408 and 429 is final."""
    return status is None or status in RETRIED


# The send API


def refused(status: int, code: int, message: str) -> Refusal:
    return Refusal(status, {"ErrorCode": code, "Message": message})


NO_TOKEN = refused(
    401,
    10,
    "No Account or Server API tokens were supplied in the HTTP headers."
    " Please add a header for either X-Postmark-Server-Token or X-Postmark-Account-Token.",
)
BAD_TOKEN = refused(
    401,
    10,
    "The Server Token you provided in the X-Postmark-Server-Token request header was invalid."
    " Please verify that you are using a valid token.",
)
BAD_JSON = refused(422, 402, "Received invalid JSON input.")
WRONG_JSON = refused(422, 403, "The JSON that was provided is not compatible with this endpoint.")
TOO_MANY = refused(422, 410, f"You may only send up to {BATCH_LIMIT} messages in one batch.")
RATE_LIMITED = refused(429, 429, "Rate limit exceeded.")
UNAVAILABLE = refused(500, 500, "Internal server error.")
NOT_FOUND = refused(422, 701, "This message does not exist.")


def authorize(token: str | None, expected: str) -> None:
    """Check the token. Raises RefusedError (401, ErrorCode 10)."""
    if not token:
        raise RefusedError(NO_TOKEN)
    if not expected or token.lower() != expected.lower():
        raise RefusedError(BAD_TOKEN)


def read(payload: Any) -> Mail:
    """Check one message of a request. Raises RefusedError (422) with ErrorCode 300, 403 or 406."""
    if not isinstance(payload, dict) or any(not isinstance(payload.get(name) or "", str) for name in TEXTS):
        raise RefusedError(WRONG_JSON)
    lines = {name: payload.get(name) or "" for name in ("To", "Cc", "Bcc")}
    recipients = [address for line in lines.values() for address in addresses([line])]
    _check(payload, lines, recipients)
    inactive = _inactive(recipients)
    if len(inactive) == len(recipients):
        found = f"Found inactive addresses: {', '.join(inactive)}."
        raise RefusedError(
            refused(
                422,
                406,
                f"You tried to send to recipient(s) that have been marked as inactive. {found} {INACTIVE}",
            )
        )
    return Mail(
        provider=NAME,
        sender=payload["From"],
        recipients=recipients,
        subject=payload.get("Subject") or "",
        text=payload.get("TextBody") or "",
        html=payload.get("HtmlBody") or "",
        headers={header["Name"]: header["Value"] for header in payload.get("Headers") or []},
        metadata={name: str(value) for name, value in (payload.get("Metadata") or {}).items()},
        payload=payload,
    )


def _check(payload: Body, lines: dict[str, str], recipients: list[str]) -> None:
    sender = addresses([payload.get("From") or ""])
    if not sender or not is_address(sender[0]):
        raise _invalid(f"Invalid 'From' address: '{payload.get('From') or ''}'.")
    for name, line in lines.items():
        for address in addresses([line]):
            if not is_address(address):
                raise _invalid(f"Error parsing '{name}': Illegal email address '{address}'.")
    rules = {
        "Zero recipients specified": recipients,
        f"Too many recipients; at most {RECIPIENT_LIMIT} are allowed.": len(recipients) <= RECIPIENT_LIMIT,
        "Provide either email TextBody or HtmlBody or both.": payload.get("TextBody") or payload.get("HtmlBody"),
        f"Subject is longer than {SUBJECT_LIMIT} characters.": len(payload.get("Subject") or "") <= SUBJECT_LIMIT,
        f"Tag is longer than {TAG_LIMIT} characters.": len(payload.get("Tag") or "") <= TAG_LIMIT,
        "Invalid metadata content. At most {fields} fields, names of {name} and values of {value} characters"
        " are allowed.".format(**METADATA_LIMITS): _metadata_fits(payload.get("Metadata") or {}),
    }
    for message, kept in rules.items():
        if not kept:
            raise _invalid(message)


def _invalid(message: str) -> RefusedError:
    return RefusedError(refused(422, 300, message))


def _metadata_fits(metadata: Any) -> bool:
    return (
        isinstance(metadata, dict)
        and len(metadata) <= METADATA_LIMITS["fields"]
        and all(len(name) <= METADATA_LIMITS["name"] for name in metadata)
        and all(len(str(value)) <= METADATA_LIMITS["value"] for value in metadata.values())
    )


def _inactive(recipients: list[str]) -> list[str]:
    return [address.lower() for address in recipients if behaviour_of(address) == REJECTED]


def accepted(mail: Mail) -> Body:
    inactive = _inactive(mail.recipients)
    partly = f"Message OK, but will not deliver to these inactive addresses: {', '.join(inactive)}. {INACTIVE}"
    return {
        "To": mail.payload.get("To") or "",
        "SubmittedAt": rfc3339(mail.accepted_at, 7),
        "MessageID": mail.id,
        "ErrorCode": 0,
        "Message": partly if inactive else "OK",
    }


EVENT_NAMES = {
    "Delivery": "Delivered",
    "Bounce": "Bounced",
    "Open": "Opened",
    "Click": "LinkClicked",
    "SubscriptionChange": "SubscriptionChanged",
}


def details(row: dict[str, Any], happened: list[dict[str, Any]]) -> Body:
    """Answer ``GET /messages/outbound/{id}/details`` for a log row and the webhook rows already past."""
    payload = row["payload"]
    return {
        "TextBody": row["text"],
        "HtmlBody": row["html"],
        "Body": "",
        "Tag": payload.get("Tag") or "",
        "MessageID": row["id"],
        **{
            name: [{"Email": address, "Name": None} for address in addresses([payload.get(name) or ""])]
            for name in ("To", "Cc", "Bcc")
        },
        "Recipients": row["recipients"],
        "ReceivedAt": row["accepted_at"],
        "From": row["sender"],
        "Subject": row["subject"],
        "Attachments": [attachment.get("Name") for attachment in payload.get("Attachments") or []],
        "Status": "Sent",
        "TrackOpens": bool(payload.get("TrackOpens")),
        "TrackLinks": payload.get("TrackLinks") or "None",
        "Metadata": row["metadata"],
        "Sandboxed": False,
        "MessageStream": payload.get("MessageStream") or "outbound",
        "MessageEvents": [
            {
                "Recipient": hook["recipient"],
                "Type": EVENT_NAMES[hook["event"]],
                "ReceivedAt": rfc3339(datetime.fromtimestamp(hook["happened_at"]).astimezone(), 7),
                "Details": {"Summary": hook["body"].get("Details") or hook["body"].get("Description") or ""},
            }
            for hook in happened
            if hook["event"] in EVENT_NAMES
        ],
    }


# The webhooks


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
