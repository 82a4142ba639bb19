"""Another address, another password: for the user, and for who forgot it."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import exceptions, status
from rest_framework.request import Request
from rest_framework.response import Response

from api import throttles
from api.accounts import (
    ACCEPTED,
    AcceptedSerializer,
    EmailSerializer,
    OwnPasswordSerializer,
    TokenSerializer,
    VerifiedSerializer,
    accepted,
    caller,
)
from api.doors import PrivateView, PublicView
from api.fields import NewAddressField, NewPasswordField, judge
from api.proofs import OF_LINK, insist
from api.schema import BODY, PASSWORD, REQUIRED, TOKEN, problems
from api.tokens import NEW_TOKEN, NewTokenSerializer
from users import challenges, credentials, tokens
from users.addresses import canonical
from users.models import EmailChallenge


class ChangeEmailSerializer(OwnPasswordSerializer):
    """The address to have from now on."""

    email = NewAddressField()


class ChangePasswordSerializer(OwnPasswordSerializer):
    """The password to have from now on."""

    new_password = NewPasswordField()

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Judge the new password."""
        judge(attrs["new_password"], self.context["user"], "new_password")
        return attrs


class NewPasswordSerializer(TokenSerializer):
    """A link's token, and the password to have from now on."""

    password = NewPasswordField()


class ChangeEmailView(PrivateView):
    """Have another address."""

    @extend_schema(
        operation_id="change_email",
        summary="Ask for another address",
        tags=["accounts"],
        request=ChangeEmailSerializer,
        responses={202: AcceptedSerializer, **problems(*BODY, *TOKEN, error=PASSWORD)},
        examples=[
            OpenApiExample(
                "change", {"password": "correct horse battery", "email": "ada@example.net"}, request_only=True
            ),
            ACCEPTED,
        ],
    )
    def post(self, request: Request) -> Response:
        """Send a link to the new address, and a notice to the present one, which stays until the link is used.

        A request takes the place of the one before. The answer does not tell whether the address is somebody's.
        """
        user = caller(request)
        form = ChangeEmailSerializer(data=request.data, context={"user": user})
        form.is_valid(raise_exception=True)
        credentials.request_change(user, form.validated_data["email"])
        return accepted()

    @extend_schema(
        operation_id="cancel_email_change",
        summary="Keep the present address",
        tags=["accounts"],
        request=None,
        responses={204: None, **problems(*TOKEN)},
    )
    def delete(self, request: Request) -> Response:
        """Keep the present address: the link to the new one is dead."""
        credentials.cancel_change(caller(request))
        return Response(status=status.HTTP_204_NO_CONTENT)


class ConfirmEmailView(PublicView):
    """Confirm the new address."""

    throttle_classes = (throttles.Verifying,)

    @extend_schema(
        operation_id="confirm_email_change",
        summary="Confirm the new address",
        tags=["accounts"],
        request=TokenSerializer,
        responses={200: VerifiedSerializer, **problems(*BODY, "link_invalid", "link_expired", error=REQUIRED)},
        examples=[
            OpenApiExample("token", {"token": "0190a6c47b3e7c1a9d3b0f1e2d3c4b5a.Zm9v"}, request_only=True),
            OpenApiExample("verified", {"status": "verified"}, response_only=True, status_codes=["200"]),
        ],
    )
    def post(self, request: Request) -> Response:
        """Consume the token of the link that went to the new address. It is the account's, and verified, from then."""
        form = TokenSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        outcome = credentials.confirm_change(form.validated_data["token"])
        insist(outcome, OF_LINK)
        return Response({"status": outcome.value})


class ChangePasswordView(PrivateView):
    """Have another password."""

    @extend_schema(
        operation_id="change_password",
        summary="Change one's password",
        tags=["accounts"],
        request=ChangePasswordSerializer,
        responses={200: NewTokenSerializer, **problems(*BODY, *TOKEN, error=PASSWORD)},
        examples=[
            OpenApiExample(
                "change",
                {"password": "correct horse battery", "new_password": "staple incorrect donkey"},
                request_only=True,
            ),
            OpenApiExample("token", NEW_TOKEN, response_only=True, status_codes=["200"]),
        ],
    )
    def post(self, request: Request) -> Response:
        """Set another password. Every token is revoked, and every link that was sent; the answer is a new token.

        So who has found or copied one is out, and the caller is not.
        """
        user = caller(request)
        form = ChangePasswordSerializer(data=request.data, context={"user": user})
        form.is_valid(raise_exception=True)
        new = form.validated_data["new_password"]
        credentials.change_password(user, new)
        if (made := tokens.log_in(user, new)) is None:
            raise exceptions.AuthenticationFailed  # banned meanwhile
        row, shown = made
        row.token = shown
        return Response(NewTokenSerializer(row).data)


class ResetView(PublicView):
    """Ask for a new password."""

    throttle_classes = (throttles.Mailing,)

    @extend_schema(
        operation_id="request_password_reset",
        summary="Ask for a new password",
        tags=["accounts"],
        request=EmailSerializer,
        responses={202: AcceptedSerializer, **problems(*BODY)},
        examples=[OpenApiExample("reset", {"email": "ada@example.com"}, request_only=True), ACCEPTED],
    )
    def post(self, request: Request) -> Response:
        """Send a link to set a new password, if an account has the address; the answer is always the same.

        An address is written to once in 60 seconds and 5 times a day at most.
        """
        form = EmailSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        credentials.request_reset(canonical(form.validated_data["email"]))
        return accepted()


class ConfirmResetView(PublicView):
    """Set a new password."""

    throttle_classes = (throttles.Verifying,)

    @extend_schema(
        operation_id="reset_password",
        summary="Set a new password",
        tags=["accounts"],
        request=NewPasswordSerializer,
        responses={
            204: None,
            **problems(
                *BODY,
                *("link_invalid", "link_expired", "link_used"),
                error=("#/password", "password_too_common", "This password is too common."),
            ),
        },
        examples=[
            OpenApiExample(
                "password",
                {"token": "0190a6c47b3e7c1a9d3b0f1e2d3c4b5a.Zm9v", "password": "staple incorrect donkey"},
                request_only=True,
            )
        ],
    )
    def post(self, request: Request) -> Response:
        """Set a new password by the token of a link. Every token is revoked, and nobody is logged in.

        The mail has reached the address, so it is verified by this. A password that is refused leaves the link good.
        """
        form = NewPasswordSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        token, password = form.validated_data["token"], form.validated_data["password"]
        challenge, outcome = challenges.look_up(token, EmailChallenge.Purpose.RESET_PASSWORD)
        insist(outcome, OF_LINK)
        judge(password, challenge.user if challenge else None, "password")
        insist(credentials.reset_password(token, password), OF_LINK)
        return Response(status=status.HTTP_204_NO_CONTENT)
