"""MailerSend.

https://developers.mailersend.com/general.html: the statuses; 421 and 408 mean "later".
https://developers.mailersend.com/api/v1/email.html: 50 recipients, somebody in `to`, a subject, text or HTML;
no metadata, so no event and no search names our id; the bulk API answers with one id for all and no outcomes. Headers
of one's own are for one plan only.
"""

from mailer.providers.base import Provider
from mailer.verdicts import Verdict

PROVIDER = Provider(
    name="mailersend",
    backend="anymail.backends.mailersend.EmailBackend",
    needs=("MAILERSEND_API_TOKEN",),
    takes=("MAILERSEND_API_URL", "MAILERSEND_BATCH_SEND_MODE"),
    requires=frozenset({"to", "subject", "body"}),
    lacks=frozenset({"metadata"}),
    refusals={402: Verdict.CONFIGURATION, 421: Verdict.AMBIGUOUS, 424: Verdict.AMBIGUOUS},
    largest=25_000_000,
)
