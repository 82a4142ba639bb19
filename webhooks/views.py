"""One door for every provider: guard, verify, store, record, 200."""

from collections.abc import Sequence
from typing import Any

import structlog
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.db import Error as DatabaseError
from django.http import Http404, HttpRequest, HttpResponse
from django.http.request import UnreadablePostError
from django.http.response import HttpResponseBase
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt

from webhooks import inbox, networks, refusals
from webhooks.exceptions import Rejected, TooManyEvents, Unavailable
from webhooks.providers import WEBHOOKS, Incoming

log = structlog.get_logger(__name__)


@method_decorator(csrf_exempt, name="dispatch")
class WebhookView(View):
    """Take a provider's report.

    200 only once it is stored, also where it cannot be read or is about a message we do not know; 401 for a bad
    signature, a network that is not the provider's (403 would make Postmark stop for good), or a name that came with
    another body before (406 would make Mailgun stop); 413 and 415 for what
    is never read; 503, or what else has it come again, when the fault is ours; 404 for a provider that is not
    configured.
    """

    def dispatch(self, request: HttpRequest, *args: Any, esp: str, **kwargs: Any) -> HttpResponseBase:
        """Know the providers that are configured only, and the methods that each of them uses."""
        if esp not in WEBHOOKS or not settings.WEBHOOK_SECRETS.get(esp):
            raise Http404
        self.http_method_names = ["post", "options", *(method.lower() for method in WEBHOOKS[esp].answers)]
        return super().dispatch(request, *args, esp=esp, **kwargs)

    def get(self, _request: HttpRequest, esp: str) -> HttpResponse:
        """Tell a provider that it has the right address; it asks before it sends."""
        log.info("webhook_address_asked", provider=esp)
        return HttpResponse(status=200)

    def post(self, request: HttpRequest, esp: str) -> HttpResponse:
        """Verify over the raw body, then store and record in one transaction."""
        if not networks.holds(settings.WEBHOOK_NETWORKS.get(esp), request.META.get("REMOTE_ADDR")):
            return _refused(esp, 401, "from_elsewhere")
        secrets = settings.WEBHOOK_SECRETS[esp]
        if request.headers.get("Content-Encoding", "identity").casefold() != "identity":
            return _refused(esp, 415, "encoded_body")
        try:
            body = _body(request)
            WEBHOOKS[esp].bound(body)
        except RequestDataTooBig:
            return _refused(esp, 413, "too_large")
        except UnreadablePostError:
            return _refused(esp, 400, "cut_off")
        headers = {name.casefold(): value for name, value in request.headers.items()}
        return _taken(esp, Incoming(headers, body, f"{settings.PUBLIC_URL}{request.path}"), secrets)


def _taken(esp: str, incoming: Incoming, secrets: Sequence[str]) -> HttpResponse:
    try:
        proof = WEBHOOKS[esp].verify(incoming, secrets)
        inbox.process(esp, incoming, proof)
    except Rejected as error:
        return _refused(esp, 401, str(error))
    except TooManyEvents:
        return _refused(esp, 413, "too_many_events")
    except Unavailable as error:
        log.error("receipt_not_verified", provider=esp, reason=str(error))  # noqa: TRY400  # it says all there is
        return _later(esp)
    except DatabaseError as error:
        # The text of a database error may quote what was written.
        log.error("receipt_not_stored", provider=esp, error_class=type(error).__name__)  # noqa: TRY400
        return _later(esp)
    return HttpResponse(status=200)


def _later(esp: str) -> HttpResponse:
    return HttpResponse(status=WEBHOOKS[esp].again, headers={"Retry-After": "30"})


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


def _refused(esp: str, status: int, reason: str) -> HttpResponse:
    log.warning("receipt_rejected", provider=esp, code=status, reason=reason)
    refusals.count(esp, status, reason)
    headers = {"WWW-Authenticate": 'Basic realm="webhooks"'} if status == 401 else {}  # noqa: PLR2004  # RFC 9110 11.6.1
    return HttpResponse(status=status, headers=headers)
