"""SMTP by RFC 5321: a connection that is kept, and that knows how far a mail had come when it was lost.

The client is answerable for a mail until the server has answered the end of the data with 250 (4.2.5, 6.1). So
whatever goes wrong before that end has left, nothing was sent; what goes wrong after it is in doubt.
"""

import re
import smtplib
import ssl
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from email.errors import MessageError
from typing import Any, Final

import idna
from anymail.message import AnymailMessage, AnymailRecipientStatus
from anymail.utils import UNSET, EmailAddress, parse_address_list
from django.core.mail.backends import smtp

from mailer import couriers
from mailer.providers.base import Provider
from mailer.verdicts import Answer, Verdict

# Seconds after which a mail is not begun any more, so that it cannot go out when its lease is over. What follows takes
# EMAIL_TIMEOUT at most for the answer to DATA and for the data each, and this long for the last answer: servers look
# through a mail before they take it (4.5.3.2.6).
REACH: Final = 10.0
LAST_REPLY: Final = 25.0

# What ends a mail's data (4.1.1.4). No command can end like this.
_END: Final = b"\r\n.\r\n"
# RFC 3463, 2: an enhanced status code, which begins the text of a reply.
_ENHANCED: Final = re.compile(rb"[245]\.\d{1,3}\.\d{1,3}\b")
# The server closes the connection (3.8).
_CLOSING: Final = 421

Reply = tuple[int, bytes]


class NeedsUtf8(ValueError):
    """An address has other characters than ASCII before its @, for which SMTP needs an extension (RFC 6531)."""


class Dialogue(smtplib.SMTP):
    """A connection that knows whether the end of a mail's data has left."""

    has_left = False

    def send(self, s: Any) -> None:
        """Send all of it, or raise: then its last bytes have not left, and without them the server takes no mail."""
        super().send(s)
        if isinstance(s, bytes) and s.endswith(_END):
            self.has_left = True
            if self.sock:
                self.sock.settimeout(LAST_REPLY)

    def begin(self, mail: "Mail") -> Reply:
        """Begin a transaction with its sender (4.1.1.2)."""
        self.has_left = False
        if self.sock:
            self.sock.settimeout(self.timeout)
        self.ehlo_or_helo_if_needed()
        options = [f"SIZE={len(mail.content)}"] if self.has_extn("size") else []  # RFC 1870
        if self.has_extn("8bitmime") and not mail.content.isascii():  # RFC 6152
            options.append("BODY=8BITMIME")
        return self.mail(mail.sender, options)

    def __del__(self) -> None:
        """Hang up without a word: after a fork, the connection is still the parent's."""
        self.close()


class DialogueOverTls(Dialogue, smtplib.SMTP_SSL):
    """The same with TLS from the first byte on (RFC 8314, 3.3)."""


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail as a server is told it. `recipients` maps each bare address, as it was given, to its form for SMTP."""

    sender: str
    recipients: Mapping[str, str]
    content: bytes
    message_id: str

    @classmethod
    def of(cls, email: AnymailMessage) -> "Mail":
        """Write a mail down. Its Message-ID is made of our id, so that whoever gets it twice can see that.

        Raises what `EmailMessage.message` raises for what no MIME can be built of, and `NeedsUtf8`.
        """
        sender = parse_address_list([email.from_email])[0]
        envelope = getattr(email, "envelope_sender", UNSET)
        if isinstance(email.metadata, Mapping) and "message_id" in email.metadata:
            ours = f"<{email.metadata['message_id']}@{_domain(sender)}>"
            names = {name.casefold() for name in email.extra_headers}
            email.extra_headers |= {} if "message-id" in names else {"Message-ID": ours}
        message = email.message()
        content = message.as_bytes(linesep="\r\n")
        # Two spellings are one delivery: of two answers about it, one could undo the other.
        recipients = {each.addr_spec.casefold(): each for each in parse_address_list(email.recipients())}
        return cls(
            sender=_wire(parse_address_list([envelope])[0] if isinstance(envelope, str) else sender),
            recipients={each.addr_spec: _wire(each) for each in recipients.values()},
            content=content if content.endswith(b"\r\n") else content + b"\r\n",
            message_id=str(message["Message-ID"]),
        )


def _wire(address: EmailAddress) -> str:
    if not address.username.isascii():
        raise NeedsUtf8
    return f"{address.addr_spec.rpartition('@')[0]}@{_domain(address)}"


def _domain(address: EmailAddress) -> str:
    domain: str = address.domain
    return domain if domain.isascii() else idna.encode(domain, uts46=True).decode()


class EmailBackend(smtp.EmailBackend):
    """Django's backend, whose settings it takes, for one thread."""

    connection: Dialogue | None
    _partial_connection: Dialogue | None

    @property
    def connection_class(self) -> type[Dialogue]:
        """Return the kind of connection that the settings ask for."""
        return DialogueOverTls if self.use_ssl else Dialogue

    @property
    def ssl_context(self) -> Any:
        """Return a context that verifies the server; Django's verifies by no authority where there is a client key."""
        if not self.ssl_certfile:
            return couriers.trusted()
        context = ssl.create_default_context(cafile=couriers.authorities())
        context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile)
        return context

    def deliver(self, email: AnymailMessage, provider: Provider) -> Answer:
        """Hand a mail to the server and return what it says; the connection is kept where it can be used again."""
        started = time.monotonic()
        try:
            mail = Mail.of(email)
        except (ValueError, LookupError, MessageError) as error:
            return Answer(Verdict.PERMANENT, error_class=type(error).__name__)
        try:
            dialogue, reply = self._begin(mail)
        except OSError as error:
            self._forget()
            return _of_opening(error)
        except ValueError as error:  # a name or a password that is not ASCII, for one
            self._forget()
            return Answer(Verdict.CONFIGURATION, error_class=type(error).__name__)
        try:
            answer = _transact(dialogue, mail, reply, provider, started)
        except OSError as error:
            self._forget()
            verdict = Verdict.AMBIGUOUS if dialogue.has_left else Verdict.NOT_SENT
            return Answer(verdict, error_class=type(error).__name__)
        if answer.verdict is not Verdict.ACCEPTED:
            self._reset(dialogue)
        return answer

    def _begin(self, mail: Mail) -> tuple[Dialogue, Reply]:
        """Begin a transaction; over a new connection where the kept one turns out to be dead.

        To ask with NOOP first would cost each mail a round trip, and the connection could still die after it.
        """
        if self.connection:
            with suppress(OSError):
                reply = self.connection.begin(mail)
                if reply[0] != _CLOSING:
                    return self.connection, reply
            self._forget()
        self.open()
        if self.connection is None:
            raise smtplib.SMTPServerDisconnected
        return self.connection, self.connection.begin(mail)

    def _reset(self, dialogue: Dialogue) -> None:
        """End a transaction that came to nothing (4.1.1.5); where that fails, the connection goes, too."""
        try:
            code, _ = dialogue.rset()
        except OSError:
            self._forget()
        else:
            if not _is_positive(code):
                self._forget()

    def _forget(self) -> None:
        for dialogue in (self.connection, self._partial_connection):
            if dialogue:
                dialogue.close()
        self.connection = self._partial_connection = None


def _transact(dialogue: Dialogue, mail: Mail, reply: Reply, provider: Provider, started: float) -> Answer:
    """Go through with a transaction that has begun with this reply (3.3). Raises `OSError` where it breaks off."""
    if not _is_positive(reply[0]):
        return _refused([reply], provider)
    replies = {address: dialogue.rcpt(wire) for address, wire in mail.recipients.items()}
    if not any(_is_positive(code) for code, _ in replies.values()):
        return replace(_refused(replies.values(), provider), recipients=_statuses(replies))
    if time.monotonic() - started > REACH:
        raise TimeoutError
    try:
        code, text = dialogue.data(mail.content)
    except smtplib.SMTPDataError as error:
        return _refused([_said(error)], provider)
    if _is_positive(code):
        return _accepted(replies, mail)
    if not _is_negative(code):
        return Answer(Verdict.AMBIGUOUS, error_class=_error_class((code, text)))
    return _refused([(code, text)], provider)


def _accepted(replies: Mapping[str, Reply], mail: Mail) -> Answer:
    """Return what follows where a mail was accepted for some: those refused with 4yz may yet take it (4.2.1)."""
    deferred = {address: reply for address, reply in replies.items() if 400 <= reply[0] < 500}  # noqa: PLR2004  # 4yz
    return Answer(
        Verdict.ACCEPTED,
        error_class=_error_class(next(iter(deferred.values()))) if deferred else "",
        recipients=_statuses(replies, mail.message_id),
        deferred=frozenset(deferred),
    )


def _refused(replies: Iterable[Reply], provider: Provider) -> Answer:
    """Return what follows where no recipient was accepted: what one of them may yet take is tried again."""
    verdicts = {
        provider.verdict(code) if _is_negative(code) else Verdict.NOT_SENT: (code, text) for code, text in replies
    }
    verdict = next(each for each in (Verdict.NOT_SENT, Verdict.CONFIGURATION, Verdict.PERMANENT) if each in verdicts)
    return Answer(verdict, error_class=_error_class(verdicts[verdict]))


def _of_opening(error: OSError) -> Answer:
    """Return what it means that there is no connection to send over: no mail is to blame, and none has left.

    A server that refuses us for good (3.1: 554; RFC 4954, 6: 535), or lacks what the settings ask for, does not mean
    this mail.
    """
    if isinstance(error, smtplib.SMTPResponseException):
        reply = _said(error)
        verdict = Verdict.NOT_SENT if 400 <= reply[0] < 500 else Verdict.CONFIGURATION  # noqa: PLR2004  # 4yz
        return Answer(verdict, error_class=_error_class(reply))
    is_lost = isinstance(error, smtplib.SMTPServerDisconnected) or not isinstance(error, smtplib.SMTPException)
    return Answer(Verdict.NOT_SENT if is_lost else Verdict.CONFIGURATION, error_class=type(error).__name__)


def _statuses(replies: Mapping[str, Reply], message_id: str | None = None) -> dict[str, AnymailRecipientStatus]:
    """Return Anymail's words for each recipient: of those refused beside others, 4yz has `failed` this time."""
    return {
        address: AnymailRecipientStatus(message_id, "queued")
        if _is_positive(code)
        else AnymailRecipientStatus(None, "rejected" if code >= 500 else "failed")  # noqa: PLR2004  # 5yz
        for address, (code, _) in replies.items()
    }


def _said(error: smtplib.SMTPResponseException) -> Reply:
    text = error.smtp_error
    return error.smtp_code, text if isinstance(text, bytes) else str(text).encode()


def _is_positive(code: int) -> bool:
    return 200 <= code < 300  # noqa: PLR2004  # 2yz (4.2.1)


def _is_negative(code: int) -> bool:
    return 400 <= code < 600  # noqa: PLR2004  # 4yz and 5yz (4.2.1)


def _error_class(reply: Reply) -> str:
    """Return the codes of a reply, without its text, which may quote an address."""
    code, text = reply
    enhanced = _ENHANCED.match(text)
    return f"smtp_{code}" + (f" {enhanced[0].decode()}" if enhanced else "")
