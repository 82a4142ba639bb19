"""SparkPost, which signs nothing.

Sources: developers.sparkpost.com/api/webhooks/ and docs.bird.com/api/email-api/webhooks;
support.sparkpost.com/docs/deliverability/bounce-classification-codes. What is not answered with 200 is repeated for
8 hours. A ping has no event.
"""

import uuid
from typing import Any

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
    not_200,
)
from simulator.reports.schemes import BASIC, basic_header

MESSAGE, TRACK, GENERATION, UNSUBSCRIBE = "message_event", "track_event", "gen_event", "unsubscribe_event"


def _tells(group: str, kind: str, **more: Any) -> Build:
    def build(happened: Happening) -> Event:
        mail = happened.mail
        about = {
            "type": kind,
            "event_id": str(uuid.uuid4().int % 10**17),
            "timestamp": str(happened.seconds),
            "message_id": uuid.uuid5(uuid.NAMESPACE_OID, mail.id).hex[:20],
            "transmission_id": mail.id,
            "rcpt_to": happened.recipient,
            "raw_rcpt_to": happened.recipient,
            "rcpt_meta": mail.metadata,
            "rcpt_tags": mail.tags,
            "campaign_id": happened.tag,
            "subject": mail.subject,
            "friendly_from": mail.sender,
            **more,
        }
        return {"msys": {group: about}}

    return build


def _refused(kind: str, bounce_class: str, reply: str) -> Build:
    return _tells(MESSAGE, kind, bounce_class=bounce_class, error_code=reply[:3], raw_reason=reply, reason=reply)


def _click(happened: Happening) -> Event:
    return _tells(TRACK, "click", target_link_url=happened.link, **BROWSER)(happened)


BROWSER = {"ip_address": IP, "user_agent": AGENT}
SUPPRESSED = "554 5.7.1 recipient address was suppressed due to customer policy"
EVENTS: dict[str, tuple[Build, ...]] = {
    "sent": (_tells(MESSAGE, "injection"),),
    "delivered": (_tells(MESSAGE, "delivery", num_retries="0", queue_time="500"),),
    "deferred": (_refused("delay", "24", TIMED_OUT),),
    "soft_bounced": (_refused("bounce", "22", MAILBOX_FULL),),
    "bounced": (_refused("bounce", "10", NO_SUCH_USER),),
    "suppressed": (_refused("bounce", "25", SUPPRESSED),),
    "complained": (
        _tells(MESSAGE, "spam_complaint", fbtype="abuse", report_by="example.com", report_to="example.com"),
    ),
    "rejected": (_refused("policy_rejection", "25", "550 5.7.1 The content is not allowed."),),
    "failed": (
        _tells(GENERATION, "generation_failure", error_code="500", raw_reason="Template could not be rendered"),
    ),
    "opened": (_tells(TRACK, "initial_open", **BROWSER), _tells(TRACK, "open", **BROWSER)),
    "clicked": (_click,),
    "unsubscribed": (_tells(UNSUBSCRIBE, "list_unsubscribe"),),
}


def _kind(event: Event) -> str:
    [about] = event["msys"].values()
    return str(about["type"])


def _sign(body: str, sending: Sending, key: str) -> Posted:
    return Posted(body.encode(), {"X-MessageSystems-Batch-ID": sending.id, **basic_header(key)})


REPORTS = Reports(
    name="sparkpost",
    events=EVENTS,
    kind=_kind,
    scheme=BASIC,
    sign=_sign,
    # The page says for how long, and not how often.
    retries=(60.0, 300.0, 900.0, 3600.0, 7200.0, 14_400.0),
    is_retried=not_200,
    timeout=10.0,
    batch=1000,
    whole=listed,
    checks=(Check("POST", lambda: [{"msys": {}}]),),
)
