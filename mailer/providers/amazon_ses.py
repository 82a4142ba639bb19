"""Amazon SES, API v2.

https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html: its errors; no idempotency token, and
no search by a message's tags or headers. `SendBulkEmail` fills a stored template, so it cannot carry messages that
differ; Anymail sends a mail with a `template_id` by it.
https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_BulkEmailEntryResult.html: what it says of each recipient.
https://docs.aws.amazon.com/ses/latest/APIReference/CommonErrors.html: what any call may be answered with. Of
credentials and signatures the pages of AWS name now 400, now 403, so that the code decides.
https://docs.aws.amazon.com/ses/latest/dg/manage-sending-quotas-errors.html: what is over a quota is dropped.
https://docs.aws.amazon.com/ses/latest/dg/quotas.html: 50 recipients, 40 MB once encoded.

Region and credentials are boto3's own: `AWS_DEFAULT_REGION`, `AWS_ACCESS_KEY_ID`, a role, and so on.
"""

from mailer.providers.base import Provider
from mailer.verdicts import Verdict

PROVIDER = Provider(
    name="amazon_ses",
    backend="mailer.ses.EmailBackend",
    takes=("AMAZON_SES_CONFIGURATION_SET_NAME", "AMAZON_SES_MESSAGE_TAG_NAME"),
    # boto3 would repeat a request that may have been accepted. As many connections as a courier has threads.
    fixed={
        "AMAZON_SES_CLIENT_PARAMS": {
            "config": {
                "connect_timeout": 3,
                "read_timeout": 10,
                "retries": {"total_max_attempts": 1},
                "max_pool_connections": 16,
            }
        }
    },
    over_http=False,
    error_codes=(("Error", "Code"), ("BulkEmailEntryResults", 0, "Status")),
    errors={
        "AccountSuspendedException": Verdict.CONFIGURATION,
        "SendingPausedException": Verdict.CONFIGURATION,
        "MailFromDomainNotVerifiedException": Verdict.CONFIGURATION,
        "NotFoundException": Verdict.CONFIGURATION,  # of the configuration set
        **dict.fromkeys(
            (
                "AccessDeniedException",
                "ExpiredTokenException",
                "IncompleteSignature",
                "InvalidClientTokenId",
                "InvalidSignatureException",
                "MissingAuthenticationToken",
                "NotAuthorized",
                "OptInRequired",
                "RequestExpired",  # a clock is wrong
                "SignatureDoesNotMatch",
                "UnrecognizedClientException",
            ),
            Verdict.CONFIGURATION,
        ),
        "RequestAbortedException": Verdict.AMBIGUOUS,
        "LimitExceededException": Verdict.THROTTLED,
        "TooManyRequestsException": Verdict.THROTTLED,
        "ThrottlingException": Verdict.THROTTLED,
        "Throttling": Verdict.THROTTLED,
        # For bad content, which lasts, and for an address not verified yet, which does not: no code tells them apart.
        "MessageRejected": Verdict.NOT_SENT,
        # What `SendBulkEmail`, which fills templates, says of one recipient, with 200.
        "ACCOUNT_DAILY_QUOTA_EXCEEDED": Verdict.THROTTLED,
        "ACCOUNT_SENDING_PAUSED": Verdict.CONFIGURATION,
        "ACCOUNT_SUSPENDED": Verdict.CONFIGURATION,
        "ACCOUNT_THROTTLED": Verdict.THROTTLED,
        "CONFIGURATION_SET_NOT_FOUND": Verdict.CONFIGURATION,
        "CONFIGURATION_SET_SENDING_PAUSED": Verdict.CONFIGURATION,
        "FAILED": Verdict.PERMANENT,
        "INVALID_PARAMETER": Verdict.PERMANENT,
        "INVALID_SENDING_POOL_NAME": Verdict.CONFIGURATION,
        "MAIL_FROM_DOMAIN_NOT_VERIFIED": Verdict.CONFIGURATION,
        "MESSAGE_REJECTED": Verdict.NOT_SENT,
        "TEMPLATE_NOT_FOUND": Verdict.PERMANENT,
        "TRANSIENT_FAILURE": Verdict.NOT_SENT,
    },
    largest=40_000_000,
    slowest=3 + 10 + 10,  # to connect, to send, to be answered
)
