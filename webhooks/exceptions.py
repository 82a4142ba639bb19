"""What can go wrong in `webhooks`."""


class WebhookError(Exception):
    """The base of this app's errors."""


class Rejected(WebhookError):
    """A request does not prove that it comes from the provider."""


class Unavailable(WebhookError):
    """Whether a request is genuine cannot be told now, by no fault of its sender."""


class Unreadable(WebhookError):
    """A genuine request says nothing we understand."""


class TooDeep(Unreadable):
    """Lists and objects are nested deeper than any event has them."""


class TooManyEvents(WebhookError):
    """A request holds more events than one may."""
