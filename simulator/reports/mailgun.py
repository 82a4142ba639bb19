"""Mailgun.

Sources: documentation.mailgun.com/docs/mailgun/user-manual/webhooks/{securing-webhooks,webhook-payloads,
webhook-retries}: the signature is in the body and covers a time and a token alone; 406 ends it, and a `delivered` is
never repeated.
"""

import hashlib
import hmac
import uuid
from typing import Any

import orjson

from simulator.reports.base import (
    AGENT,
    IP,
    Build,
    Event,
    Happening,
    Posted,
    Reports,
    Sending,
    not_200,
)
from simulator.reports.schemes import TEXT

NOT_ACCEPTABLE = 406


def _tells(kind: str, **more: Any) -> Build:
    def build(happened: Happening) -> Event:
        mail = happened.mail
        return {
            "event-data": {
                "event": kind,
                "id": uuid.uuid4().hex[:22],
                "timestamp": happened.at.timestamp(),
                "log-level": "info",
                "flags": {"is-authenticated": True, "is-routed": False, "is-test-mode": False},
                "message": {
                    "headers": {
                        "message-id": happened.bare_id,
                        "from": mail.sender,
                        "to": ", ".join(mail.recipients),
                        "subject": mail.subject,
                    },
                    "attachments": [],
                    "size": 341,
                },
                "recipient": happened.recipient,
                "recipient-domain": happened.recipient.rpartition("@")[2],
                "account": {"id": "1234567890303a4bd1f33898"},
                "domain": {"name": mail.sender.rpartition("@")[2].strip(">")},
                "tags": mail.tags,
                "campaigns": [],
                "user-variables": mail.metadata,
                **more,
            }
        }

    return build


def _failed(severity: str, reason: str, code: int, message: str, **report: str) -> Build:
    status = {"attempt-no": 1, "code": code, "message": message, "description": "", "session-seconds": 0.2, **report}
    return _tells("failed", severity=severity, reason=reason, **{"delivery-status": status, "log-level": "error"})


def _click(happened: Happening) -> Event:
    return _tells("clicked", url=happened.link, ip=IP, **BROWSER)(happened)


BROWSER = {"client-info": {"client-type": "browser", "user-agent": AGENT, "bot": ""}}
NO_SUCH_USER = "5.1.1 The email account that you tried to reach does not exist."
MAILBOX_FULL = "5.2.2 The email account that you tried to reach is over quota."
EVENTS: dict[str, tuple[Build, ...]] = {
    "sent": (_tells("accepted"),),
    "delivered": (_tells("delivered", **{"delivery-status": {"code": 250, "message": "OK", "attempt-no": 1}}),),
    "deferred": (_failed("temporary", "generic", 451, "4.4.1 Connection timed out."),),
    "soft_bounced": (
        _failed("permanent", "bounce", 552, MAILBOX_FULL, **{"enhanced-code": "5.2.2", "bounce-type": "soft"}),
    ),
    "bounced": (
        _failed("permanent", "bounce", 550, NO_SUCH_USER, **{"enhanced-code": "5.1.1", "bounce-type": "hard"}),
    ),
    "suppressed": (_failed("permanent", "suppress-bounce", 605, "Not delivering to previously bounced address"),),
    "complained": (_tells("complained"),),
    "rejected": (_tells("rejected", reject={"reason": "Rate limit", "description": ""}),),
    "opened": (_tells("opened", ip=IP, **BROWSER),),
    "clicked": (_click,),
    "unsubscribed": (_tells("unsubscribed", ip=IP, **BROWSER),),
}


def _sign(body: str, sending: Sending, key: str) -> Posted:
    """Sign the time of this attempt and a token that is the same in all of them."""
    timestamp = str(int(sending.at.timestamp()))
    token = hashlib.sha256(sending.id.encode()).hexdigest()[:50]
    signature = hmac.digest(key.encode(), f"{timestamp}{token}".encode(), "sha256").hex()
    block = {"timestamp": timestamp, "token": token, "signature": signature}
    return Posted(orjson.dumps({"signature": block, **orjson.loads(body)}))


REPORTS = Reports(
    name="mailgun",
    events=EVENTS,
    kind=lambda event: str(event["event-data"]["event"]),
    scheme=TEXT,
    sign=_sign,
    retries=(300.0, 600.0, 900.0, 3600.0, 7200.0, 14400.0),
    is_retried=lambda status: not_200(status) and status != NOT_ACCEPTABLE,
    never_again=frozenset({"delivered"}),
)
