"""Lists by cursor, newest first."""

from typing import Any, Final
from uuid import UUID

from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request
from rest_framework.serializers import IntegerField
from rest_framework.views import APIView

# An address such as a list names.
_PAGE: Final = (
    "https://accounts.example.com/api/v1/deliveries?cursor=cD0wMTkwYTZjNC03YjNlLTdjMWEtOWQzYi0wZjFlMmQzYzRiNWE"
)


class NewestFirst(CursorPagination):
    """Pages of a list, newest first: ids are UUIDs of version 7, which count up with time."""

    ordering = "-id"
    page_size = 25
    page_size_query_param = "page_size"
    max_page_size = 100

    def get_page_size(self, request: Request) -> int:
        """Read the page's size. Raises `ValidationError` for one out of bounds."""
        name = self.page_size_query_param
        try:
            size: int = IntegerField(min_value=1, max_value=self.max_page_size).run_validation(
                request.query_params.get(name, self.page_size)
            )
        except ValidationError as error:
            raise ValidationError({name: error.detail}) from None
        return size

    def decode_cursor(self, request: Request) -> Cursor | None:
        """Read the cursor. Raises `ValidationError` for one that we did not make."""
        wrong = ValidationError({self.cursor_query_param: [self.invalid_cursor_message]})
        try:
            cursor = super().decode_cursor(request)
        except NotFound:
            raise wrong from None
        if cursor is not None and not _is_ours(cursor):
            raise wrong
        return cursor

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Describe a page: both addresses are always there."""
        address = {"type": "string", "format": "uri", "nullable": True, "example": _PAGE}
        return {
            "type": "object",
            "required": ["next", "previous", "results"],
            "properties": {
                "next": {**address, "description": "Of the page with what is older; null on the last one."},
                "previous": {**address, "description": "Of the page with what is newer; null where there is none."},
                "results": schema,
            },
        }

    def get_schema_operation_parameters(self, view: APIView) -> list[dict[str, Any]]:
        """Describe both parameters."""
        cursor, size = super().get_schema_operation_parameters(view)
        cursor["description"] = "Take it, opaque, from `next` or `previous`."
        bounds = {"minimum": 1, "maximum": self.max_page_size, "default": self.page_size}
        return [cursor, {**size, "schema": {**size["schema"], **bounds}}]


def _is_ours(cursor: Cursor) -> bool:
    """Tell whether it is an id and nothing else: ours need no offset, since no two rows have one id."""
    try:
        UUID(str(cursor.position))
    except ValueError:
        return False
    return cursor.offset == 0
