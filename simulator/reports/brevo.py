"""Brevo, which signs nothing.

Sources: developers.brevo.com/docs/{transactional-webhooks,batch-webhooks,secured-webhooks,retry-mechanism}.
"""

from typing import Any

from simulator.reports.base import (
    IP,
    MAILBOX_FULL,
    NO_SUCH_USER,
    TIMED_OUT,
    Build,
    Event,
    Happening,
    Reports,
    dumped,
)
from simulator.reports.schemes import BASIC, basic

TOO_MANY = 429


def _tells(event: str, **more: Any) -> Build:
    def build(happened: Happening) -> Event:
        mail = happened.mail
        return {
            "event": event,
            "email": happened.recipient,
            "id": 26224,
            "date": f"{happened.at:%Y-%m-%d %H:%M:%S}",
            "ts": happened.seconds,
            "message-id": mail.id,
            "ts_event": happened.seconds,
            "subject": mail.subject,
            "X-Mailin-custom": dumped(mail.metadata),
            "sending_ip": IP,
            "ts_epoch": int(happened.at.timestamp() * 1000),
            "tags": mail.tags,
            **more,
        }

    return build


def _click(happened: Happening) -> Event:
    return _tells("click", link=happened.link)(happened)


# One alone is no list.
def _whole(events: list[Event]) -> Any:
    return events if len(events) > 1 else events[0]


EVENTS: dict[str, tuple[Build, ...]] = {
    "sent": (_tells("request"),),
    "delivered": (_tells("delivered"),),
    "deferred": (_tells("deferred", reason=TIMED_OUT),),
    "soft_bounced": (_tells("soft_bounce", reason=MAILBOX_FULL),),
    "bounced": (_tells("hard_bounce", reason=NO_SUCH_USER),),
    "complained": (_tells("spam"),),
    "suppressed": (_tells("blocked", reason="blocked : due to blacklist user"),),
    "rejected": (_tells("blocked", reason="sender is not valid"),),
    "failed": (_tells("error", reason="error while sending"),),
    "opened": (_tells("opened"),),
    "clicked": (_click,),
    "unsubscribed": (_tells("unsubscribe"),),
}

REPORTS = Reports(
    name="brevo",
    events=EVENTS,
    kind=lambda event: str(event["event"]),
    scheme=BASIC,
    sign=basic,
    retries=(600.0, 3600.0, 7200.0, 28800.0),
    is_retried=lambda status: status is None or status == TOO_MANY,
    batch=500,
    whole=_whole,
)
