"""Any server that speaks SMTP, through Django's own backend and its EMAIL_* settings.

RFC 5321, 4.2: 4xx is refused for now, 5xx for good. RFC 4954, 6: the codes of a login that fails. 4.5.3.1.8: 100
recipients. No idempotency and no search: a connection lost after the end of the data leaves a doubt that nobody can
settle.
"""

from mailer.providers.base import Provider
from mailer.verdicts import Verdict

PROVIDER = Provider(
    name="smtp",
    backend="mailer.smtp.EmailBackend",
    over_http=False,
    refusals={
        **dict.fromkeys(range(400, 500), Verdict.NOT_SENT),
        **dict.fromkeys(range(500, 600), Verdict.PERMANENT),
        **dict.fromkeys((530, 534, 535, 538), Verdict.CONFIGURATION),
    },
    recipients=100,
    # mailer.smtp: until the data begins; the answer to DATA; the data; the answer to that.
    slowest=10 + 10 + 10 + 25,
)
