"""Errors as RFC 9457 problem details."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, ClassVar

import structlog
from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.template import loader
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions, serializers, status
from rest_framework.response import Response
from rest_framework.views import exception_handler

CONTENT_TYPE = "application/problem+json"
# Seconds after which to try again where the database is away.
RETRY_AFTER = "5"


class ErrorSerializer(serializers.Serializer[Any]):
    """What is wrong with one part of a request."""

    may_lack: ClassVar = {"pointer", "parameter"}

    pointer = serializers.CharField(required=False, help_text="JSON pointer into the body, as a URI fragment.")
    parameter = serializers.CharField(required=False, help_text="Name of the query parameter.")
    code = serializers.CharField()
    detail = serializers.CharField()


class ProblemSerializer(serializers.Serializer[Any]):
    """A problem, RFC 9457. `code` is what programs should look at."""

    type = serializers.CharField(default="about:blank")
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField()
    instance = serializers.CharField(help_text="The path of the request.")
    code = serializers.CharField()
    request_id = serializers.CharField(help_text="What to name when you ask for help; the logs can be searched for it.")
    errors = ErrorSerializer(many=True)  # type: ignore[assignment]  # the base has a property of this name


class Unavailable(exceptions.APIException):
    """Our database is away."""

    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_detail = "The service cannot reach its database. Try again soon."
    default_code = "unavailable"


class Gone(exceptions.APIException):
    """What was asked for existed, and is over."""

    status_code = status.HTTP_410_GONE
    default_code = "gone"


class TooLarge(exceptions.APIException):
    """The body is larger than any that makes sense."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_detail = "The body is too large."
    default_code = "too_large"


def problem(request: HttpRequest, code: int, name: str, detail: str, errors: Any = ()) -> dict[str, Any]:
    """Return a problem as a dictionary."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(code).phrase,
        "status": code,
        "detail": detail,
        "instance": request.path,
        "code": name,
        "request_id": structlog.contextvars.get_contextvars().get("request_id", ""),
        "errors": list(errors),
    }


def handle(exc: Exception, context: dict[str, Any]) -> Response | None:
    """Answer an exception with a problem; None for what is a bug, which Django then answers with a 500."""
    if isinstance(exc, OperationalError | InterfaceError):
        structlog.get_logger(__name__).error("database_lost", error_class=type(exc).__name__)
        exc = Unavailable()
    if isinstance(exc, RequestDataTooBig):
        exc = TooLarge()
    response = exception_handler(exc, context)
    if response is None:
        return None
    request: HttpRequest = context["request"]
    name, detail, errors = _read(exc, response, "parameter" if request.method == "GET" else "pointer")
    if response.status_code == status.HTTP_503_SERVICE_UNAVAILABLE:
        response["Retry-After"] = RETRY_AFTER
    response.data = problem(request, response.status_code, name, detail, errors)
    response.content_type = CONTENT_TYPE
    return response


def _read(exc: Exception, response: Response, place: str) -> tuple[str, str, list[dict[str, str]]]:
    if isinstance(exc, exceptions.ValidationError):
        return "invalid", "The request has errors.", list(_flatten(exc.get_full_details(), place))
    if isinstance(exc, exceptions.UnsupportedMediaType):
        return exc.default_code, "Send application/json.", []  # DRF's text quotes what was sent
    if isinstance(exc, exceptions.APIException):
        return str(exc.get_codes()), str(exc.detail), []
    # Django's own Http404 and PermissionDenied, whose text is not for clients.
    names = {404: ("not_found", "There is no such thing."), 403: ("permission_denied", "You may not do this.")}
    return *names[response.status_code], []


def _flatten(details: Any, place: str, path: str = "") -> Iterator[dict[str, str]]:
    """Name each error of a serializer's tree by where it is."""
    match details:
        case {"message": str(message), "code": str(code)}:
            where = f"#{path}" if place == "pointer" else path[1:]
            yield {place: where, "code": code, "detail": message}
        case dict():
            for name, inner in details.items():
                yield from _flatten(
                    inner, place, path if name == "non_field_errors" and place == "pointer" else f"{path}/{name}"
                )
        case _:
            for inner in details:
                yield from _flatten(inner, place, path)


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponseBase:
    """Answer what Django itself refuses, such as a foreign `Host`: its `handler400`."""
    del exception  # its text quotes the request
    return _page(request, 400, "bad_request", "This service does not answer such a request.")


@csrf_exempt  # nothing is done here that could be forged: a POST hears the same as a GET
def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponseBase:
    """Answer an unknown URL: Django's `handler404`."""
    del exception  # its text quotes the path
    return _page(request, 404, "not_found", "There is nothing at this address.")


def server_error(request: HttpRequest) -> HttpResponseBase:
    """Answer for a bug: Django's `handler500`."""
    return _page(request, 500, "server_error", "Something went wrong here. It has been recorded.")


def _page(request: HttpRequest, code: int, name: str, detail: str) -> HttpResponseBase:
    body = problem(request, code, name, detail)
    if request.path.startswith("/api/") or not request.accepts("text/html"):
        return JsonResponse(body, status=code, content_type=CONTENT_TYPE)
    return HttpResponse(loader.render_to_string("error.html", body), status=code)
