"""Register, verify an address, look at one's own account."""

from typing import Any

from django.conf import settings
from django.contrib.auth import password_validation
from django.core.exceptions import ValidationError as DjangoValidationError
from django.utils.translation import get_language_from_request
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_view
from rest_framework import exceptions, generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from api import throttles
from api.doors import PrivateView, PublicView
from api.problems import Gone
from api.schema import BODY, TOKEN, problems
from users import challenges, registration
from users.addresses import MAX_LENGTH, SERVICE_DOMAIN, canonical, is_blocked
from users.challenges import RESEND_AFTER, Outcome
from users.models import User

# A longer password is no better and takes longer to hash.
MAX_PASSWORD = 1024


class TextField(serializers.CharField):
    """Text and nothing else: DRF would write a number out, and 1e3 as a password is `1000.0`."""

    def to_internal_value(self, data: Any) -> str:
        """Return the text."""
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class AddressField(TextField):
    """An address as typed; a bad one is an error, whoever has it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=MAX_LENGTH, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        """Return the address, checked."""
        address = super().to_internal_value(data)
        if len(address) > MAX_LENGTH:
            return address  # the validator of the length says so, and nothing that long is looked at closely
        try:
            domain = canonical(address).rpartition("@")[2]
        except DjangoValidationError as error:
            raise serializers.ValidationError(error.messages, code="invalid") from error
        if domain == SERVICE_DOMAIN:  # of programs, which never come this way
            self.fail("invalid")
        return address


class RegistrationSerializer(serializers.Serializer[Any]):
    """Who wants to register."""

    email = AddressField()
    password = TextField(max_length=MAX_PASSWORD, trim_whitespace=False, write_only=True)
    locale = serializers.ChoiceField(
        settings.LANGUAGES,
        required=False,
        help_text="Default: from `Accept-Language`.",
        error_messages={"invalid_choice": "There is no such language."},  # DRF's own would quote what was sent
    )

    def validate_email(self, address: str) -> str:
        """Refuse an address of a domain that is not wanted, whoever has it."""
        if is_blocked(canonical(address)):
            raise serializers.ValidationError("Use an address of another domain.", code="domain_blocked")
        return address

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Judge the password, with the address at hand that it must not resemble."""
        try:
            password_validation.validate_password(attrs["password"], User(email=attrs["email"]))
        except DjangoValidationError as error:
            raise serializers.ValidationError(
                {"password": serializers.as_serializer_error(error)["non_field_errors"]}
            ) from error
        return attrs


class AcceptedSerializer(serializers.Serializer[Any]):
    """That a mail is on its way, if there is anybody to write to."""

    status = serializers.CharField(default="accepted")
    resend_after = serializers.IntegerField(help_text="Seconds after which asking for another mail has an effect.")


class RegisteredSerializer(AcceptedSerializer):
    """The same answer for a free address and for a taken one."""

    registration_id = serializers.UUIDField()


class TokenSerializer(serializers.Serializer[Any]):
    """The token of a link."""

    token = TextField(max_length=200)


class VerifiedSerializer(serializers.Serializer[Any]):
    """That the address is verified."""

    status = serializers.ChoiceField([Outcome.VERIFIED.value, Outcome.ALREADY_VERIFIED.value])


class EmailSerializer(serializers.Serializer[Any]):
    """An address."""

    email = AddressField()


class AccountSerializer(serializers.ModelSerializer[User]):
    """One's own account."""

    class Meta:
        model = User
        fields = ("email", "email_verified_at", "locale", "date_joined")
        read_only_fields = fields


class RegisterView(PublicView):
    """Register an address. It has to be verified by the link in a mail."""

    throttle_classes = (throttles.Registering,)

    @extend_schema(
        operation_id="register",
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
                {"status": "accepted", "resend_after": 60, "registration_id": "0190a6c4-7b3e-7c1a-9d3b-0f1e2d3c4b5a"},
                response_only=True,
                status_codes=["202"],
            ),
        ],
    )
    def post(self, request: Request) -> Response:
        """Register; the answer does not tell whether the address is taken, the mail to its owner does."""
        form = RegistrationSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        given = form.validated_data
        locale = given.get("locale") or get_language_from_request(request)
        identifier = registration.register(given["email"], given["password"], locale)
        return _accepted(registration_id=str(identifier))


class VerifyEmailView(PublicView):
    """Verify an address."""

    throttle_classes = (throttles.Verifying,)

    @extend_schema(
        operation_id="verify_email",
        tags=["accounts"],
        request=TokenSerializer,
        responses={200: VerifiedSerializer, **problems(*BODY, "link_invalid", "link_expired")},
        examples=[
            OpenApiExample("token", {"token": "0190a6c47b3e7c1a9d3b0f1e2d3c4b5a.Zm9v"}, request_only=True),
            OpenApiExample("verified", {"status": "verified"}, response_only=True, status_codes=["200"]),
        ],
    )
    def post(self, request: Request) -> Response:
        """Consume the token of a link."""
        form = TokenSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        outcome = challenges.consume(form.validated_data["token"])
        if outcome is Outcome.EXPIRED:
            raise Gone("This link has expired. Ask for a new one.", code="link_expired")
        if outcome is Outcome.INVALID:
            raise exceptions.NotFound("This link is not valid.", code="link_invalid")
        return Response({"status": outcome.value})


class ResendView(PublicView):
    """Send the verification mail again."""

    throttle_classes = (throttles.Mailing,)

    @extend_schema(
        operation_id="resend_verification",
        tags=["accounts"],
        request=EmailSerializer,
        responses={202: AcceptedSerializer, **problems(*BODY)},
        examples=[
            OpenApiExample("resend", {"email": "ada@example.com"}, request_only=True),
            OpenApiExample(
                "accepted", {"status": "accepted", "resend_after": 60}, response_only=True, status_codes=["202"]
            ),
        ],
    )
    def post(self, request: Request) -> Response:
        """Send a new link, if an unverified account has the address; the answer is always the same."""
        form = EmailSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        challenges.request_verification(canonical(form.validated_data["email"]))
        return _accepted()


@extend_schema_view(
    get=extend_schema(
        operation_id="account",
        tags=["accounts"],
        responses={200: AccountSerializer, **problems(*TOKEN)},
        examples=[
            OpenApiExample(
                "account",
                {
                    "email": "ada@example.com",
                    "email_verified_at": "2026-11-21T08:00:00Z",
                    "locale": "en",
                    "date_joined": "2026-11-21T07:59:00Z",
                },
                response_only=True,
                status_codes=["200"],
            )
        ],
    )
)
class MeView(PrivateView, generics.RetrieveAPIView[User]):
    """One's own account."""

    serializer_class = AccountSerializer

    def get_object(self) -> User:
        """Return the caller."""
        user = self.request.user
        assert isinstance(user, User)  # noqa: S101  # the permission saw to it
        return user


def _accepted(**more: str) -> Response:
    body = {"status": "accepted", "resend_after": int(RESEND_AFTER.total_seconds()), **more}
    return Response(body, status=status.HTTP_202_ACCEPTED)
