"""System checks: what the settings cannot know of themselves."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from anymail.backends.base import AnymailBaseBackend
from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.mail import get_connection

from mailer import providers
from mailer.backends import OutboxBackend
from mailer.kinds import KINDS

# By which these checks can be run alone, as a worker does at its start.
TAG: Final = "mailer"

# Seconds that a lease has to outlast a request by: it begins before that leaves, and ends after its outcome is written.
MARGIN: Final = 5.0


def routes_name_kinds(**_: Any) -> list[CheckMessage]:
    """Find kinds in MAIL_ROUTES that there are none of."""
    return [
        Error(f"MAIL_ROUTES: {kind!r} is not one of {', '.join(KINDS)}", id="mailer.E001")
        for kind in settings.MAIL_ROUTES
        if kind not in KINDS
    ]


def lease_outlasts_requests(**_: Any) -> list[CheckMessage]:
    """Find a lease that may be over while its request is under way: the message would be taken for one in doubt."""
    slowest = max(map(providers.get, settings.MAIL_PROVIDERS), key=lambda provider: provider.slowest)
    lease, least = settings.MAIL_LEASE_SECONDS, slowest.slowest + MARGIN
    if lease >= least:
        return []
    return [
        Error(
            f"MAIL_LEASE_SECONDS must be at least {least:g}, since a request through {slowest.name} may take"
            f" {slowest.slowest:g} seconds; it is {lease:g}",
            id="mailer.E002",
        )
    ]


def backends_can_send(**_: Any) -> list[CheckMessage]:
    """Find paths in MAIL_BACKENDS that lead to no backend, or to one that has no business there."""
    return [
        Error(f"MAIL_BACKENDS: {name}={path} {fault}", id="mailer.E003")
        for name, path in settings.MAIL_BACKENDS.items()
        if (fault := _fault_of(path))
    ]


def _fault_of(path: str) -> str:
    try:
        backend = get_connection(path)
    except Exception as error:  # noqa: BLE001  # a stranger's code, and made of settings alone
        return f"cannot be made: {type(error).__name__}"
    if isinstance(backend, OutboxBackend):
        return "would queue each mail again, for ever"
    if isinstance(backend, AnymailBaseBackend):
        return "is Anymail's: name the provider in MAIL_PROVIDERS"
    return "" if callable(getattr(backend, "send_messages", None)) else "is no backend: it has no send_messages()"


ALL: Final[Sequence[Callable[..., list[CheckMessage]]]] = (
    routes_name_kinds,
    lease_outlasts_requests,
    backends_can_send,
)
