"""SendGrid.

https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/errors: the statuses; 401 also for
used-up credits, 403 also for a sender that is not verified.
https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send: 1,000 recipients, 30 MB; somebody in
`to`, a subject, and a content, which all `personalizations` share. No idempotency.
https://www.twilio.com/docs/sendgrid/api-reference/email-activity/filter-all-messages: the search is sold apart.

Anymail sends through it but no longer supports it, and warns so.
"""

from mailer.providers.base import Provider

PROVIDER = Provider(
    name="sendgrid",
    backend="anymail.backends.sendgrid.EmailBackend",
    needs=("SENDGRID_API_KEY",),
    takes=("SENDGRID_API_URL", "SENDGRID_MERGE_FIELD_FORMAT"),
    requires=frozenset({"to", "subject", "body"}),
    largest=30_000_000,
    recipients=1000,
    tells=True,
)
