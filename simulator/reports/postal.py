"""Postal, which tells of no complaint.

Sources: docs.postalserver.io/developer/webhooks; github.com/postalserver/postal, app/lib/signer.rb, lib/postal/http.rb
and app/services/webhook_delivery_service.rb.
"""

import base64
import uuid
from typing import Any

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256

from simulator.reports.base import (
    AGENT,
    IP,
    MAILBOX_FULL,
    NO_SUCH_USER,
    TAKEN,
    TIMED_OUT,
    Build,
    Event,
    Happening,
    Posted,
    Reports,
    Sending,
    not_2xx,
)
from simulator.reports.schemes import RSA


def _message(happened: Happening) -> Event:
    mail = happened.mail
    return {
        "id": int(mail.id) if mail.id.isdecimal() else mail.id,
        "token": uuid.uuid5(uuid.NAMESPACE_OID, mail.id).hex[:9],
        "direction": "outgoing",
        "message_id": f"{uuid.uuid5(uuid.NAMESPACE_OID, mail.id)}@rp.postal.simulator",
        "to": happened.recipient,
        "from": mail.sender,
        "subject": mail.subject,
        "timestamp": mail.accepted_at.timestamp(),
        "spam_status": "NotSpam",
        "tag": happened.tag or None,
    }


def _tells(event: str, **payload: Any) -> Build:
    def build(happened: Happening) -> Event:
        return {
            "event": event,
            "timestamp": happened.at.timestamp(),
            "payload": {**payload, "message": _message(happened)},
            "uuid": str(uuid.uuid4()),
        }

    return build


def _delivery(event: str, status: str, output: str, details: str) -> Build:
    more = {"status": status, "details": details, "output": output, "sent_with_ssl": True, "time": 0.22}
    return lambda happened: _tells(event, **more, timestamp=happened.at.timestamp())(happened)


def _click(happened: Happening) -> Event:
    return _tells("MessageLinkClicked", url=happened.link, token="VJzsFA0S", ip_address=IP, user_agent=AGENT)(happened)  # noqa: S106  # the link's, as the page shows it


BY_SMTP = "Message sent by SMTP to mx.example.com (192.0.2.1)"
REFUSED = "An SMTP error occurred while sending the message."
EVENTS: dict[str, tuple[Build, ...]] = {
    "delivered": (_delivery("MessageSent", "Sent", TAKEN, BY_SMTP),),
    "deferred": (_delivery("MessageDelayed", "SoftFail", TIMED_OUT, REFUSED),),
    "soft_bounced": (_delivery("MessageDeliveryFailed", "HardFail", MAILBOX_FULL, "Given up after 18 attempts."),),
    "bounced": (_delivery("MessageDeliveryFailed", "HardFail", NO_SUCH_USER, REFUSED),),
    "suppressed": (_delivery("MessageHeld", "Held", "", "Recipient is on the suppression list"),),
    "failed": (_delivery("MessageDeliveryFailed", "HardFail", "", "Message is likely spam."),),
    "opened": (_tells("MessageLoaded", ip_address=IP, user_agent=AGENT),),
    "clicked": (_click,),
}


def _sign(body: str, _: Sending, key: RSAPrivateKey) -> Posted:
    content = body.encode()
    old, new = (base64.b64encode(key.sign(content, PKCS1v15(), way)).decode() for way in (SHA1(), SHA256()))  # noqa: S303  # Postal's own
    return Posted(content, {"X-Postal-Signature": old, "X-Postal-Signature-256": new})


REPORTS = Reports(
    name="postal",
    events=EVENTS,
    kind=lambda event: str(event["event"]),
    scheme=RSA,
    sign=_sign,
    retries=(120.0, 180.0, 360.0, 600.0, 900.0),
    is_retried=not_2xx,
    timeout=5.0,
)
