"""Send what no courier carries over HTTP, in one of its threads: through SES, SMTP, or any backend of Django's."""

import socket
import threading
from contextlib import suppress
from typing import Any, Final, Protocol, runtime_checkable

from anymail.message import AnymailMessage
from django.core.mail import get_connection

from mailer.providers import PROVIDERS, Provider
from mailer.verdicts import Answer, Verdict

# No server there, or no address of one: what a backend raises of these, it raises before it sends.
NEVER_LEFT: Final = (ConnectionRefusedError, socket.gaierror)


@runtime_checkable
class Carrier(Protocol):
    """A backend that can tell what became of a mail, and keeps its connection."""

    def deliver(self, email: AnymailMessage, provider: Provider) -> Answer:
        """Send a mail through a provider and return what came of it."""


class _Kept(threading.local):
    """The carriers of one thread, by their backend's path: with their connections, they last from mail to mail."""

    def __init__(self) -> None:
        self.carriers: dict[str, Carrier] = {}


_kept = _Kept()


def send(backend: str, email: AnymailMessage) -> Answer:
    """Send a mail through a backend, named by its path, and return what came of it; it raises nothing of the backend's.

    A `Carrier` is kept for the next mail of this thread.
    """
    try:
        connection = _kept.carriers.get(backend) or get_connection(backend)
    except Exception as error:  # noqa: BLE001  # made of settings alone: whatever it is, they are wrong
        return Answer(Verdict.CONFIGURATION, error_class=type(error).__name__)
    if not isinstance(connection, Carrier):
        return _through(connection, email)
    _kept.carriers[backend] = connection
    return connection.deliver(email, _provider_of(backend))


def _provider_of(backend: str) -> Provider:
    found = (provider for provider in PROVIDERS.values() if provider.backend == backend)
    return next(found, Provider(backend, backend, over_http=False))


def _through(connection: Any, email: AnymailMessage) -> Answer:
    """Send by what Django promises of any backend: it opens, says how many mails it has sent, and closes.

    It is not kept open: nobody can tell whether it would still be alive. What it raises is of its own making, and
    leaves a doubt, but where there was no connection to send over. Some backends return no number.
    """
    try:
        connection.open()
    except Exception as error:  # noqa: BLE001  # whatever it was, the mail was not shown to it
        return Answer(Verdict.NOT_SENT, error_class=type(error).__name__)
    try:
        sent = connection.send_messages([email])
    except NEVER_LEFT as error:
        return Answer(Verdict.NOT_SENT, error_class=type(error).__name__)
    except Exception as error:  # noqa: BLE001  # any error leaves the same doubt; its class is written to the attempt
        return Answer(Verdict.AMBIGUOUS, error_class=type(error).__name__)
    finally:
        with suppress(Exception):  # what was sent is sent
            connection.close()
    if sent == 0:
        return Answer(Verdict.PERMANENT, error_class="none_sent")
    return Answer(Verdict.ACCEPTED)
