"""Tokens: opaque, hashed at rest, expiring, several a user."""

from typing import Any

from django.contrib.auth import authenticate
from django.contrib.auth.signals import user_logged_in
from django.db import transaction
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_view
from knox.models import AuthToken
from rest_framework import exceptions, generics, serializers, status
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import AllowAny, BasePermission, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle

from api import throttles
from api.doors import PrivateView
from api.fields import AddressField, PasswordField
from api.schema import BODY, TOKEN, problems
from users import audit, tokens
from users.addresses import canonical
from users.audit import Action
from users.models import User


class CredentialsSerializer(serializers.Serializer[Any]):
    """Who asks for a token."""

    email = AddressField()
    password = PasswordField()


class ListedTokenSerializer(serializers.ModelSerializer[Any]):
    """A token, without itself."""

    id = serializers.CharField(source="token_key", read_only=True, help_text="The token's first characters.")
    created_at = serializers.DateTimeField(source="created", read_only=True)
    expires_at = serializers.DateTimeField(source="expiry", read_only=True)
    current = serializers.SerializerMethodField(help_text="Whether it is the one this request came with.")

    class Meta:
        model = AuthToken
        fields = ("id", "created_at", "expires_at", "current")

    def get_current(self, token: Any) -> bool:
        """Compare it to the one of the request."""
        used = self.context["request"].auth
        return used is not None and token.digest == used.digest


class NewTokenSerializer(ListedTokenSerializer):
    """A token, shown this once."""

    token = serializers.CharField(read_only=True)

    class Meta(ListedTokenSerializer.Meta):
        fields = ("id", "token", "created_at", "expires_at")


_LISTED = {
    "id": "9f3a1c0d2e4b5a6",
    "created_at": "2026-11-21T08:00:00Z",
    "expires_at": "2026-12-21T08:00:00Z",
}


NEW_TOKEN = {**_LISTED, "token": "9f3a1c0d2e4b5a6..."}


def _own(request: Request) -> QuerySet[Any]:
    rows: QuerySet[Any] = AuthToken.objects.filter(user=request.user.pk)
    return rows


class TokensView(PrivateView, generics.ListAPIView[Any]):
    """One's tokens."""

    serializer_class = ListedTokenSerializer
    pagination_class = None
    filter_backends = ()

    def get_authenticators(self) -> list[BaseAuthentication]:
        """Look at no credentials where a token is asked for: an expired one must not stand in the way."""
        return [] if self.request is not None and self.request.method == "POST" else super().get_authenticators()

    def get_throttles(self) -> list[BaseThrottle]:
        """Limit whoever asks for a token by where they are."""
        return [throttles.LoggingIn()] if self.request.method == "POST" else super().get_throttles()

    def get_permissions(self) -> list[BasePermission]:
        """Let anyone ask for a token."""
        return [AllowAny() if self.request.method == "POST" else IsAuthenticated()]

    def get_queryset(self) -> QuerySet[Any]:
        """Return the caller's own, newest first."""
        return _own(self.request).order_by("-created")

    @extend_schema(
        operation_id="list_tokens",
        summary="List one's tokens",
        tags=["tokens"],
        responses={200: ListedTokenSerializer(many=True), **problems(*TOKEN)},
        examples=[OpenApiExample("token", {**_LISTED, "current": True}, response_only=True, status_codes=["200"])],
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """List one's tokens."""
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="create_token",
        summary="Log in",
        tags=["tokens"],
        auth=[],
        request=CredentialsSerializer,
        responses={201: NewTokenSerializer, **problems(*BODY, "invalid_credentials")},
        examples=[
            OpenApiExample(
                "credentials", {"email": "ada@example.com", "password": "correct horse battery"}, request_only=True
            ),
            OpenApiExample("created", NEW_TOKEN, response_only=True, status_codes=["201"]),
        ],
    )
    def post(self, request: Request) -> Response:
        """Exchange address and password for a token. An unknown address and a wrong password look alike.

        The token is shown this once. Who has many loses the oldest.
        """
        form = CredentialsSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        given = form.validated_data
        throttles.charge("login_account", canonical(given["email"]))
        user = authenticate(request, username=given["email"], password=given["password"])
        if not isinstance(user, User):
            raise InvalidCredentials
        with transaction.atomic():
            made = tokens.log_in(user, given["password"])
            if made is None:
                raise InvalidCredentials
            row, token = made
            row.token = token
            # Django's own receiver sets `last_login`.
            user_logged_in.send(User, request=request, user=user)
        shown = NewTokenSerializer(row, context=self.get_serializer_context())
        return Response(shown.data, status=status.HTTP_201_CREATED)


class InvalidCredentials(exceptions.APIException):
    """Address and password do not belong together."""

    status_code = status.HTTP_401_UNAUTHORIZED
    default_detail = "Address and password do not belong together."
    default_code = "invalid_credentials"
    auth_header = "Token"  # RFC 9110, 15.5.2: a 401 names a scheme


@extend_schema_view(
    delete=extend_schema(
        operation_id="revoke_token",
        summary="Revoke a token",
        tags=["tokens"],
        responses={204: None, **problems(*TOKEN, "not_found")},
    )
)
class TokenView(PrivateView, generics.DestroyAPIView[Any]):
    """Revoke a token: one of one's own by its id, or `current`, the one that the request came with."""

    serializer_class = ListedTokenSerializer
    lookup_field = "token_key"

    def get_queryset(self) -> QuerySet[Any]:
        """Return the caller's own."""
        return _own(self.request)

    def perform_destroy(self, token: Any) -> None:
        """Revoke it, and note that."""
        with transaction.atomic():
            audit.note(Action.TOKEN_REVOKED, token.user_id)
            token.delete()

    def get_object(self) -> Any:
        """Return the token named, or the one this request came with."""
        named = self.kwargs["token_key"]
        return self.request.auth if named == "current" else super().get_object()
