"""System checks: what the settings cannot know of themselves."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error

from mailer import providers
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


ALL: Final[Sequence[Callable[..., list[CheckMessage]]]] = (
    routes_name_kinds,
    lease_outlasts_requests,
)
