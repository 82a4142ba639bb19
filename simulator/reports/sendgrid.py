"""SendGrid.

Sources: twilio.com/docs/sendgrid/for-developers/tracking-events/event and
.../getting-started-event-webhook-security-features; github.com/sendgrid/docs/issues/5811: repeated for a day;
github.com/sendgrid/sendgrid-nodejs/issues/1435: each repeat gives the events other ids.
"""

import base64
import uuid
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from simulator.reports.base import (
    AGENT,
    IP,
    NO_SUCH_USER,
    TAKEN,
    TIMED_OUT,
    Build,
    Event,
    Happening,
    Posted,
    Reports,
    Sending,
    listed,
    not_2xx,
)
from simulator.reports.schemes import CURVE


def _tells(event: str, **more: Any) -> Build:
    def build(happened: Happening) -> Event:
        mail = happened.mail
        return {
            "email": happened.recipient,
            "timestamp": happened.seconds,
            "event": event,
            "smtp-id": f"<{happened.bare_id}@geopod-ismtpd-1>",
            "sg_event_id": _new_id(),
            "sg_message_id": f"{happened.bare_id}.recvd-simulator-0",
            "category": mail.tags,
            # Custom arguments stand among the others; this is the one by which Anymail knows a mail.
            "anymail_id": mail.id,
            **mail.metadata,
            **more,
        }

    return build


def _bounce(kind: str, status: str, reason: str, classification: str) -> Build:
    return _tells("bounce", type=kind, status=status, reason=reason, bounce_classification=classification, ip=IP, tls=1)


def _click(happened: Happening) -> Event:
    return _tells("click", url=happened.link, url_offset={"index": 0, "type": "text"}, ip=IP, useragent=AGENT)(happened)


BLOCKED = "550 5.7.1 The message was blocked by the recipient's server."
EVENTS: dict[str, tuple[Build, ...]] = {
    "sent": (_tells("processed"),),
    "delivered": (_tells("delivered", response=TAKEN, ip=IP, tls=1),),
    "deferred": (_tells("deferred", response=TIMED_OUT, attempt="5"),),
    "soft_bounced": (_bounce("blocked", "5.7.1", BLOCKED, "Reputation"),),
    "bounced": (_bounce("bounce", "5.1.1", NO_SUCH_USER, "Invalid Address"),),
    "suppressed": (_tells("dropped", reason="Bounced Address", status="5.0.0"),),
    "complained": (_tells("spamreport"),),
    "rejected": (_tells("dropped", reason="Spam Content"),),
    "opened": (_tells("open", ip=IP, useragent=AGENT, sg_machine_open=False),),
    "clicked": (_click,),
    "unsubscribed": (_tells("unsubscribe"),),
}


def _with_other_ids(body: str) -> bytes:
    return orjson.dumps([{**event, "sg_event_id": _new_id()} for event in orjson.loads(body)])


def _new_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _sign(body: str, sending: Sending, key: EllipticCurvePrivateKey) -> Posted:
    timestamp = str(int(sending.at.timestamp()))
    content = _with_other_ids(body) if sending.before else body.encode()
    signature = key.sign(timestamp.encode() + content, ECDSA(SHA256()))
    headers = {
        "User-Agent": "SendGrid Event API",
        "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
        "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
    }
    return Posted(content, headers)


REPORTS = Reports(
    name="sendgrid",
    events=EVENTS,
    kind=lambda event: str(event["event"]),
    scheme=CURVE,
    sign=_sign,
    # The page says that the pauses grow, for a day.
    retries=(60.0, 600.0, 3600.0, 10_800.0, 21_600.0, 43_200.0),
    is_retried=not_2xx,
    batch=1000,
    whole=listed,
)
