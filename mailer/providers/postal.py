"""Postal.

https://github.com/postalserver/postal, app/controllers/legacy_api: the status is always 200, and the `status` in
the body says how it went; `data.code` says what is wrong. 50 recipients each in To, Cc and Bcc. Text or HTML. No
metadata, no idempotency, no search.
"""

from mailer.providers.base import Provider
from mailer.verdicts import Verdict

PROVIDER = Provider(
    name="postal",
    backend="anymail.backends.postal.EmailBackend",
    needs=("POSTAL_API_KEY", "POSTAL_API_URL"),
    requires=frozenset({"body"}),
    lacks=frozenset({"metadata"}),
    error_codes=(("data", "code"), ("status",)),
    errors={
        "AccessDenied": Verdict.CONFIGURATION,
        "InvalidServerAPIKey": Verdict.CONFIGURATION,
        "ServerSuspended": Verdict.CONFIGURATION,
        "UnauthenticatedFromAddress": Verdict.CONFIGURATION,
        "NoRecipients": Verdict.PERMANENT,
        "NoContent": Verdict.PERMANENT,
        "TooManyToAddresses": Verdict.PERMANENT,
        "TooManyCCAddresses": Verdict.PERMANENT,
        "TooManyBCCAddresses": Verdict.PERMANENT,
        "FromAddressMissing": Verdict.PERMANENT,
        "AttachmentMissingName": Verdict.PERMANENT,
        "AttachmentMissingData": Verdict.PERMANENT,
        "parameter-error": Verdict.PERMANENT,
        "error": Verdict.AMBIGUOUS,  # with a code that is not here
    },
)
