"""Statements that are run again and again: PostgreSQL plans each of them once a connection."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connection


@contextmanager
def prepared() -> Iterator[psycopg.Cursor[Any]]:
    """Open a cursor whose statements are prepared once the connection has run them a few times.

    Django's own puts the parameters into the text, so that each run is parsed and planned anew: for a statement of a
    dozen steps over one row, that is most of what it costs. Raises Django's errors. Without DATABASE_PREPARED nothing
    is prepared.
    """
    with connection.cursor() as django, connection.wrap_database_errors:
        connection.validate_no_broken_transaction()
        with psycopg.Cursor(django.connection) as cursor:
            yield cursor
