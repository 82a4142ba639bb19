"""Amazon SES, API v2.

https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html: its errors; no idempotency token, and
no search by a message's tags or headers. `SendBulkEmail` fills a stored template, so it cannot carry messages that
differ.
https://docs.aws.amazon.com/ses/latest/dg/quotas.html: 50 recipients, 40 MB once encoded.

Region and credentials are boto3's own: `AWS_DEFAULT_REGION`, `AWS_ACCESS_KEY_ID`, a role, and so on.
"""

from mailer.providers.base import Provider
from mailer.verdicts import Verdict

PROVIDER = Provider(
    name="amazon_ses",
    backend="mailer.ses.EmailBackend",
    takes=("AMAZON_SES_CONFIGURATION_SET_NAME", "AMAZON_SES_MESSAGE_TAG_NAME"),
    # boto3 would repeat a request that may have been accepted.
    fixed={
        "AMAZON_SES_CLIENT_PARAMS": {
            "config": {"connect_timeout": 3, "read_timeout": 10, "retries": {"total_max_attempts": 1}}
        }
    },
    over_http=False,
    error_codes=(("Error", "Code"),),
    errors={
        "AccountSuspendedException": Verdict.CONFIGURATION,
        "SendingPausedException": Verdict.CONFIGURATION,
        "MailFromDomainNotVerifiedException": Verdict.CONFIGURATION,
        "NotFoundException": Verdict.CONFIGURATION,  # of the configuration set
        "LimitExceededException": Verdict.THROTTLED,
        "TooManyRequestsException": Verdict.THROTTLED,
        "ThrottlingException": Verdict.THROTTLED,
        "Throttling": Verdict.THROTTLED,
        # For bad content, which lasts, and for an address not verified yet, which does not: no code tells them apart.
        "MessageRejected": Verdict.NOT_SENT,
    },
    largest=40_000_000,
)
