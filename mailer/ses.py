"""Amazon SES through boto3, by Anymail's backend; what its client raises, and what that means."""

import os
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from anymail.backends import amazon_ses
from anymail.exceptions import AnymailAPIError, AnymailError
from anymail.message import AnymailMessage, AnymailStatus
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ParamValidationError,
    ProxyConnectionError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from mailer import couriers
from mailer.providers.base import Provider
from mailer.verdicts import Answer, Verdict

# No address, no connection in time, no TLS that can be trusted: no request has left. An SSL error can also come from a
# request that could not be written to its end; a connection that ends in the middle of an answer is none.
NEVER_LEFT: Final = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError, SSLError)

# What Anymail's and boto3's parsers raise for an answer of another shape than they expect.
UNREADABLE: Final = (AnymailError, ResponseParserError, AttributeError, LookupError, TypeError, ValueError)

# The status of the answer that a thread is reading, which is lost with an answer that cannot be read.
_answered = threading.local()


@dataclass
class _Shared:
    """This process's client, and when it was last used, by the steady clock.

    A client weighs 10 MB and takes 0.1 s to make, and threads may share it; a forked child needs its own.
    """

    client: Any = None
    pid: int = 0
    used_at: float = 0.0


_shared = _Shared()
_taking = threading.Lock()


def _note(response_dict: dict[str, Any], **_: Any) -> None:
    _answered.status = response_dict["status_code"]


def forget() -> None:
    """Have the next mail make a new client, with the region and the credentials of then."""
    _shared.pid = 0


class EmailBackend(amazon_ses.EmailBackend):  # type: ignore[misc]  # Anymail has no types
    """Anymail's backend, with one client for all threads of a process."""

    client: Any

    def open(self) -> bool:
        """Take this process's client, or make it. Raises `BotoCoreError`.

        Connections that were idle are not used again, as in `couriers`: one that Amazon, or something on the way, has
        closed by then would leave the next mail in doubt.
        """
        with _taking:
            is_new = _shared.pid != os.getpid()
            if is_new:
                self.client = None
                super().open()
                self.client.meta.events.register("before-parse.sesv2", _note)
                _shared.client, _shared.pid = self.client, os.getpid()
            elif time.monotonic() - _shared.used_at > couriers.KEPT:
                _shared.client.close()
            self.client, _shared.used_at = _shared.client, time.monotonic()
        return is_new

    def deliver(self, email: AnymailMessage, provider: Provider) -> Answer:
        """Send a mail and return what SES says of it."""
        try:
            self.open()
        except (BotoCoreError, ValueError) as error:  # no region, a profile that is not there, an address that is none
            return Answer(Verdict.CONFIGURATION, error_class=type(error).__name__)
        try:
            payload = self.build_message_payload(email, self.send_defaults)
        except AnymailError as error:
            return Answer(Verdict.PERMANENT, error_class=type(error).__name__)
        _answered.status = None
        try:
            response = self.post_to_esp(payload, email)
        except AnymailAPIError as error:
            return _of_error(error.__cause__ or error, provider)
        except UNREADABLE:
            verdict = provider.verdict(_answered.status) if _answered.status else Verdict.AMBIGUOUS
            return Answer(verdict, _answered.status, "unreadable_answer")
        verdict = _of_response(response, provider)
        http_status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if verdict is not Verdict.ACCEPTED:
            return Answer(verdict, http_status, response["BulkEmailEntryResults"][0]["Status"])
        status, error_class = AnymailStatus(), ""
        try:
            status.set_recipient_status(self.parse_recipient_status(response, payload, email))
        except UNREADABLE:
            error_class = "unreadable_answer"  # and still an acceptance
        return Answer(verdict, http_status, error_class, recipients=status.recipients)


def _of_response(response: Any, provider: Provider) -> Verdict:
    """Return what a 200 means: a template's mail is answered with it also where no recipient was accepted."""
    results = response.get("BulkEmailEntryResults") or [{"Status": "SUCCESS"}]
    if any(result.get("Status") == "SUCCESS" for result in results):
        return Verdict.ACCEPTED
    return provider.verdict(HTTPStatus.OK, response)


def _of_error(error: BaseException, provider: Provider) -> Answer:
    """Return what an error of boto3's means: an answer of SES's, or that there is none."""
    if not isinstance(error, ClientError):
        return Answer(_of_lost(error), error_class=type(error).__name__)
    said = error.response
    status = said.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    verdict = provider.verdict(status, said)
    if verdict is Verdict.CONFIGURATION:
        forget()
    return Answer(verdict, status, str(said.get("Error", {}).get("Code", ""))[:64])


def _of_lost(error: BaseException) -> Verdict:
    if isinstance(error, NEVER_LEFT):
        return Verdict.NOT_SENT
    if isinstance(error, ParamValidationError):
        return Verdict.PERMANENT
    if isinstance(error, HTTPClientError) or not isinstance(error, BotoCoreError):
        return Verdict.AMBIGUOUS
    forget()
    return Verdict.CONFIGURATION  # no credentials, or none that can be had: the request was never signed
