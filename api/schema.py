"""What the OpenAPI page says that no serializer does: the problems of an endpoint, with an example each."""

from collections import defaultdict
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, PolymorphicProxySerializer
from rest_framework.permissions import AllowAny, IsAuthenticated

from api.problems import CONTENT_TYPE, ProblemSerializer

# Code -> the status it comes with, and what it says. `docs/api.md` tells what to do about each.
PROBLEMS: Final[dict[str, tuple[int, str]]] = {
    "invalid": (400, "The request has errors."),
    "parse_error": (400, "JSON parse error - Expecting value: line 1 column 1 (char 0)"),
    "bad_request": (400, "This service does not answer such a request."),
    "not_authenticated": (401, "Authentication credentials were not provided."),
    "authentication_failed": (401, "Invalid token."),
    "invalid_credentials": (401, "Address and password do not belong together."),
    "permission_denied": (403, "You do not have permission to perform this action."),
    "not_found": (404, "There is no such thing."),
    "link_invalid": (404, "This link is not valid."),
    "code_invalid": (404, "This is not the code."),
    "method_not_allowed": (405, 'Method "PUT" not allowed.'),
    "not_acceptable": (406, "Could not satisfy the request Accept header."),
    "too_slow": (408, "The body came too slowly."),
    "link_expired": (410, "This link has expired. Ask for a new one."),
    "link_used": (410, "This link was used before. Ask for a new one."),
    "code_expired": (410, "This code has expired. Ask for a new one."),
    "code_spent": (410, "Too many codes were tried. Use the link, or ask for another mail."),
    "too_large": (413, "The body is too large."),
    "unsupported_media_type": (415, "Send application/json."),
    "throttled": (429, "Request was throttled. Expected available in 30 seconds."),
    "server_error": (500, "Something went wrong here. It has been recorded."),
    "unavailable": (503, "The service cannot reach its database. Try again soon."),
}

# What many endpoints share.
BODY: Final = ("invalid", "parse_error", "too_slow", "too_large", "unsupported_media_type")
TOKEN: Final = ("not_authenticated", "authentication_failed")
_ALL: Final = ("not_acceptable", "throttled", "server_error", "unavailable")

# Where something is wrong in an example (a JSON pointer, or a parameter of the query), the code, and what it says.
Error = tuple[str, str, str]
_ADDRESS: Final = ("#/email", "invalid", "Enter a valid email address.")
REQUIRED: Final = ("#/token", "required", "This field is required.")
PASSWORD: Final = ("#/password", "wrong_password", "This is not your password.")

_LETS_IN: Final[dict[type, str]] = {AllowAny: "For anyone.", IsAuthenticated: "For users, with a token."}
_PERIODS: Final = {60: "a minute", 3600: "an hour", 86_400: "a day"}


def problems(*codes: str, error: Error = _ADDRESS) -> dict[tuple[int, str] | int, Any]:
    """Return the responses for some codes and those that any endpoint has, as `extend_schema` takes them.

    `error`: what is wrong in the example of `invalid`.
    """
    place, name, said = error
    shown = {"pointer" if place.startswith("#") else "parameter": place, "code": name, "detail": said}
    examples: dict[int, list[OpenApiExample]] = defaultdict(list)
    for code in (*codes, *_ALL):
        status, detail = PROBLEMS[code]
        errors = [shown] if code == "invalid" else []
        examples[status].append(OpenApiExample(code, _problem(status, code, detail, errors)))
    return {
        (status, CONTENT_TYPE): OpenApiResponse(ProblemSerializer, HTTPStatus(status).phrase, given)
        for status, given in examples.items()
    }


def who(permissions: Iterable[Any]) -> str:
    """Say whom a view lets in; of several permissions the last is the narrowest."""
    said = [getattr(each, "lets_in", _LETS_IN.get(type(each), "")) for each in permissions]
    return said[-1]


def how_often(throttles: Iterable[Any]) -> str:
    """Say how often a view may be asked; nothing where that is not limited."""
    said = [
        f"{most} times {_PERIODS.get(int(seconds), f'in {seconds:g} seconds')} for {whom}"
        for each in throttles
        for limit, whom in {each.limit: each.of, **each.besides}.items()
        for most, seconds in settings.THROTTLES.get(limit, ())
    ]
    return f"At most {', '.join(said)}." if said else ""


def _problem(status: int, code: str, detail: str, errors: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": "/api/v1/...",
        "code": code,
        "request_id": "0b8e62c6-8f0f-4f0e-9d4e-1f6a2c3d4e5f",
        "errors": errors,
    }


class Schema(AutoSchema):
    """drf-spectacular's, with what serializers cannot tell it.

    A body for a DELETE whose `request` is given by media type. In an answer every property is there, but those in the
    serializer's `may_lack`. What a serializer's `composed` says of its fields together is part of its schema, and so is
    the `shortest` text that a field takes, where another than the field finds that out.
    """

    def get_description(self) -> str:  # type: ignore[override]  # the base of its base has another
        """Return the view's own words, who may, and how often."""
        own = super().get_description()
        return "\n\n".join(filter(None, [own, who(self.view.get_permissions()), how_often(self.view.get_throttles())]))

    def _get_request_body(self, direction: str = "request") -> Any:
        if self.method == "DELETE" and isinstance(self.get_request_serializer(), dict):
            self.method = "POST"  # else it looks no further
            try:
                return super()._get_request_body(direction)  # type: ignore[no-untyped-call]  # has none
            finally:
                self.method = "DELETE"
        body = super()._get_request_body(direction)  # type: ignore[no-untyped-call]  # has none
        if body and _is_composed(self.get_request_serializer()):
            body["required"] = True
        return body

    def _get_serializer_field_meta(self, field: Any, direction: str) -> dict[str, Any]:
        meta: dict[str, Any] = super()._get_serializer_field_meta(field, direction)  # type: ignore[no-untyped-call]  # has none
        return meta | ({"minLength": field.shortest} if hasattr(field, "shortest") else {})

    def _map_serializer(self, serializer: Any, direction: str, bypass_extensions: Any = False) -> dict[str, Any]:  # noqa: FBT002  # its signature
        schema: dict[str, Any] = super()._map_serializer(serializer, direction, bypass_extensions)  # type: ignore[no-untyped-call]  # has none
        if isinstance(serializer, PolymorphicProxySerializer):
            return {"anyOf": schema["oneOf"]}  # what fits two of them will do as well
        if direction == "response" and "properties" in schema:
            schema["required"] = sorted({*schema["properties"]} - {*getattr(serializer, "may_lack", ())})
        return schema | getattr(serializer, "composed", {})


def _is_composed(serializer: Any) -> bool:
    return isinstance(serializer, PolymorphicProxySerializer) or hasattr(serializer, "composed")


class KnoxScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How a token is sent."""

    target_class = "api.doors.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """Describe the header."""
        del auto_schema
        return {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "`Authorization: Token <token>`, with the token of `POST auth/tokens`.",
        }
