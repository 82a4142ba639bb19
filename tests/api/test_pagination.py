"""Lists by cursor: newest first, nothing lost, nothing twice, whatever happens meanwhile."""

import base64
import itertools
from uuid import UUID

import pytest

from mailer.models import DeliveryStatus
from tests.api.conftest import deliver, places, problem_of

ALL = "/api/v1/deliveries"
SOME = UUID("0190a6c4-7b3e-7c1a-9d3b-0f1e2d3c4b5a")


def cursor(text):
    return base64.b64encode(text.encode()).decode()


def page(client, path, query=None):
    response = client.get(path, query)
    assert response.status_code == 200, response.content
    return response.json()


def ids(answer):
    return [UUID(row["id"]) for row in answer["results"]]


def walk(client, path, towards="next", between=lambda: None):
    """Return the ids of each page from here to the end."""
    pages = []
    while path:
        answer = page(client, path)
        pages.append(ids(answer))
        path = answer[towards]
        between()
    return pages


@pytest.fixture
def rows(db):
    return [deliver().pk for _ in range(60)][::-1]


class TestWalk:
    def test_sees_each_row_once_newest_first_while_others_are_added(self, operator, rows):
        pages = walk(operator, f"{ALL}?page_size=7", between=deliver)

        assert [*itertools.chain(*pages)] == rows
        assert [len(one) for one in pages] == [7] * 8 + [4]

    def test_back_again_sees_the_same_rows_and_then_the_new_ones(self, operator, rows):
        path = f"{ALL}?page_size=7"
        while following := page(operator, path)["next"]:
            path = following
        new = [deliver().pk for _ in range(3)][::-1]

        pages = walk(operator, path, "previous")

        assert [*itertools.chain(*pages[::-1])] == new + rows

    def test_goes_on_where_the_rows_at_its_edge_are_gone(self, operator, rows):
        following = page(operator, ALL, {"page_size": 10})["next"]
        DeliveryStatus.objects.filter(pk__in=rows[8:12]).delete()

        assert ids(page(operator, following)) == rows[12:22]

    def test_ends_well_where_all_that_followed_is_gone(self, operator, rows):
        following = page(operator, ALL, {"page_size": 10})["next"]
        DeliveryStatus.objects.filter(pk__in=rows[10:]).delete()

        last = page(operator, following)

        assert (last["results"], last["next"]) == ([], None)

    def test_keeps_the_filters(self, operator, rows):
        DeliveryStatus.objects.filter(pk__in=rows[::2]).update(status="bounced")

        pages = walk(operator, f"{ALL}?page_size=8&status=bounced&status=complained")

        assert [*itertools.chain(*pages)] == rows[::2]

    def test_of_nothing_is_one_empty_page(self, operator):
        assert page(operator, ALL) == {"next": None, "previous": None, "results": []}


class TestPageSize:
    @pytest.mark.parametrize(("query", "size"), [({}, 25), ({"page_size": 1}, 1), ({"page_size": 100}, 60)])
    def test_within_bounds(self, operator, rows, query, size):
        assert ids(page(operator, ALL, query)) == rows[:size]

    @pytest.mark.parametrize(
        ("size", "code"),
        [
            ("0", "min_value"),
            ("-1", "min_value"),
            ("101", "max_value"),
            ("1" * 999, "max_value"),
            ("1" * 1001, "max_string_length"),
            ("", "invalid"),
            ("all", "invalid"),
            ("1.5", "invalid"),
            ("\x00", "invalid"),
        ],
        ids=lambda value: value[:20],
    )
    def test_out_of_bounds_is_refused(self, operator, size, code):
        problem = problem_of(operator.get(ALL, {"page_size": size}), 400, "invalid")

        assert places(problem) == [("page_size", code)]


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "garbage",
        "ü",
        "\x00",
        "====",
        cursor("nonsense"),
        cursor("p=nonsense"),
        cursor("p=1"),
        cursor("p=\x00"),
        cursor("p='; DROP TABLE mailer_deliverystatus; --"),
        cursor("r=1"),
        cursor(f"r=x&p={SOME}"),
        cursor(f"o=1&p={SOME}"),
        cursor(f"o=999999999999&p={SOME}"),
        cursor(f"o=-1&p={SOME}"),
        cursor("o=5"),
        base64.b64encode(b"\xff\xfe\xfd").decode(),
        "A" * 5000,
    ],
    ids=lambda value: ascii(value)[:40],
)
@pytest.mark.parametrize("path", [ALL, "/api/v1/accounts/me/deliveries"])
def test_a_cursor_that_we_did_not_make_is_refused(operator, path, broken):
    problem = problem_of(operator.get(path, {"cursor": broken}), 400, "invalid")

    assert places(problem) == [("cursor", "invalid")]
