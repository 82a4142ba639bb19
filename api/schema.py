"""What the OpenAPI page says that no serializer does: the problems of an endpoint, with an example each."""

from http import HTTPStatus
from typing import Any, Final

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import OpenApiExample, OpenApiResponse

from api.problems import ProblemSerializer

# Code -> what it means, for the example of each status.
_EXAMPLES: Final[dict[int, tuple[str, str, list[dict[str, str]]]]] = {
    400: (
        "invalid",
        "The request has errors.",
        [{"pointer": "#/email", "code": "invalid", "detail": "Enter a valid email address."}],
    ),
    401: ("not_authenticated", "Authentication credentials were not provided.", []),
    403: ("permission_denied", "You do not have permission to perform this action.", []),
    404: ("not_found", "There is no such thing.", []),
    410: ("link_expired", "This link has expired. Ask for a new one.", []),
    503: ("unavailable", "The service cannot reach its database. Try again soon.", []),
}


def problems(*statuses: int, **codes: str) -> dict[tuple[int, str] | int, Any]:
    """Return the responses for some statuses, as `extend_schema` takes them.

    `codes` names another problem code for a status: `problems(401, _401="invalid_credentials")`.
    """
    return {
        (status, "application/problem+json"): _response(status, codes.get(f"_{status}")) for status in (*statuses, 503)
    }


def _response(status: int, code: str | None) -> OpenApiResponse:
    name, detail, errors = _EXAMPLES[status]
    phrase = HTTPStatus(status).phrase
    example = {
        "type": "about:blank",
        "title": phrase,
        "status": status,
        "detail": detail,
        "instance": "/api/v1/...",
        "code": code or name,
        "request_id": "0b8e62c6-8f0f-4f0e-9d4e-1f6a2c3d4e5f",
        "errors": errors,
    }
    return OpenApiResponse(ProblemSerializer, phrase, [OpenApiExample(code or name, example)])


class KnoxScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How a token is sent."""

    target_class = "knox.auth.TokenAuthentication"
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
