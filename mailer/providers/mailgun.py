"""Mailgun.

https://documentation.mailgun.com/docs/mailgun/api-reference/mg-responses: the statuses. 402 is a valid request
that failed, which does not say how far it got.
https://documentation.mailgun.com/docs/mailgun/user-manual/events/filter-field: events are filtered by address, tag
or Mailgun's own id, not by our variables. Batch sending is one content for many.
https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages/send-http: 25 MB, 1,000 recipients.
https://github.com/mailgun/mailgun-go/issues/142: somebody in `to`; and text or HTML.
"""

from mailer.providers.base import Provider
from mailer.verdicts import Verdict

PROVIDER = Provider(
    name="mailgun",
    backend="anymail.backends.mailgun.EmailBackend",
    needs=("MAILGUN_API_KEY",),
    takes=("MAILGUN_API_URL", "MAILGUN_SENDER_DOMAIN"),
    requires=frozenset({"to", "body"}),
    refusals={
        402: Verdict.AMBIGUOUS,
        404: Verdict.CONFIGURATION,  # a sender domain that it does not know, or the other region's
    },
    # The whole body, with status 200, of an address that is none of the API's.
    error_codes=((),),
    errors={"Mailgun Magnificent API": Verdict.CONFIGURATION},
    largest=25_000_000,
    recipients=1000,
    tells=True,
)
