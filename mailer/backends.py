"""Django's `EMAIL_BACKEND`: whatever any code in the process sends is a row of the outbox first.

Queued in the caller's transaction: a rollback takes the mail along, a commit makes it a promise. What cannot be queued
is an error at the call, never a loss later: so each mail is built here once, by every provider that may send it.
"""

from collections.abc import Sequence
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from email.errors import MessageError
from typing import Any, Final
from uuid import uuid4

import structlog
from anymail.backends.base import AnymailBaseBackend
from anymail.exceptions import AnymailError
from anymail.message import AnymailMessage
from anymail.utils import UNSET
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import SynchronousOnlyOperation
from django.core.mail import BadHeaderError, EmailMessage, get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.db import Error as DatabaseError
from django.db import transaction
from django.utils.translation import get_language

from mailer import content, files, letters, outbox, providers, smtp
from mailer.content import Frozen
from mailer.exceptions import MailerError, TooLarge, TooManyRecipients, Unqueueable, Unsupported
from mailer.kinds import PRIORITY
from mailer.models import Message
from mailer.plain import moment
from mailer.providers import Provider
from users.addresses import mask

log = structlog.get_logger(__name__)

KIND: Final = "custom"
_MAX_KEY: Final = 200
_MAX_FLOW: Final = 64

# What makes a mail of its own for each recipient.
MERGED: Final = ("template_id", "merge_data", "merge_global_data", "merge_metadata", "merge_headers")

# What `fail_silently` is about: the mail, or the servers it needs. A mistake in the calling code is neither; but that
# it is async is no mistake of who logs an error there, which a handler mails.
REFUSED: Final = (MailerError, BadHeaderError, DatabaseError, SynchronousOnlyOperation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the outbox is to treat one mail: `email.outbox = Options(priority="high")`.

    `priority` is one of now, high, medium, low. `run_at` wins over Anymail's `send_at`. Of two mails with one
    `dedupe_key` the first alone is queued. `flow` names what takes turns with other mails of its priority: by default
    the first tag. `secret` content, such as a link that logs somebody in, is erased as soon as the mail was sent or
    given up. Raises `ValueError` for a priority that is none.
    """

    priority: str = "medium"
    run_at: datetime | None = None
    expires_at: datetime | None = None
    dedupe_key: str = ""
    flow: str = ""
    locale: str = ""
    user: AbstractBaseUser | None = None
    secret: bool = False

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if self.priority not in PRIORITY:
            raise ValueError(f"{self.priority!r} is not one of {', '.join(PRIORITY)}")


class OutboxBackend(BaseEmailBackend):
    """Queues mails instead of sending them."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Queue mails, all or none, and return how many: those without a recipient, or queued before, do not count.

        Raises `Unqueueable`, `BadHeaderError` and what database and storage raise: who calls must hear that there
        is no promise. With `fail_silently`, where Django's contract is that nobody hears, each such mail is left out,
        logged as an error, and missing from the number.
        """
        if self.fail_silently:
            return sum(_queue_or_log(email) for email in email_messages)
        with transaction.atomic():
            return sum(queue(email) for email in email_messages)


# Set while a mail that is left out is logged: a handler that mails errors would mail that one, too, and so for ever.
_logging: ContextVar[bool] = ContextVar("logging", default=False)


def _queue_or_log(email: EmailMessage) -> bool:
    try:
        return queue(email)
    except REFUSED as error:
        if not _logging.get():
            _log(error)
        return False


def _log(error: Exception) -> None:
    reason = str(error) if isinstance(error, MailerError) else ""
    token = _logging.set(True)
    try:
        log.error("mail_not_queued", error_class=type(error).__name__, reason=reason)
    finally:
        _logging.reset(token)


def queue(email: EmailMessage) -> bool:
    """Queue one mail with its files; tell whether it was: not without a recipient, nor under a key that is taken."""
    options = getattr(email, "outbox", None) or Options()
    if not isinstance(options, Options):
        raise TypeError(f"email.outbox must be Options, not a {type(options).__name__}")
    if not email.recipients():
        return False
    frozen = content.freeze(email)
    carriers = _carriers(frozen)
    with transaction.atomic():
        message = outbox.enqueue(
            KIND,
            *frozen.recipients,
            dedupe_key=_dedupe_key(options),
            user=options.user,
            context=_routes(carriers),
            content=frozen.content,
            locale=options.locale or get_language() or settings.LANGUAGE_CODE,
            priority=PRIORITY[options.priority],
            flow=(options.flow or next(iter(frozen.tags), ""))[:_MAX_FLOW],
            run_at=moment(options.run_at, "run_at") or frozen.send_at,
            expires_at=moment(options.expires_at, "expires_at"),
            secret=options.secret,
        )
        if message is None:
            return False
        files.keep(message, frozen.files)
    return True


def _dedupe_key(options: Options) -> str:
    key = f"{KIND}:{options.dedupe_key or uuid4()}"
    if len(key) > _MAX_KEY:
        raise Unqueueable(f"dedupe_key: at most {_MAX_KEY - len(KIND) - 1} characters")
    return key


def _routes(carriers: Sequence[str]) -> dict[str, Any]:
    """Return what routing must know: the providers that can take this mail, where not every one can."""
    return {} if len(carriers) == len(_allowed()) else {"providers": carriers}


def _allowed() -> Sequence[str]:
    routes: dict[str, list[str]] = settings.MAIL_ROUTES
    return routes.get(KIND, settings.MAIL_PROVIDERS)


def _carriers(frozen: Frozen) -> list[str]:
    """Return the providers that can take a mail, as it will be thawed. Raises what all of them refuse it with."""
    email = content.thaw(Message(kind=KIND, content=frozen.content), frozen.recipients, frozen.files.__getitem__)
    size = _size(email)
    refusals: dict[str, Unqueueable] = {}
    for name in _allowed():
        try:
            _try(providers.get(name), email, size, len(frozen.recipients))
        except Unqueueable as refusal:
            refusals[name] = refusal
    carriers = [name for name in _allowed() if name not in refusals]
    if not carriers:
        first, *_ = refusals.values()
        raise type(first)("; ".join(f"{name}: {refusal}" for name, refusal in refusals.items()))
    return carriers


def _size(email: AnymailMessage) -> int:
    """Build the MIME of a mail and return its size in bytes. Raises `Unqueueable`."""
    try:
        return len(email.message().as_bytes())
    except (ValueError, LookupError, MessageError) as error:
        # Django's own words quote the address.
        raise Unqueueable(f"no MIME can be built of it: {type(error).__name__}") from None


def _try(provider: Provider, email: AnymailMessage, size: int, recipients: int) -> None:
    """Build the request that a provider would get. Raises `Unqueueable` where it could only be refused."""
    if size > provider.largest:
        raise TooLarge(f"{size} bytes, where {provider.largest} are the limit")
    if recipients > provider.recipients:
        raise TooManyRecipients(f"{recipients} recipients, where {provider.recipients} are the limit")
    if missing := sorted(provider.requires - _given(email)):
        raise Unsupported(f"nothing in {', '.join(missing)}")
    backend: Any = get_connection(provider.backend)
    email = _without_ours(email) if "metadata" in provider.lacks else email
    if not isinstance(backend, AnymailBaseBackend):
        # Such a one takes MIME and nothing else: it would show all recipients to each of them, and fill no template.
        if merged := [name for name in MERGED if getattr(email, name, None) not in (None, UNSET)]:
            raise Unsupported(", ".join(merged))
        try:
            smtp.Mail.of(email)
        except smtp.NeedsUtf8 as error:
            raise Unsupported(type(error).__name__) from None
        return
    try:
        payload = backend.build_message_payload(email, backend.send_defaults)
        if provider.over_http:
            payload.get_request_params(backend.api_url)
    except AnymailError as error:
        raise Unsupported(mask(" ".join(map(str, error.args)))) from None


def _given(email: AnymailMessage) -> set[str]:
    """Return which of the things are there that some provider requires; a template may have what a mail has not."""
    has_template = getattr(email, "template_id", None) not in (None, UNSET)
    given = {
        "to": letters.addressed(email).to,
        "subject": email.subject or has_template,
        "body": email.body or email.alternatives or has_template,
    }
    return {name for name, is_there in given.items() if is_there}


def _without_ours(email: AnymailMessage) -> AnymailMessage:
    """Return a mail without what we have added to its metadata: we can do without where a provider lacks it."""
    plain = copy(email)
    plain.metadata = content.theirs(email.metadata) or UNSET
    return plain
