"""Unisender Go, which signs in the body.

Sources: godocs.unisender.ru/web-api-ref#callback-format (in English docs.unione.io/en/web-api-ref) and
docs.unione.io/en/email-statuses. Repeated every ten minutes for a day; the address is tried by GET.
"""

import hashlib

import orjson

from simulator.reports.base import (
    AGENT,
    IP,
    MAILBOX_FULL,
    NO_SUCH_USER,
    TAKEN,
    TIMED_OUT,
    Build,
    Check,
    Event,
    Happening,
    Posted,
    Reports,
    Sending,
    not_200,
)
from simulator.reports.schemes import TEXT


def _tells(status: str, delivery_status: str = "", reply: str = "") -> Build:
    def build(happened: Happening) -> Event:
        mail = happened.mail
        url = {"url": happened.link} if status == "clicked" else {}
        info = {
            "delivery_status": delivery_status,
            "destination_response": reply,
            "user_agent": AGENT,
            "ip": IP,
        }
        return {
            "event_name": "transactional_email_status",
            "event_data": {
                "job_id": mail.id,
                # What Anymail sends along to know a mail by, of which each recipient has its own.
                "metadata": {"anymail_id": mail.id, **mail.metadata},
                "email": happened.recipient,
                "status": status,
                "event_time": f"{happened.at:%Y-%m-%d %H:%M:%S}",
                **url,
                "delivery_info": {name: value for name, value in info.items() if value},
            },
        }

    return build


EVENTS: dict[str, tuple[Build, ...]] = {
    "sent": (_tells("sent"),),
    "delivered": (_tells("delivered", "ok_delivered", TAKEN),),
    "deferred": (_tells("soft_bounced", "err_will_retry", TIMED_OUT),),
    "soft_bounced": (_tells("hard_bounced", "err_mailbox_full", MAILBOX_FULL),),
    "bounced": (_tells("hard_bounced", "err_user_unknown", NO_SUCH_USER),),
    "suppressed": (_tells("hard_bounced", "err_unsubscribed"),),
    "complained": (_tells("spam"),),
    "failed": (_tells("hard_bounced", "err_internal"),),
    "opened": (_tells("opened"),),
    "clicked": (_tells("clicked"),),
    "unsubscribed": (_tells("unsubscribed"),),
}


def _whole(events: list[Event]) -> Event:
    return {"events_by_user": [{"user_id": 456, "project_id": "64328", "events": events}]}


def _sign(body: str, _: Sending, key: str) -> Posted:
    """Put the MD5 of the body that has the key in it into the key's place."""
    content = orjson.dumps({"auth": key, **orjson.loads(body)})
    auth = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return Posted(content.replace(key.encode(), auth.encode()))


REPORTS = Reports(
    name="unisender_go",
    events=EVENTS,
    kind=lambda event: str(event["event_data"]["status"]),
    scheme=TEXT,
    sign=_sign,
    retries=(600.0,) * 144,
    is_retried=not_200,
    timeout=3.0,
    batch=1000,
    whole=_whole,
    checks=(Check("GET"),),
)
