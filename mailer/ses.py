"""Amazon SES through boto3, by Anymail's backend; what its client raises, and what that means."""

import os
import threading
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

from mailer.providers.base import Provider
from mailer.verdicts import Answer, Verdict

# No address, no connection in time, no TLS that can be trusted: no request has left. An SSL error can also come from a
# request that could not be written to its end; a connection that ends in the middle of an answer is none.
NEVER_LEFT: Final = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError, SSLError)

# A client weighs 10 MB and takes 0.1 s to make, and threads may share it. A forked child needs its own.
_clients: dict[int, Any] = {}
_making = threading.Lock()


def forget() -> None:
    """Have the next mail make a new client, with the region and the credentials of then."""
    _clients.clear()


class EmailBackend(amazon_ses.EmailBackend):  # type: ignore[misc]  # Anymail has no types
    """Anymail's backend, with one client for all threads of a process."""

    def open(self) -> bool:
        """Take this process's client, or make it. Raises `BotoCoreError`."""
        with _making:
            self.client = _clients.get(os.getpid())
            is_new = self.client is None and bool(super().open())
            if is_new:
                _clients.clear()
                _clients[os.getpid()] = self.client
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
        try:
            response = self.post_to_esp(payload, email)
        except AnymailAPIError as error:
            return _of_error(error.__cause__ or error, provider)
        return self._accepted(payload, email, response)

    def _accepted(self, payload: Any, email: AnymailMessage, response: Any) -> Answer:
        """Read what SES says of each recipient; accepted is accepted, also where that cannot be read."""
        status, error_class = AnymailStatus(), ""
        try:
            status.set_recipient_status(self.parse_recipient_status(response, payload, email))
        except AnymailError:
            error_class = "unreadable_answer"
        http_status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return Answer(Verdict.ACCEPTED, http_status, error_class, recipients=status.recipients)


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
