"""Statements that are planned once a connection."""

import pytest
from django.db import DataError, connection, transaction
from django.db.transaction import TransactionManagementError

from mailer import statements

pytestmark = pytest.mark.django_db
PLANNED = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE %s"


def run(times: int, statement: str = "SELECT %s::int + 41") -> list[int]:
    found = []
    for _ in range(times):
        with statements.prepared() as cursor:
            cursor.execute(statement, [1])
            found.append(cursor.fetchone()[0])
    return found


def planned(text: str = "%+ 41") -> int:
    with connection.cursor() as cursor:
        cursor.execute(PLANNED, [text])
        return cursor.fetchone()[0]


@pytest.fixture
def fresh():
    """Have a connection that has prepared nothing, before and after."""
    connection.connection.prepare_threshold = 5
    yield connection.connection
    connection.connection.prepare_threshold = 5


def test_what_was_run_a_few_times_is_planned_no_more(fresh):
    assert run(8) == [42] * 8
    assert planned() == 1


def test_nothing_is_prepared_without_the_setting(fresh):
    fresh.prepare_threshold = None

    assert run(8, "SELECT %s::int + 42") == [43] * 8

    assert planned("%+ 42") == 0


def test_errors_are_django_s(fresh):
    with pytest.raises(DataError), transaction.atomic():
        run(1, "SELECT 1 / (%s::int - 1)")


def test_nothing_is_run_in_a_transaction_that_has_failed(fresh):
    with transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(TransactionManagementError):
            run(1)


def test_what_watches_statements_sees_them(fresh, django_assert_num_queries):
    with django_assert_num_queries(3):
        run(3)
