"""Resend.

https://resend.com/docs/dashboard/emails/idempotency-keys: the `Idempotency-Key` header holds for 24 hours; 409
says that a request with this key is under way, or that it was used with another body.
https://resend.com/docs/api-reference/errors: the meaning of the other statuses.
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
)
