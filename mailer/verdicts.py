"""What an answer, or the lack of one, says about a request: the failure classes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Final

import aiohttp
from anymail.message import AnymailRecipientStatus


class Verdict(StrEnum):
    """What became of an attempt."""

    ACCEPTED = "accepted"
    NOT_SENT = "not_sent"
    THROTTLED = "throttled"
    PERMANENT = "permanent"
    CONFIGURATION = "configuration"
    SENDER = "sender"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider said about one message, or that it said nothing.

    `recipients` holds Anymail's reading for each address; it is empty where there was none to read. `deferred` are the
    addresses that were refused for now while others were accepted: for them it may be tried again. `retry_after` is in
    seconds.
    """

    verdict: Verdict
    http_status: int | None = None
    error_class: str = ""
    retry_after: float | None = None
    recipients: Mapping[str, AnymailRecipientStatus] = field(default_factory=dict)
    deferred: frozenset[str] = frozenset()


# What an HTTP status means at most providers. Of those not here, 5xx may have been accepted, any other is final.
BY_STATUS: Final[dict[int, Verdict]] = {
    HTTPStatus.UNAUTHORIZED: Verdict.CONFIGURATION,
    HTTPStatus.FORBIDDEN: Verdict.CONFIGURATION,
    HTTPStatus.REQUEST_TIMEOUT: Verdict.AMBIGUOUS,
    HTTPStatus.TOO_MANY_REQUESTS: Verdict.THROTTLED,
}

# No address, no connection in time, no TLS that can be trusted: no request has left.
NEVER_LEFT: Final = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.ConnectionTimeoutError)


def of_status(status: int, refusals: Mapping[int, Verdict]) -> Verdict:
    """Return the verdict on an HTTP status; `refusals` is what this provider means otherwise."""
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Verdict.ACCEPTED
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return Verdict.CONFIGURATION  # the API is elsewhere: its address is a setting
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return refusals.get(status, Verdict.AMBIGUOUS)
    return refusals.get(status) or BY_STATUS.get(status, Verdict.PERMANENT)


def of_error(error: BaseException) -> Verdict:
    """Return the verdict on a request that got no answer.

    Only where it is certain that no request left was nothing sent.
    """
    if isinstance(error, aiohttp.InvalidURL):
        return Verdict.CONFIGURATION  # the API's address is a setting
    return Verdict.NOT_SENT if isinstance(error, NEVER_LEFT) else Verdict.AMBIGUOUS
