"""Unisender Go.

https://godocs.unisender.ru/web-api-ref#email-send (in English as UniOne, https://docs.unione.io/en/web-api-ref):
`idempotence_key`, up to 64 characters, keeps a repeat from being taken for one minute; 500 recipients; 10 MB.
https://docs.unione.io/en/api-errors: the codes. No search by metadata; one content for many.
"""

from datetime import timedelta

from mailer.providers.base import Key, Provider
from mailer.verdicts import Verdict

PROVIDER = Provider(
    name="unisender_go",
    backend="anymail.backends.unisender_go.EmailBackend",
    needs=("UNISENDER_GO_API_KEY", "UNISENDER_GO_API_URL"),
    key=Key(field=("idempotence_key",), lifetime=timedelta(seconds=45)),
    error_codes=(("code",),),
    errors={
        "1573": Verdict.ACCEPTED,  # a message with this key was taken before
        "114": Verdict.CONFIGURATION,  # the account lives at the other host
        "206": Verdict.CONFIGURATION,  # a sender that is not verified
        "1574": Verdict.CONFIGURATION,
        "215": Verdict.CONFIGURATION,  # may not send
        "1575": Verdict.CONFIGURATION,
        "901": Verdict.THROTTLED,  # the limit of a day
        "1599": Verdict.THROTTLED,
    },
    recipients=500,
)
