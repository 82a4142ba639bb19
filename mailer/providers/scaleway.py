"""Scaleway Transactional Email.

https://www.scaleway.com/en/developers/api/transactional-email/: no idempotency, no batch; messages are listed by
project, domain, address, subject or Scaleway's own id, not by a header, which is where Anymail puts the metadata.
https://www.scaleway.com/en/developers/api/: errors carry a `type`; 403 with `quotas_exceeded` is a limit.
"""

from mailer.providers.base import Provider
from mailer.verdicts import Verdict

PROVIDER = Provider(
    name="scaleway",
    backend="anymail.backends.scaleway.EmailBackend",
    needs=("SCALEWAY_SECRET_KEY", "SCALEWAY_PROJECT_ID"),
    takes=("SCALEWAY_API_URL", "SCALEWAY_REGION"),
    refusals={
        404: Verdict.CONFIGURATION,  # a project or region it does not know
        412: Verdict.CONFIGURATION,  # a domain that is not ready
    },
    error_codes=(("type",),),
    errors={
        "denied_authentication": Verdict.CONFIGURATION,
        "permissions_denied": Verdict.CONFIGURATION,
        "quotas_exceeded": Verdict.THROTTLED,
        "too_many_requests": Verdict.THROTTLED,
        "transient_state": Verdict.NOT_SENT,
    },
)
