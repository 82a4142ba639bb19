"""The base of each view: who may come in, and what they may bring."""

import io
from collections.abc import Mapping
from typing import IO, Any, ClassVar

import knox.auth
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication
from rest_framework.parsers import JSONParser
from rest_framework.permissions import AllowAny, BasePermission, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from api import throttles
from api.problems import TooLarge
from users.models import User

# Bytes; the largest body that makes sense, a registration, has some 1,500.
MAX_BODY = 64 * 1024


class SmallJSONParser(JSONParser):
    """JSON in UTF-8 (RFC 8259), of a size and depth that cost nothing to refuse."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        """Return what the body holds. Raises `ParseError`, or `TooLarge`."""
        body = stream.read(MAX_BODY + 1)
        if len(body) > MAX_BODY:
            raise TooLarge
        try:
            # Whatever character set a client names: Python knows ones that are no text at all.
            return super().parse(io.BytesIO(body), media_type, {**(parser_context or {}), "encoding": "utf-8"})
        except RecursionError:
            raise exceptions.ParseError("JSON parse error - nested too deeply") from None


class TokenAuthentication(knox.auth.TokenAuthentication):  # type: ignore[misc]  # has no types
    """Knox's, which takes any bytes for UTF-8."""

    def authenticate_credentials(self, token: bytes) -> Any:
        """Return the user and the token's row. Raises `AuthenticationFailed`."""
        try:
            return super().authenticate_credentials(token)
        except ValueError:  # no UTF-8, or a NUL
            raise exceptions.AuthenticationFailed from None


class View(APIView):
    """What no cache may keep, since it is about one person."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Refuse a method that is not there before anybody is asked who they are: which ones are, is no secret."""
        if request.method not in self.allowed_methods:
            self.http_method_not_allowed(request)
        super().initial(request, *args, **kwargs)

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        """Say so."""
        response = super().finalize_response(request, response, *args, **kwargs)
        response["Cache-Control"] = "no-store"
        return response


class Holds(BasePermission):
    """Who holds a permission of Django's: they are the scopes."""

    permission: ClassVar[str]

    @property
    def lets_in(self) -> str:
        """Say whom, for the document."""
        return f"For operators: needs `{self.permission}`."

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Ask for it."""
        del view
        return bool(request.user.has_perm(self.permission))


class PublicView(View):
    """For anyone: no credentials are looked at. Each names its `throttle_classes`."""

    authentication_classes: tuple[type[BaseAuthentication], ...] = ()
    permission_classes: tuple[type[BasePermission], ...] = (AllowAny,)
    parser_classes = (SmallJSONParser,)


class PrivateView(View):
    """For users, by a token."""

    authentication_classes = (TokenAuthentication,)
    permission_classes: tuple[type[BasePermission], ...] = (IsAuthenticated,)
    parser_classes = (SmallJSONParser,)
    throttle_classes: tuple[type[BaseThrottle], ...] = (throttles.PerUser,)

    def handle_exception(self, exc: Exception) -> Response:
        """Answer whoever was deleted, banned or given another password while they asked: their token is gone."""
        return super().handle_exception(
            exceptions.AuthenticationFailed("Invalid token.") if isinstance(exc, User.DoesNotExist) else exc
        )
