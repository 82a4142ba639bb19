"""SparkPost.

https://developers.sparkpost.com/api/: the statuses; 420 for a limit on sending, hourly or daily.
https://developers.sparkpost.com/api/transmissions/: one content for many, with a subject and text or HTML; 20 MB;
1,000 bytes of metadata. It names no idempotency key, and ignores what it does not know: a key would be a false promise.
https://developers.sparkpost.com/api/events/: events are filtered by address, transmission or campaign, not by metadata.
"""

from mailer.providers.base import Provider
from mailer.verdicts import Verdict

PROVIDER = Provider(
    name="sparkpost",
    backend="anymail.backends.sparkpost.EmailBackend",
    needs=("SPARKPOST_API_KEY",),
    takes=("SPARKPOST_API_URL", "SPARKPOST_SUBACCOUNT"),
    requires=frozenset({"subject", "body"}),
    refusals={420: Verdict.THROTTLED},
    error_codes=(("errors", 0, "code"),),
    errors={"7001": Verdict.CONFIGURATION},  # a sending domain that is not verified
    largest=20_000_000,
    recipients=1000,
    tells=True,
)
