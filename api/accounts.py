"""Register, verify an address, look at one's own account."""

import re
from typing import Any

from django.utils.translation import get_language_from_request
from drf_spectacular.utils import (
    OpenApiExample,
    PolymorphicProxySerializer,
    extend_schema,
    extend_schema_field,
    extend_schema_view,
)
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from api import throttles
from api.doors import PrivateView, PublicView
from api.fields import (
    AddressField,
    IdField,
    LocaleField,
    NewAddressField,
    NewPasswordField,
    PasswordField,
    TextField,
    judge,
)
from api.proofs import OF_CODE, OF_LINK, insist
from api.schema import BODY, PASSWORD, REQUIRED, TOKEN, problems
from mailer import retention
from users import credentials, registration
from users.addresses import canonical
from users.challenges import RESEND_AFTER, Outcome
from users.models import User


class RegistrationSerializer(serializers.Serializer[Any]):
    """Who wants to register."""

    email = NewAddressField()
    password = NewPasswordField()
    locale = LocaleField(required=False, help_text="Default: from `Accept-Language`.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Judge the password, with the address at hand that it must not resemble."""
        judge(attrs["password"], User(email=attrs["email"]), "password")
        return attrs


class AcceptedSerializer(serializers.Serializer[Any]):
    """That a mail is on its way, if there is anybody to write to."""

    status = serializers.CharField(default="accepted")
    resend_after = serializers.IntegerField(help_text="Seconds after which asking for another mail has an effect.")


class RegisteredSerializer(AcceptedSerializer):
    """The same answer for a free address and for a taken one."""

    registration_id = serializers.UUIDField()
    status_token = serializers.CharField(help_text="By it, `GET accounts/registrations/{id}` tells what became of it.")


class TokenSerializer(serializers.Serializer[Any]):
    """The token of a link."""

    token = TextField(max_length=200)


class CodeSerializer(serializers.Serializer[Any]):
    """The code in a mail, and the registration that the mail was about."""

    registration_id = IdField()
    code = TextField(max_length=20, help_text="Spaces and hyphens in it do not count.")

    def validate_code(self, value: str) -> str:
        """Return the digits."""
        return re.sub(r"[\s-]", "", value)


class OwnPasswordSerializer(serializers.Serializer[Any]):
    """The password that the caller has now, asked for once more. Needs the `user` in the context."""

    password = PasswordField(help_text="The present one.")

    def validate_password(self, value: str) -> str:
        """Compare it."""
        user: User = self.context["user"]
        throttles.charge("login_account", user.email_canonical)
        if not user.check_password(value):
            raise serializers.ValidationError("This is not your password.", code="wrong_password")
        return value


class VerifiedSerializer(serializers.Serializer[Any]):
    """That the address is verified."""

    status = serializers.ChoiceField([Outcome.VERIFIED.value, Outcome.ALREADY_VERIFIED.value])


class EmailSerializer(serializers.Serializer[Any]):
    """An address."""

    email = AddressField()


class AccountSerializer(serializers.ModelSerializer[User]):
    """One's own account."""

    locale = LocaleField()
    pending_email = serializers.SerializerMethodField(help_text="The address it is to have, once that is confirmed.")

    class Meta:
        model = User
        fields = ("email", "email_verified_at", "locale", "date_joined", "pending_email")
        read_only_fields = ("email", "email_verified_at", "date_joined")

    @extend_schema_field(serializers.EmailField(allow_null=True))
    def get_pending_email(self, user: User) -> str | None:
        """Show it as it was typed."""
        return credentials.pending_change(user).values_list("typed", flat=True).first()

    def update(self, instance: User, validated_data: dict[str, Any]) -> User:
        """Write what was sent and nothing else: the rest was read before, and may be of before a ban or a reset."""
        if validated_data and not User.objects.filter(pk=instance.pk).update(**validated_data):
            raise User.DoesNotExist
        for name, value in validated_data.items():
            setattr(instance, name, value)
        return instance


ACCEPTED = OpenApiExample(
    "accepted", {"status": "accepted", "resend_after": 60}, response_only=True, status_codes=["202"]
)
OF_LINK_OR_CODE = ("link_invalid", "link_expired", *OF_CODE.values())
_ACCOUNT = {
    "email": "ada@example.com",
    "email_verified_at": "2026-11-21T08:00:00Z",
    "locale": "en",
    "date_joined": "2026-11-21T07:59:00Z",
    "pending_email": None,
}
_SHOWN = OpenApiExample("account", _ACCOUNT, response_only=True, status_codes=["200"])


class RegisterView(PublicView):
    """Register an address. It has to be verified by the link in a mail."""

    throttle_classes = (throttles.Registering,)

    @extend_schema(
        operation_id="register",
        summary="Register an address",
        tags=["accounts"],
        request=RegistrationSerializer,
        responses={202: RegisteredSerializer, **problems(*BODY)},
        examples=[
            OpenApiExample(
                "register",
                {"email": "ada@example.com", "password": "correct horse battery", "locale": "en"},
                request_only=True,
            ),
            OpenApiExample(
                "registered",
                {
                    "status": "accepted",
                    "resend_after": 60,
                    "registration_id": "0190a6c4-7b3e-7c1a-9d3b-0f1e2d3c4b5a",
                    "status_token": "0190a6c47b3e7c1a9d3b0f1e2d3c4b5a.YmFy",
                },
                response_only=True,
                status_codes=["202"],
            ),
        ],
    )
    def post(self, request: Request) -> Response:
        """Register; the answer does not tell whether the address is taken, the mail to its owner does.

        The mail has a link and a code; `GET accounts/registrations/{id}` tells what becomes of it. The same address and
        password once more, as after an answer that was lost, is the same registration.
        """
        form = RegistrationSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        given = form.validated_data
        locale = given.get("locale") or get_language_from_request(request)
        identifier = registration.register(given["email"], given["password"], locale)
        return accepted(registration_id=str(identifier), status_token=registration.status_token(identifier))


class VerifyEmailView(PublicView):
    """Verify an address."""

    throttle_classes = (throttles.Verifying,)

    @extend_schema(
        operation_id="verify_email",
        summary="Verify an address",
        tags=["accounts"],
        request=PolymorphicProxySerializer("Proof", [TokenSerializer, CodeSerializer], resource_type_field_name=None),
        responses={200: VerifiedSerializer, **problems(*BODY, *OF_LINK_OR_CODE, error=REQUIRED)},
        examples=[
            OpenApiExample("token", {"token": "0190a6c47b3e7c1a9d3b0f1e2d3c4b5a.Zm9v"}, request_only=True),
            OpenApiExample(
                "code",
                {"registration_id": "0190a6c4-7b3e-7c1a-9d3b-0f1e2d3c4b5a", "code": "1234 5678"},
                request_only=True,
            ),
            OpenApiExample("verified", {"status": "verified"}, response_only=True, status_codes=["200"]),
        ],
    )
    def post(self, request: Request) -> Response:
        """Consume the token of a link, or the code of a registration's newest mail. It logs nobody in.

        Five codes may be tried; then the code is dead, and the link is not.
        """
        by_code = isinstance(request.data, dict) and "token" not in request.data and "code" in request.data
        form = CodeSerializer(data=request.data) if by_code else TokenSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        if by_code:
            outcome = registration.verify_by_code(**form.validated_data)
        else:
            outcome = registration.verify(form.validated_data["token"])
        insist(outcome, OF_CODE if by_code else OF_LINK)
        return Response({"status": outcome.value})


class ResendView(PublicView):
    """Send the verification mail again."""

    throttle_classes = (throttles.Mailing,)

    @extend_schema(
        operation_id="resend_verification",
        summary="Send the verification mail again",
        tags=["accounts"],
        request=EmailSerializer,
        responses={202: AcceptedSerializer, **problems(*BODY)},
        examples=[
            OpenApiExample("resend", {"email": "ada@example.com"}, request_only=True),
            ACCEPTED,
        ],
    )
    def post(self, request: Request) -> Response:
        """Send a new link, if an unverified account has the address; the answer is always the same.

        An address is written to once in 60 seconds and 5 times a day at most.
        """
        form = EmailSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        registration.request_verification(canonical(form.validated_data["email"]))
        return accepted()


@extend_schema_view(
    get=extend_schema(
        operation_id="account",
        summary="Look at one's account",
        tags=["accounts"],
        responses={200: AccountSerializer, **problems(*TOKEN)},
        examples=[_SHOWN],
    ),
    patch=extend_schema(
        operation_id="change_account",
        summary="Change one's language",
        tags=["accounts"],
        responses={
            200: AccountSerializer,
            **problems(*BODY, *TOKEN, error=("#/locale", "invalid_choice", "There is no such language.")),
        },
        examples=[OpenApiExample("language", {"locale": "de"}, request_only=True), _SHOWN],
    ),
)
class MeView(PrivateView, generics.RetrieveUpdateAPIView[User]):
    """One's own account."""

    http_method_names = ("get", "patch", "delete", "head", "options")
    serializer_class = AccountSerializer

    def get_object(self) -> User:
        """Return the caller."""
        return caller(self.request)

    def patch(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Change the language that mails are written in. What concerns safety has addresses of its own."""
        return super().patch(request, *args, **kwargs)

    @extend_schema(
        operation_id="delete_account",
        summary="Delete one's account",
        tags=["accounts"],
        request={"application/json": OwnPasswordSerializer},
        responses={204: None, **problems(*BODY, *TOKEN, error=PASSWORD)},
        examples=[OpenApiExample("password", {"password": "correct horse battery"}, request_only=True)],
    )
    def delete(self, request: Request) -> Response:
        """Delete the account and every token, for good.

        Of the mails that were sent, rows without a person are left: that there was one of some kind, and what became of
        it. What waits to be sent is cancelled.
        """
        user = caller(request)
        form = OwnPasswordSerializer(data=request.data, context={"user": user})
        form.is_valid(raise_exception=True)
        # First what can be done again: who is stopped in the middle still has the account, and can delete it.
        retention.erase_user(user)
        credentials.close(user)
        return Response(status=status.HTTP_204_NO_CONTENT)


def caller(request: Request) -> User:
    """Return who asks."""
    user = request.user
    assert isinstance(user, User)  # noqa: S101  # the permission saw to it
    return user


def accepted(**more: str) -> Response:
    """Answer that a mail is on its way, if there is anybody to write to."""
    body = {"status": "accepted", "resend_after": int(RESEND_AFTER.total_seconds()), **more}
    return Response(body, status=status.HTTP_202_ACCEPTED)
