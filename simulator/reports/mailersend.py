"""MailerSend.

Source: developers.mailersend.com/api/v1/webhooks.html, the shape of since August 2025.
"""

import hmac
import uuid
from datetime import UTC, datetime
from typing import Any

from simulator.mail import rfc3339
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
)
from simulator.reports.schemes import TEXT


def _tells(kind: str, **meta: Any) -> Build:
    def build(happened: Happening) -> Event:
        mail = happened.mail
        return {
            "type": f"activity.{kind}",
            "created_at": rfc3339(happened.at),
            "data": {
                "id": uuid.uuid4().hex[:24],
                "domain_id": "yv69oxl5kl785kw2",
                "message_id": mail.id,
                "email_id": uuid.uuid4().hex[:24],
                "type": kind,
                "subject": mail.subject,
                "email": happened.recipient,
                "tags": mail.tags,
                "meta": meta or [],
            },
        }

    return build


def _click(kind: str) -> Build:
    return lambda happened: _tells(kind, ip=IP, user_agent=AGENT, url=happened.link)(happened)


def _open(kind: str) -> Build:
    return _tells(kind, ip=IP, user_agent=AGENT)


EVENTS: dict[str, tuple[Build, ...]] = {
    "sent": (_tells("sent"),),
    "delivered": (_tells("delivered"),),
    "deferred": (_tells("deferred", reason=TIMED_OUT),),
    "soft_bounced": (_tells("soft_bounced", reason=MAILBOX_FULL),),
    "bounced": (_tells("hard_bounced", reason=NO_SUCH_USER),),
    "complained": (_tells("spam_complaint"),),
    "opened": (_open("opened"), _open("opened_unique")),
    "clicked": (_click("clicked"), _click("clicked_unique")),
    "unsubscribed": (_tells("unsubscribed", reason="", reason_type=None),),
}


# It is published, and signs the check of an address alone.
CHECK_SECRET = "test_Am3L1GuOIc4blLUuHqAPxxwkZaJyEk8G"  # noqa: S105  # see above


def _check() -> Event:
    at = rfc3339(datetime.now(UTC))
    return {"type": "webhook.test", "message": "This is a ping test message", "created_at": at}


def _sign(body: str, _: Sending, key: str) -> Posted:
    content = body.replace("/", "\\/").encode()
    return Posted(content, {"Signature": hmac.digest(key.encode(), content, "sha256").hex()})


REPORTS = Reports(
    name="mailersend",
    events=EVENTS,
    kind=lambda event: str(event["type"]),
    scheme=TEXT,
    sign=_sign,
    # The page says that the pauses grow, and not how: these end after some three days.
    retries=(10.0, 100.0, 1000.0, 10_000.0, 100_000.0, 100_000.0),
    is_retried=lambda status: status not in (*range(200, 300), *range(400, 500)),
    checks=(Check("POST", _check, key=CHECK_SECRET),),
)
