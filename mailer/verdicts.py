"""What an answer, or the lack of one, says about a request: the failure classes."""

from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from ssl import SSLCertVerificationError
from typing import Final

import requests
from urllib3.exceptions import (
    ConnectTimeoutError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    SSLError,
)


class Verdict(StrEnum):
    """What became of an attempt."""

    ACCEPTED = "accepted"
    NOT_SENT = "not_sent"
    THROTTLED = "throttled"
    PERMANENT = "permanent"
    CONFIGURATION = "configuration"
    AMBIGUOUS = "ambiguous"


# What an HTTP status means at most providers. Of those not here, 5xx may have been accepted, any other is final.
BY_STATUS: Final[dict[int, Verdict]] = {
    HTTPStatus.UNAUTHORIZED: Verdict.CONFIGURATION,
    HTTPStatus.FORBIDDEN: Verdict.CONFIGURATION,
    HTTPStatus.REQUEST_TIMEOUT: Verdict.AMBIGUOUS,
    HTTPStatus.TOO_MANY_REQUESTS: Verdict.THROTTLED,
}

# Causes after which no request can have left. Other TLS errors may come in the middle of one.
NEVER_LEFT: Final = (NewConnectionError, NameResolutionError, ConnectTimeoutError, SSLCertVerificationError)


def of_status(status: int, refusals: Mapping[int, Verdict]) -> Verdict:
    """Return the verdict on an HTTP status; `refusals` is what this provider means otherwise."""
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Verdict.ACCEPTED
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return Verdict.CONFIGURATION  # the API is elsewhere: its address is a setting
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return refusals.get(status, Verdict.AMBIGUOUS)
    return refusals.get(status) or BY_STATUS.get(status, Verdict.PERMANENT)


def of_error(error: requests.RequestException) -> Verdict:
    """Return the verdict on a request that got no answer.

    Only where it is certain that no request left (no address, no connection, no TLS) was nothing sent.
    """
    cause = error.args[0] if error.args else None
    if isinstance(cause, MaxRetryError):
        cause = cause.reason
    if isinstance(cause, SSLError):
        cause = cause.args[0] if cause.args else None
    return Verdict.NOT_SENT if isinstance(cause, NEVER_LEFT) else Verdict.AMBIGUOUS
