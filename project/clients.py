"""Who asks: the client's address, as the proxies in front have written it down."""

from collections.abc import Callable
from typing import Final

from django.conf import settings
from django.core.exceptions import MiddlewareNotUsed
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from users import audit
from users.networks import read_address

_HEADER: Final = "HTTP_X_FORWARDED_FOR"


def client_of(peer: str, forwarded: str) -> str:
    """Return the client's address, from the peer's and the X-Forwarded-For header.

    Each of the NUM_PROXIES that are ours appends to the header whom it has the request from. So the client is that
    many places from the right; what stands left of it anybody can write. A request with fewer places, or with no
    address in this one, did not come through them, and is its peer's.
    """
    places = forwarded.split(",")
    if settings.NUM_PROXIES and len(places) >= settings.NUM_PROXIES:
        client = read_address(places[-settings.NUM_PROXIES])
        return peer if client is None else str(client)
    return peer


class ClientAddressMiddleware:
    """Put the client's address into REMOTE_ADDR where there are proxies in front."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        if not settings.NUM_PROXIES:
            raise MiddlewareNotUsed
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer the request, as one of its client's."""
        request.META["REMOTE_ADDR"] = client_of(request.META.get("REMOTE_ADDR", ""), request.META.get(_HEADER, ""))
        return self._get_response(request)


class OriginMiddleware:
    """Let what is noted in the audit tell which request it came by."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer the request."""
        with audit.during(request):
            return self._get_response(request)
