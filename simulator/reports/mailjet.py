"""Mailjet, which signs nothing.

Sources: dev.mailjet.com/email/guides/webhooks/;
documentation.mailjet.com/hc/en-us/articles/360043578154-Event-Tracking-API.
"""

import uuid
from typing import Any

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
    Reports,
    dumped,
    listed,
    not_200,
)
from simulator.reports.schemes import BASIC, basic

BROWSER = {"ip": IP, "geo": "FR", "agent": AGENT}


def _tells(event: str, **more: Any) -> Build:
    def build(happened: Happening) -> Event:
        mail = happened.mail
        number = _number(happened)
        return {
            "event": event,
            "time": happened.seconds,
            "MessageID": number,
            "Message_GUID": str(uuid.UUID(int=number)) if isinstance(number, int) else "",
            "email": happened.recipient,
            "mj_campaign_id": 7257,
            "mj_contact_id": 4,
            "customcampaign": happened.tag,
            "CustomID": mail.payload.get("CustomID") or mail.metadata.get("message_id", ""),
            "Payload": dumped(mail.metadata),
            **more,
        }

    return build


def _number(happened: Happening) -> int | str:
    """Return the id of the recipient's own copy; the first one's is the mail's."""
    mail = happened.mail
    if not mail.id.isdecimal():
        return mail.id
    return int(mail.id) + (mail.recipients.index(happened.recipient) if happened.recipient in mail.recipients else 0)


def _bounce(error: str, related_to: str, words: str, *, hard: bool) -> Build:
    return _tells("bounce", blocked=False, hard_bounce=hard, error_related_to=related_to, error=error, comment=words)


def _click(happened: Happening) -> Event:
    return _tells("click", url=happened.link, **BROWSER)(happened)


EVENTS: dict[str, tuple[Build, ...]] = {
    "delivered": (_tells("sent", mj_message_id="", smtp_reply=f"sent ({TAKEN})"),),
    "deferred": (_bounce("greylisted", "domain", TIMED_OUT, hard=False),),
    "soft_bounced": (_bounce("quota exceeded", "recipient", MAILBOX_FULL, hard=False),),
    "bounced": (_bounce("user unknown", "recipient", NO_SUCH_USER, hard=True),),
    "suppressed": (_tells("blocked", error_related_to="mailjet", error="preblocked"),),
    "complained": (_tells("spam", source="JMRPP"),),
    "rejected": (_tells("blocked", error_related_to="content", error="bad or empty template"),),
    "opened": (_tells("open", **BROWSER),),
    "clicked": (_click,),
    "unsubscribed": (_tells("unsub", mj_list_id=1, **BROWSER),),
}

REPORTS = Reports(
    name="mailjet",
    events=EVENTS,
    kind=lambda event: str(event["event"]),
    scheme=BASIC,
    sign=basic,
    # The page says for how long, and not how often.
    retries=(60.0, 600.0, 3600.0, 10_800.0, 21_600.0, 21_600.0, 21_600.0),
    is_retried=not_200,
    batch=1000,
    whole=listed,
)
