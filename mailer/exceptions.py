"""What can go wrong in `mailer`."""

from typing import Final

from django.db import InterfaceError, OperationalError

# What a query raises while the database is away, or has ended our session.
DATABASE_LOST: Final = (OperationalError, InterfaceError)


class MailerError(Exception):
    """The base of this app's errors."""


class RenderError(MailerError):
    """A message's content cannot be made: a template is broken or its subject is gone."""


class UnknownProvider(MailerError):
    """A message is pinned to a provider that this release does not know."""


class FileUnavailable(MailerError):
    """A file of a message cannot be written or read now, or is not what it was when it was written."""


class Unqueueable(MailerError, ValueError):
    """A mail that was handed to `OutboxBackend` cannot be queued. The message says why, without an address."""


class InvalidAddress(Unqueueable):
    """A sender or a recipient is no address."""


class TooLarge(Unqueueable):
    """A mail weighs more than a provider takes."""


class TooManyRecipients(Unqueueable):
    """A mail has more recipients than a provider takes at once."""


class Unsupported(Unqueueable):
    """A mail asks for something that a provider cannot do."""
