"""Who may ask how often: each endpoint names its limit, `settings.THROTTLES` has the figures.

DRF's own throttles read a list and write it back, so that of many requests at once more pass than may.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from users import limits


class Throttle(BaseThrottle):
    """One limit, charged for each request."""

    limit: ClassVar[str]
    # Whose requests count together.
    of: ClassVar[str]
    # Limits that the view charges besides (`charge`), and for whom.
    besides: ClassVar[Mapping[str, str]] = {}

    def key(self, request: Request) -> str:
        """Return who is charged."""
        raise NotImplementedError

    def allow_request(self, request: Request, view: APIView) -> bool:
        """Charge whoever asks."""
        del view
        self._wait = limits.wait(self.limit, self.key(request))
        return self._wait == 0

    def wait(self) -> float:
        """Return the seconds until the next request may pass."""
        return self._wait


class PerClient(Throttle):
    """By the client's address, which `project.clients` has put into REMOTE_ADDR."""

    of = "one client"

    def key(self, request: Request) -> str:
        """Return the address, or its network."""
        return limits.client_key(request.META.get("REMOTE_ADDR", ""))


class Registering(PerClient):
    """New accounts."""

    limit = "register_ip"


class Verifying(PerClient):
    """Tokens of links, and codes, that are tried."""

    limit = "verify_ip"


class Mailing(PerClient):
    """Mails that anybody may ask for, to any address; each address has a limit of its own, which is kept in silence."""

    limit = "mail_ip"


class LoggingIn(PerClient):
    """Passwords that are tried; each account has a limit of its own."""

    limit = "login_ip"
    besides: ClassVar[Mapping[str, str]] = {"login_account": "one account"}


class AskingStatus(PerClient):
    """The course of a registration."""

    limit = "status_ip"


class PerUser(Throttle):
    """All that is asked for with a user's tokens, an operator's too."""

    limit = "user"
    of = "one user"

    def key(self, request: Request) -> str:
        """Return the user's id."""
        user: Any = request.user
        return str(user.pk)


def charge(limit: str, key: str) -> None:
    """Charge a key to a limit. Raises `Throttled`, which says how long to wait."""
    if seconds := limits.wait(limit, key):
        raise exceptions.Throttled(wait=seconds)
