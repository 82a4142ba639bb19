"""What can go wrong in `mailer`."""


class MailerError(Exception):
    """The base of this app's errors."""


class RenderError(MailerError):
    """A message's content cannot be made: a template is broken or its subject is gone."""


class UnknownProvider(MailerError):
    """A message is pinned to a provider that this release does not know."""
