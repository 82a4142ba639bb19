"""Who asks: the client's address, as the proxies in front have written it down."""

from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from django.conf import settings
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from users import audit

_HEADER: Final = "HTTP_X_FORWARDED_FOR"


class ClientAddressMiddleware:
    """Put the client's address into REMOTE_ADDR where there are proxies in front.

    Each of the NUM_PROXIES that are ours appends to X-Forwarded-For whom it has the request from. So the client is that
    many places from the right; what stands left of it anybody can write. A request with fewer places, or with no
    address in this one, did not come through them, and keeps its peer's.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        if not settings.NUM_PROXIES:
            raise MiddlewareNotUsed
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer the request, as one of its client's."""
        places = request.META.get(_HEADER, "").split(",")
        if len(places) >= settings.NUM_PROXIES and (client := _address(places[-settings.NUM_PROXIES])):
            request.META["REMOTE_ADDR"] = client
        return self._get_response(request)


class OriginMiddleware:
    """Let what is noted in the audit tell which request it came by."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer the request."""
        with audit.during(request):
            return self._get_response(request)


def _address(place: str) -> str:
    """Return the address in one place of the header, spelled one way; empty where there is none."""
    try:
        return str(ip_address(place.strip()))
    except ValueError:
        return ""
