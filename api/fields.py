"""What comes in, a kind a field: nothing is taken for something else, and the document says the same."""

import re
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.contrib.auth import password_validation
from django.contrib.auth.password_validation import MinimumLengthValidator
from django.core.exceptions import ValidationError as DjangoValidationError
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from users.addresses import MAX_LENGTH, SERVICE_DOMAIN, canonical, is_blocked
from users.models import MAX_PASSWORD, User

# What JSON has as text, and PostgreSQL has not, is refused.
NO_NUL: Final = {"type": "string", "pattern": r"^[^\u0000]*$"}
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@extend_schema_field(NO_NUL)
class TextField(serializers.CharField):
    """Text and nothing else: DRF would write a number out, and 1e3 as a password is `1000.0`."""

    def to_internal_value(self, data: Any) -> str:
        """Return the text."""
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class IdField(serializers.UUIDField):
    """An id as it was handed out: DRF would take numbers, too, and other spellings."""

    def to_internal_value(self, data: Any) -> UUID:
        """Return the id."""
        if not isinstance(data, str) or not _ID.fullmatch(data):
            self.fail("invalid", value="what was sent")
        return UUID(data)


class FlagField(serializers.BooleanField):
    """True or false: DRF would take "no" and 0, too."""

    def to_internal_value(self, data: Any) -> bool:
        """Return which."""
        if not isinstance(data, bool):
            self.fail("invalid", input="what was sent")
        return data


class NumberField(serializers.IntegerField):
    """A whole number: DRF would take text, and true."""

    def to_internal_value(self, data: Any) -> int:
        """Return the number."""
        if not isinstance(data, int | float) or isinstance(data, bool):
            self.fail("invalid")
        return super().to_internal_value(data)


@extend_schema_field({"type": "string", "format": "email", "maxLength": MAX_LENGTH})
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


class NewAddressField(AddressField):
    """An address that somebody wants to have an account with; one of a domain that is not wanted is an error."""

    def to_internal_value(self, data: Any) -> str:
        """Return the address, checked, whoever has it."""
        address = super().to_internal_value(data)
        if len(address) <= MAX_LENGTH and is_blocked(canonical(address)):
            raise serializers.ValidationError("Use an address of another domain.", code="domain_blocked")
        return address


@extend_schema_field({**NO_NUL, "format": "password", "maxLength": MAX_PASSWORD})
class PasswordField(TextField):
    """A password, to the last space."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=MAX_PASSWORD, trim_whitespace=False, write_only=True, **kwargs)


def _shortest() -> int:
    """Return how many characters a new password has at least."""
    validators = password_validation.get_default_password_validators()
    bounds = [each.min_length for each in validators if isinstance(each, MinimumLengthValidator)]
    return max(bounds, default=1)


class NewPasswordField(PasswordField):
    """A password to have from now on; `judge` says whether it may be one."""

    shortest = _shortest()


class NameField(serializers.ChoiceField):
    """One of some names; `otherwise` is said of any other: DRF would quote it, and half a surrogate pair is no text."""

    def __init__(self, choices: Any, otherwise: str, **kwargs: Any) -> None:
        super().__init__(choices, error_messages={"invalid_choice": otherwise}, **kwargs)


class LocaleField(NameField):
    """A language that mails are written in."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(settings.LANGUAGES, "There is no such language.", **kwargs)


def judge(password: str, user: User | None, field: str) -> None:
    """Raise `ValidationError` for a password that is none, at `field`; `user` is whose it must not resemble."""
    try:
        password_validation.validate_password(password, user)
    except DjangoValidationError as error:
        raise serializers.ValidationError(
            {field: serializers.as_serializer_error(error)["non_field_errors"]}
        ) from error
