"""Mailtrap.

Sources: docs.mailtrap.io/email-api-smtp/advanced/webhooks, /analytics/statuses-and-events and
/deliverability/bounce-categorization.
"""

import hmac
import uuid
from typing import Any

from simulator.reports.base import (
    AGENT,
    IP,
    MAILBOX_FULL,
    NO_SUCH_USER,
    TIMED_OUT,
    Build,
    Event,
    Happening,
    Posted,
    Reports,
    Sending,
    not_2xx,
)
from simulator.reports.schemes import TEXT


def _tells(event: str, **more: Any) -> Build:
    def build(happened: Happening) -> Event:
        return {
            "event": event,
            "message_id": happened.mail.id,
            "sending_stream": "transactional",
            "email": happened.recipient,
            "timestamp": happened.seconds,
            "event_id": str(uuid.uuid4()),
            "category": happened.tag,
            "custom_variables": happened.mail.metadata,
            **more,
        }

    return build


def _refused(event: str, reply: str, category: str) -> Build:
    return _tells(event, response=reply, response_code=int(reply[:3]), bounce_category=category)


def _click(happened: Happening) -> Event:
    return _tells("click", ip=IP, user_agent=AGENT, url=happened.link)(happened)


EVENTS: dict[str, tuple[Build, ...]] = {
    "delivered": (_tells("delivery"),),
    "deferred": (_refused("soft bounce", TIMED_OUT, "timeout"),),
    "soft_bounced": (_refused("bounce", MAILBOX_FULL, "overquota"),),
    "bounced": (_refused("bounce", NO_SUCH_USER, "badrecipient"),),
    "complained": (_tells("spam"),),
    "suppressed": (_tells("reject", reason="recipient is on the suppression list"),),
    "rejected": (_tells("reject", reason="unverified domain"),),
    "opened": (_tells("open", ip=IP, user_agent=AGENT),),
    "clicked": (_click,),
    "unsubscribed": (_tells("unsubscribe", ip=IP, user_agent=AGENT),),
}


def _sign(body: str, _: Sending, key: str) -> Posted:
    content = body.encode()
    return Posted(content, {"Mailtrap-Signature": hmac.digest(key.encode(), content, "sha256").hex()})


REPORTS = Reports(
    name="mailtrap",
    events=EVENTS,
    kind=lambda event: str(event["event"]),
    scheme=TEXT,
    sign=_sign,
    retries=(300.0,) * 40,
    is_retried=not_2xx,
    batch=500,
    whole=lambda events: {"events": events},
)
