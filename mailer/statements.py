"""Statements that are run again and again: PostgreSQL plans each of them once a connection."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connection
from django.db.backends.utils import CursorWrapper


@contextmanager
def prepared() -> Iterator[CursorWrapper]:
    """Open a cursor whose statements are prepared once the connection has run them a few times.

    Django's own puts the parameters into the text, so that each run is parsed and planned anew: for a statement of a
    dozen steps over one row, that is most of what it costs. Raises Django's errors. Without DATABASE_PREPARED nothing
    is prepared.
    """
    with connection.cursor() as django, psycopg.Cursor(django.connection) as server:
        wrap: Any = connection.make_debug_cursor if connection.queries_logged else connection.make_cursor
        yield wrap(server)
