"""Resend.

https://resend.com/docs/dashboard/emails/idempotency-keys: the `Idempotency-Key` header holds for 24 hours; 409
says that a request with this key is under way, or that it was used with another body.
https://resend.com/docs/api-reference/errors: the meaning of the other statuses; quotas that are used up answer 429, as
the rate limit does, and a domain that is not verified 403.
https://resend.com/docs/api-reference/emails/send-email: 50 recipients, 40 MB once encoded; somebody in
`to`, a subject, and text or HTML.
https://resend.com/docs/api-reference/emails/send-batch-emails: up to 100 messages, neither attachments nor a time to
send at, under one key for all.
https://resend.com/docs/dashboard/emails/batch-validation-modes: a permissive batch is taken but for the messages that
are not valid; the answer has the ids of the others, in order, and for each error the index of its message.

Nothing searches by our metadata, which Anymail sends as a header; nor is that needed while the key holds.
"""

from datetime import timedelta
from typing import Any

from mailer.providers.base import Batch, Key, Provider, as_list, get
from mailer.verdicts import Verdict


def _split(answer: Any) -> list[tuple[int, Any]] | None:
    if not isinstance(answer, dict):
        return None
    taken, errors = answer.get("data"), answer.get("errors", [])
    if not isinstance(taken, list) or not isinstance(errors, list):
        return None
    places = range(len(taken) + len(errors))
    refused = {place: error for error in errors if (place := get(error, ("index",))) in places}
    if len(refused) < len(errors):
        return None
    left = iter(taken)
    return [(422, refused[place]) if place in refused else (200, next(left)) for place in places]


def _keyed(backend: Any, key: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {backend.api_key}",
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Idempotency-Key": key,
        "x-batch-validation": "permissive",
    }


PROVIDER = Provider(
    name="resend",
    backend="anymail.backends.resend.EmailBackend",
    needs=("RESEND_API_KEY",),
    takes=("RESEND_API_URL",),
    requires=frozenset({"to", "subject", "body"}),
    # An hour less than it holds, for clocks that differ and for the time a request takes.
    key=Key(header="Idempotency-Key", lifetime=timedelta(hours=23)),
    batch=Batch(
        endpoint="emails",
        path="emails/batch",
        most=100,
        join=as_list,
        split=_split,
        largest=40_000_000,
        without=frozenset({"attachments", "scheduled_at"}),
        keyed=_keyed,
        identifier=("id",),
    ),
    refusals={409: Verdict.AMBIGUOUS},
    error_codes=(("name",),),
    errors={
        "daily_quota_exceeded": Verdict.THROTTLED,
        "monthly_quota_exceeded": Verdict.THROTTLED,
        "rate_limit_exceeded": Verdict.THROTTLED,
    },
    largest=40_000_000,
    tells=True,
)
