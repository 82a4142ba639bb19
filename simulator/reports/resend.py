"""Resend's webhooks, which Svix posts.

Sources: resend.com/docs/webhooks/emails/*, /dashboard/emails/email-bounces, /webhooks/retries-and-replays;
docs.svix.com/receiving/verifying-payloads/how-manual and /retries.
"""

import base64
import hmac
import secrets

from simulator.mail import Mail, rfc3339
from simulator.reports.base import (
    MAILBOX_FULL,
    NO_SUCH_USER,
    Build,
    Event,
    Happening,
    Posted,
    Reports,
    Sending,
    not_2xx,
    with_metadata,
)
from simulator.reports.schemes import SVIX

AGENT = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Safari/605.1.15"


def message_id(mail: Mail) -> str:
    return f"<{mail.id}@send.resend.simulator>"


def _tells(kind: str, **more: Event) -> Build:
    def build(happened: Happening) -> Event:
        mail = happened.mail
        data: Event = {
            "created_at": rfc3339(mail.accepted_at, 3),
            "email_id": mail.id,
            "message_id": message_id(mail),
            "from": mail.sender,
            "to": _to(mail) if kind == "email.sent" else [happened.recipient],
            "subject": mail.subject,
            **more,
        }
        if headers := with_metadata(mail.headers, mail.metadata):
            data["headers"] = headers
        if tags := mail.payload.get("tags"):
            data["tags"] = {tag["name"]: tag["value"] for tag in tags}
        return {"type": kind, "created_at": rfc3339(happened.at, 3), "data": data}

    return build


def _to(mail: Mail) -> list[str]:
    told = mail.payload.get("to") or mail.recipients
    return told if isinstance(told, list) else [told]


def _click(happened: Happening) -> Event:
    click = {
        "ipAddress": "122.115.53.11",
        "userAgent": AGENT,
        "link": happened.link,
        "timestamp": rfc3339(happened.at, 3),
    }
    return _tells("email.clicked", click=click)(happened)


HARD = {
    "diagnosticCode": [f"smtp; {NO_SUCH_USER}"],
    "message": "The recipient's email provider sent a hard bounce message,"
    " but didn't specify the reason for the hard bounce.",
    "subType": "General",
    "type": "Permanent",
}
SOFT = {
    "diagnosticCode": [f"smtp; {MAILBOX_FULL}"],
    "message": "The recipient's email provider sent a bounce message because the recipient's inbox was full.",
    "subType": "MailboxFull",
    "type": "Transient",
}
SUPPRESSED = {
    "message": "Resend has suppressed sending to this address because it is on the account-level"
    " suppression list. This does not count toward your bounce rate metric",
    "type": "OnAccountSuppressionList",
}
EVENTS: dict[str, tuple[Build, ...]] = {
    "sent": (_tells("email.sent"),),
    "delivered": (_tells("email.delivered"),),
    "bounced": (_tells("email.bounced", bounce=HARD),),
    "soft_bounced": (_tells("email.bounced", bounce=SOFT),),
    "deferred": (_tells("email.delivery_delayed"),),
    "complained": (_tells("email.complained"),),
    "suppressed": (_tells("email.suppressed", suppressed=SUPPRESSED),),
    "failed": (_tells("email.failed", failed={"reason": "reached_daily_quota"}),),
    "opened": (_tells("email.opened"),),
    "clicked": (_click,),
}


def _new_id() -> str:
    return f"msg_{secrets.token_hex(14)[:27]}"


def _sign(body: str, sending: Sending, key: bytes) -> Posted:
    """Sign as Svix does: HMAC-SHA256 over ``id.timestamp.body``, anew for every attempt."""
    stamp, content = str(int(sending.at.timestamp())), body.encode()
    digest = hmac.digest(key, b".".join((sending.id.encode(), stamp.encode(), content)), "sha256")
    headers = {
        "User-Agent": "Svix-Webhooks/1.84.0 (+https://www.svix.com/http-sender/)",
        "svix-id": sending.id,
        "svix-timestamp": stamp,
        "svix-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
    return Posted(content, headers)


REPORTS = Reports(
    name="resend",
    events=EVENTS,
    kind=lambda event: str(event["type"]),
    scheme=SVIX,
    sign=_sign,
    retries=(5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0),
    is_retried=not_2xx,
    timeout=15.0,
    # It is about the request, and names all of ``to``.
    once=frozenset({"sent"}),
    new_id=_new_id,
)
