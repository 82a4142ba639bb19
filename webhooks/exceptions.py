"""What can go wrong in `webhooks`."""


class WebhookError(Exception):
    """The base of this app's errors."""


class Rejected(WebhookError):
    """A request does not prove that it comes from the provider."""


class Unreadable(WebhookError):
    """A genuine request says nothing we understand."""
