"""System checks: what the settings cannot know of themselves."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error

from mailer.kinds import KINDS


def routes_name_kinds(**_: Any) -> list[CheckMessage]:
    """Find kinds in MAIL_ROUTES that there are none of."""
    return [
        Error(f"MAIL_ROUTES: {kind!r} is not one of {', '.join(KINDS)}", id="mailer.E001")
        for kind in settings.MAIL_ROUTES
        if kind not in KINDS
    ]
