"""What is wrong with a link or a code, as problems; and the token by which a registration is watched."""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from api.schema import PROBLEMS
from users import registration
from users.challenges import Outcome

OF_LINK: Final[Mapping[Outcome, str]] = {
    Outcome.INVALID: "link_invalid",
    Outcome.EXPIRED: "link_expired",
    Outcome.USED: "link_used",
}
OF_CODE: Final[Mapping[Outcome, str]] = {
    Outcome.INVALID: "code_invalid",
    Outcome.EXPIRED: "code_expired",
    Outcome.SPENT: "code_spent",
}


class Refused(exceptions.APIException):
    """A link or a code that does nothing; its code says why."""

    def __init__(self, code: str) -> None:
        self.status_code, detail = PROBLEMS[code]
        super().__init__(detail, code)


def insist(outcome: Outcome | None, problems: Mapping[Outcome, str]) -> None:
    """Raise `Refused` for an outcome that is a problem."""
    if outcome is not None and outcome in problems:
        raise Refused(problems[outcome])


class StatusTokenAuthentication(BaseAuthentication):
    """By the `status_token` of the registration that the path names, as a Bearer token (RFC 6750)."""

    def authenticate(self, request: Request) -> tuple[AnonymousUser, UUID] | None:
        """Return nobody in particular, and the registration's id. Raises `AuthenticationFailed`."""
        scheme, *rest = get_authorization_header(request).decode("latin-1").split()[:2] or [""]
        if scheme.casefold() != "bearer":
            return None
        registration_id: UUID = request.parser_context["kwargs"]["pk"]
        if not registration.is_status_token("".join(rest), registration_id):
            raise exceptions.AuthenticationFailed("Invalid token.")
        return AnonymousUser(), registration_id

    def authenticate_header(self, request: Request) -> str:
        """Name the scheme, for a 401."""
        del request
        return "Bearer"


class HasStatusToken(BasePermission):
    """Whoever registered."""

    lets_in = "For who registered, with the `status_token` as Bearer."

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Tell whether the token was shown."""
        del view
        return request.auth is not None


class StatusTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How a registration's token is sent."""

    target_class = "api.proofs.StatusTokenAuthentication"
    name = "status_token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """Describe the header."""
        del auto_schema
        return {"type": "http", "scheme": "bearer", "description": "The `status_token` of `POST accounts/register`."}
