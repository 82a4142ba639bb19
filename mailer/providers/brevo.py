"""Brevo.

https://developers.brevo.com/docs/heterogenous-versions-batch-emails: `idempotencyKey` among the message's headers, a
UUID, kept for 30 minutes; a repeat is answered with `duplicate_parameter` and not processed.
https://developers.brevo.com/changelog/email-api-now-supports-idempotency: for 15 minutes. The lesser one counts.
https://developers.brevo.com/docs/how-it-works: the statuses and codes of errors.
https://developers.brevo.com/reference/sendtransacemail: somebody in `to`, a subject, and a content.

Its search finds by address, template or its own id, not by our metadata. `messageVersions` carries many messages,
with one outcome and one key for all.
"""

from datetime import timedelta

from mailer.providers.base import Key, Provider
from mailer.verdicts import Verdict

PROVIDER = Provider(
    name="brevo",
    backend="anymail.backends.brevo.EmailBackend",
    needs=("BREVO_API_KEY",),
    takes=("BREVO_API_URL",),
    requires=frozenset({"to", "subject", "body"}),
    key=Key(field=("headers", "idempotencyKey"), lifetime=timedelta(minutes=12)),
    refusals={402: Verdict.CONFIGURATION},
    error_codes=(("code",),),
    errors={
        # It takes a key once: a request with it was taken before. The answer to that one is lost, and its id.
        "duplicate_parameter": Verdict.ACCEPTED,
        "account_under_validation": Verdict.CONFIGURATION,
        "not_enough_credits": Verdict.CONFIGURATION,
        "permission_denied": Verdict.CONFIGURATION,
        "unauthorized": Verdict.CONFIGURATION,
    },
    tells=True,
)
