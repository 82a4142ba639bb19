"""Mandrill (Mailchimp Transactional).

https://mailchimp.com/developer/transactional/docs/fundamentals/: all errors come with status 500, and `name` says
which.
https://mailchimp.com/developer/transactional/api/messages/: one content for many, no idempotency. `messages/search`
finds metadata only where somebody has had the field indexed, and allows twenty calls a minute: what it does not find
proves nothing.
"""

from mailer.providers.base import Provider
from mailer.verdicts import Verdict

PROVIDER = Provider(
    name="mandrill",
    backend="anymail.backends.mandrill.EmailBackend",
    needs=("MANDRILL_API_KEY",),
    takes=("MANDRILL_API_URL",),
    error_codes=(("name",),),
    # Not here, so ambiguous: GeneralError, which is trouble of its own, and ServiceUnavailable.
    errors={
        "Invalid_Key": Verdict.CONFIGURATION,
        "PaymentRequired": Verdict.CONFIGURATION,
        "PoorReputation": Verdict.CONFIGURATION,
        "Unknown_Subaccount": Verdict.CONFIGURATION,
        "Unknown_Template": Verdict.PERMANENT,
        "ValidationError": Verdict.PERMANENT,
    },
    largest=25_000_000,
    recipients=1000,
    tells=True,
)
