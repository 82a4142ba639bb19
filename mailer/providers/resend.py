"""Resend.

https://resend.com/docs/dashboard/emails/idempotency-keys: the `Idempotency-Key` header holds for 24 hours; 409
says that a request with this key is under way, or that it was used with another body.
https://resend.com/docs/api-reference/errors: the meaning of the other statuses; quotas that are used up answer 429, as
the rate limit does, and a domain that is not verified 403.
https://resend.com/docs/api-reference/emails/send-email: 50 recipients, 40 MB once encoded.
https://resend.com/docs/api-reference/emails/send-batch-emails: up to 100 messages, no attachments, under one key
for all, and all are refused where one is: a message could not be repeated alone with the key it had. So none is joined.

Nothing searches by our metadata, which Anymail sends as a header; nor is that needed while the key holds.
"""

from datetime import timedelta

from mailer.providers.base import Key, Provider
from mailer.verdicts import Verdict

PROVIDER = Provider(
    name="resend",
    backend="anymail.backends.resend.EmailBackend",
    needs=("RESEND_API_KEY",),
    takes=("RESEND_API_URL",),
    # An hour less than it holds, for clocks that differ and for the time a request takes.
    key=Key(header="Idempotency-Key", lifetime=timedelta(hours=23)),
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
