"""The door for each provider, where Django opens it."""

from typing import Any

import structlog
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import Http404, HttpRequest, HttpResponse
from django.http.request import UnreadablePostError
from django.http.response import HttpResponseBase
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt

from webhooks import door
from webhooks.door import Answer, Arrival
from webhooks.providers import WEBHOOKS, Incoming

log = structlog.get_logger(__name__)


@method_decorator(csrf_exempt, name="dispatch")
class WebhookView(View):
    """Take a provider's report, and answer as `webhooks.door` says; 404 for a provider that is not configured.

    Most requests are answered by `webhooks.gathering` before Django has them.
    """

    def dispatch(self, request: HttpRequest, *args: Any, esp: str, **kwargs: Any) -> HttpResponseBase:
        """Know the providers that are configured only, and the methods that each of them uses."""
        if not door.is_open(esp):
            raise Http404
        self.http_method_names = ["post", "options", *(method.lower() for method in WEBHOOKS[esp].answers)]
        return super().dispatch(request, *args, esp=esp, **kwargs)

    def get(self, _request: HttpRequest, esp: str) -> HttpResponse:
        """Tell a provider that it has the right address; it asks before it sends."""
        log.info("webhook_address_asked", provider=esp)
        return HttpResponse(status=200)

    def post(self, request: HttpRequest, esp: str) -> HttpResponse:
        """Verify over the raw body, then store and record in one transaction."""
        try:
            body = _body(request)
        except RequestDataTooBig:
            return _response(door.refused(esp, 413, "too_large"))
        except UnreadablePostError:
            return _response(door.refused(esp, 400, "cut_off"))
        headers = {name.casefold(): value for name, value in request.headers.items()}
        incoming = Incoming(headers, body, f"{settings.PUBLIC_URL}{request.path}")
        request_id = str(structlog.contextvars.get_contextvars().get("request_id", ""))
        [answer] = door.answers(esp, [Arrival(incoming, request.META.get("REMOTE_ADDR", ""), request_id)])
        return _response(answer)


def _response(answer: Answer) -> HttpResponse:
    return HttpResponse(status=answer.status, headers=dict(answer.headers))


def _body(request: HttpRequest) -> bytes:
    """Return the raw body. Raises `RequestDataTooBig`, and `UnreadablePostError` where it broke off.

    A body in chunks names no length, and Django takes it for empty; the server says when it knows the end itself.
    """
    length = request.META.get("CONTENT_LENGTH")
    if length or not request.META.get("wsgi.input_terminated"):
        body = request.body
        if len(body) < int(length or 0):
            raise UnreadablePostError
        return body
    try:
        body = bytes(request.META["wsgi.input"].read(settings.WEBHOOK_MAX_BYTES + 1))
    except OSError as error:
        raise UnreadablePostError from error
    if len(body) > settings.WEBHOOK_MAX_BYTES:
        raise RequestDataTooBig
    return body
