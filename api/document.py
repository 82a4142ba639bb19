"""The OpenAPI document: what is added to what the views say of themselves, and the view that hands it out."""

from collections.abc import Iterator
from threading import Lock
from typing import Any, Final

from django.conf import settings
from django.http import HttpResponse
from django.utils import translation
from django.utils.encoding import force_bytes
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

Operation = dict[str, Any]

_RETRY_AFTER: Final = {
    "description": "Seconds after which to try again.",
    "required": True,
    "schema": {"type": "integer", "minimum": 1},
}
# What follows from an answer: (operation, status) -> name of the link -> operation, parameters, what it is for.
LINKS: Final[dict[tuple[str, str], dict[str, tuple[str, dict[str, str], str]]]] = {
    ("register", "202"): {
        "watch": ("registration", {"id": "$response.body#/registration_id"}, "With `status_token` as Bearer."),
    },
    ("create_token", "201"): {
        "revoke": ("revoke_token", {"token_key": "$response.body#/id"}, "Log out."),
    },
    ("change_password", "200"): {
        "revoke": ("revoke_token", {"token_key": "$response.body#/id"}, "Log out."),
    },
    ("list_tokens", "200"): {
        "revoke": ("revoke_token", {"token_key": "$response.body#/0/id"}, "Revoke the newest."),
    },
    ("change_email", "202"): {
        "cancel": ("cancel_email_change", {}, "Keep the present address."),
    },
    ("list_own_deliveries", "200"): {
        "look": ("own_delivery", {"id": "$response.body#/results/0/id"}, "What happened to it."),
    },
    ("list_deliveries", "200"): {
        "look": ("delivery", {"id": "$response.body#/results/0/id"}, "What happened to it, and what was tried."),
    },
    ("delivery", "200"): {
        "receipt": ("webhook_receipt", {"id": "$response.body#/events/0/receipt_id"}, "What told of an event."),
    },
    ("list_webhook_receipts", "200"): {
        "look": ("webhook_receipt", {"id": "$response.body#/results/0/id"}, "What was posted."),
        "replay": ("replay_webhook_receipt", {"id": "$response.body#/results/0/id"}, "Read it again."),
    },
    ("webhook_receipt", "200"): {
        "replay": ("replay_webhook_receipt", {"id": "$request.path.id"}, "Read it again."),
    },
}


def complete(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Add what drf-spectacular knows no place for: one of its hooks."""
    for path, operation in _operations(result):
        # Of a view that looks at no credentials it says nothing, or that none are needed for one of the ways.
        operation["security"] = [way for way in operation.get("security", []) if way]
        for status, response in operation["responses"].items():
            if status in {"429", "503"}:
                response["headers"] = {"Retry-After": _RETRY_AFTER}
            if links := LINKS.get((operation["operationId"], status)):
                response["links"] = {name: _link(*link) for name, link in links.items()}
            for example in _examples(response):
                if "instance" in example:
                    example["instance"] = path.replace("{id}", "0190a6c4-7b3e-7c1a-9d3b-0f1e2d3c4b5a")
    return result


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, Operation]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _examples(response: dict[str, Any]) -> Iterator[Any]:
    for content in response.get("content", {}).values():
        for example in content.get("examples", {}).values():
            yield example["value"]


def _link(operation: str, parameters: dict[str, str], description: str) -> dict[str, Any]:
    return {"operationId": operation, "parameters": parameters, "description": description}


@extend_schema(exclude=True)
class DocumentView(SpectacularAPIView):
    """The document as YAML or JSON, the same for anyone, written once by each process.

    To write it takes 0.4 s of CPU the first time, and 0.1 s later; and drf-spectacular fails where two want it for the
    first time at once.
    """

    _written: Final[dict[str, bytes]] = {}
    _lock: Final = Lock()

    def get(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponse:
        """Hand it out."""
        del args, kwargs
        renderer: BaseRenderer = request.accepted_renderer
        with self._lock:
            if renderer.media_type not in self._written:
                self._written[renderer.media_type] = self._write(renderer)
        return HttpResponse(self._written[renderer.media_type], content_type=renderer.media_type)

    def _write(self, renderer: BaseRenderer) -> bytes:
        with translation.override(settings.LANGUAGE_CODE):
            document = SchemaGenerator().get_schema(public=True)  # type: ignore[no-untyped-call]  # has none
            return force_bytes(renderer.render(document, renderer.media_type, {}))
