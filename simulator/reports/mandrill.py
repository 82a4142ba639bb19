"""Mandrill (Mailchimp Transactional).

Sources: mailchimp.com/developer/transactional/docs/webhooks/; mandrill.zendesk.com/hc/en-us/articles/
205583307-Message-Event-Webhook-Format and 360039232513-How-to-Authenticate-Webhook-Requests: what is signed begins with
the URL as it was given. The address is tried as in 360038740014-Why-can-t-my-webhook-or-inbound-route-URL-be-verified.
"""

import base64
import hmac
from typing import Any
from urllib.parse import urlencode

from simulator.reports.base import (
    AGENT,
    IP,
    MAILBOX_FULL,
    NO_SUCH_USER,
    TIMED_OUT,
    Build,
    Check,
    Event,
    Happening,
    Posted,
    Reports,
    Sending,
    listed,
    not_2xx,
)
from simulator.reports.schemes import TEXT

FIELD = "mandrill_events"


def _tells(event: str, message: Event | None = None, **more: Any) -> Build:
    def build(happened: Happening) -> Event:
        mail = happened.mail
        return {
            "event": event,
            "msg": {
                "ts": int(mail.accepted_at.timestamp()),
                "_id": mail.id,
                "_version": "simulator",
                "state": "sent",
                "subject": mail.subject,
                "email": happened.recipient,
                "sender": mail.sender,
                "tags": mail.tags,
                "metadata": mail.metadata,
                "opens": [],
                "clicks": [],
                "smtp_events": [],
                "resends": [],
                "template": None,
                **(message or {}),
            },
            "_id": mail.id,
            "ts": happened.seconds,
            **more,
        }

    return build


def _bounce(event: str, description: str, reply: str, code: int) -> Build:
    about = {"state": "bounced", "bounce_description": description, "bgtools_code": code, "diag": f"smtp;{reply}"}
    return _tells(event, about)


def _deferral(happened: Happening) -> Event:
    attempt = {"ts": happened.seconds, "type": "deferred", "diag": TIMED_OUT, "source_ip": IP, "size": 0}
    return _tells("deferral", {"state": "deferred", "smtp_events": [attempt]})(happened)


def _reject(reason: str) -> Build:
    return _tells("reject", {"state": "rejected", "reject": {"reason": reason, "last_event_at": None}})


def _click(happened: Happening) -> Event:
    return _tells("click", ip=IP, user_agent=AGENT, location=None, url=happened.link)(happened)


EVENTS: dict[str, tuple[Build, ...]] = {
    "sent": (_tells("send"),),
    "delivered": (_tells("delivered"),),
    "deferred": (_deferral,),
    "soft_bounced": (_bounce("soft_bounce", "mailbox_full", MAILBOX_FULL, 22),),
    "bounced": (_bounce("hard_bounce", "bad_mailbox", NO_SUCH_USER, 10),),
    "suppressed": (_reject("hard-bounce"),),
    "complained": (_tells("spam"),),
    "rejected": (_reject("invalid-sender"),),
    "opened": (_tells("open", ip=IP, user_agent=AGENT, location=None),),
    "clicked": (_click,),
    "unsubscribed": (_tells("unsub"),),
}


def _sign(body: str, sending: Sending, key: str) -> Posted:
    signed = f"{sending.url}{FIELD}{body}".encode()
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "User-Agent": "Mandrill-Webhook/1.0",
        "X-Mandrill-Signature": base64.b64encode(hmac.digest(key.encode(), signed, "sha1")).decode(),
    }
    return Posted(urlencode({FIELD: body}).encode(), headers)


REPORTS = Reports(
    name="mandrill",
    events=EVENTS,
    kind=lambda event: str(event["event"]),
    scheme=TEXT,
    sign=_sign,
    # The page says that it repeats, and neither when nor for how long.
    retries=(60.0, 600.0, 3600.0, 21_600.0, 86_400.0),
    is_retried=not_2xx,
    batch=1000,
    whole=listed,
    checks=(Check("HEAD"), Check("POST", list, key="test-webhook")),
)
