"""Every (status, event type) pair, in the pure fold and in SQL; and both held equal by random histories."""

import itertools
from collections import Counter
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailer import ledger
from mailer.ledger import Fact, Source
from mailer.models import DeliveryEvent, DeliveryStatus
from mailer.status import CHOICES, EVENT_STATUS, NO_RANK, RANKS, Mark, Status, fold
from tests.mailer.conftest import NOON, at, fact, new_delivery, standing

# The design's table, from the least to the greatest; those in one row weigh the same.
ORDER = [
    ["scheduled"],
    ["queued"],
    ["unknown"],
    ["sent"],
    ["deferred"],
    ["soft_bounced"],
    ["failed", "expired", "cancelled"],
    ["delivered"],
    ["bounced", "rejected", "suppressed"],
    ["complained"],
]
PLACE = {status: place for place, row in enumerate(ORDER) for status in row}
# What an event says; None where it says nothing about the status.
SAYS = {
    "scheduled": "scheduled",
    "queued": "queued",
    "ambiguous": "unknown",
    "retried": None,
    "sent": "sent",
    "deferred": "deferred",
    "failed": "failed",
    "expired": "expired",
    "cancelled": "cancelled",
    "suppressed": "suppressed",
    "rejected": "rejected",
    "delivered": "delivered",
    "bounced": "bounced",
    "complained": "complained",
    "opened": "delivered",
    "clicked": "delivered",
    "unsubscribed": "delivered",
    "subscribed": None,
    "autoresponded": None,
    "unknown": None,
}
PAIRS = list(itertools.product(PLACE, SAYS))


def expected(status: str, event_type: str, *, later: bool) -> str:
    says = SAYS[event_type]
    if says is None or PLACE[says] < PLACE[status]:
        return status
    return says if PLACE[says] > PLACE[status] or later else status


def test_every_status_and_every_event_has_its_place():
    assert set(Status) == set(PLACE) == {value for value, _ in CHOICES}
    assert set(EVENT_STATUS) == set(SAYS)
    assert set(RANKS) == set(Status)


@pytest.mark.parametrize("later", [True, False], ids=["later", "earlier"])
@pytest.mark.parametrize(("status", "event_type"), PAIRS)
def test_fold_of_a_status_and_an_event(status, event_type, later):
    stands = Mark(Status(status), at(0), "a")
    comes = Mark(EVENT_STATUS[event_type], at(1 if later else -1), "b")

    decides = fold([stands, comes])

    assert decides is not None
    assert decides.status == expected(status, event_type, later=later)


@pytest.mark.parametrize("later", [True, False], ids=["later", "earlier"])
@pytest.mark.parametrize(("status", "event_type"), PAIRS)
def test_record_an_event_at_a_status(db, status, event_type, later):
    delivery_id = new_delivery("scheduled")
    DeliveryStatus.objects.filter(pk=delivery_id).update(status_at=at(-60))
    ledger.record([standing(Status(status), delivery_id=delivery_id, occurred_at=at(0))])

    ledger.record([fact(event_type, delivery_id=delivery_id, occurred_at=at(1 if later else -1))])

    assert DeliveryStatus.objects.get(pk=delivery_id).status == expected(status, event_type, later=later)


def test_fold_of_nothing_is_nothing():
    assert fold([]) is None
    assert fold([Mark(None, NOON, "a")]) is None


def test_rank_of_a_mark_without_a_status_is_the_lowest():
    assert Mark(None, NOON, "a").rank == NO_RANK < min(RANKS.values())


def test_fold_of_equal_times_is_decided_by_the_key():
    marks = [Mark(Status.BOUNCED, NOON, "a"), Mark(Status.REJECTED, NOON, "b")]

    assert fold(marks) == fold(reversed(marks)) == marks[1]


# --- Random histories -----------------------------------------------------------------------------------

# Few times, so that many tie. Keys in upper and lower case, which a locale orders otherwise than Python.
events = st.builds(
    lambda event_type, status, second, key: (event_type, status or EVENT_STATUS[event_type], at(second), key),
    st.sampled_from(sorted(EVENT_STATUS)),
    st.sampled_from([None, None, None, Status.SOFT_BOUNCED]),
    st.integers(0, 3),
    st.text("AaBb_0", min_size=1, max_size=3),
)
Event = tuple[str, Status | None, datetime, str]


def one_of_each_key(drawn: list[Event]) -> list[Event]:
    """A key names a fact: two events with one key are one event, told twice."""
    return list({event[3]: event for event in drawn}.values())


class History:
    """Some deliveries, recorded in batches, and what the pure fold says should have become of them."""

    def __init__(self, deliveries: int) -> None:
        self.run = uuid4().hex
        self.ids = [new_delivery() for _ in range(deliveries)]
        self.first = {row.pk: row for row in DeliveryStatus.objects.filter(pk__in=self.ids)}

    def fact(self, place: int, event: Event) -> Fact:
        event_type, status, occurred_at, key = event
        return Fact(
            event_type=event_type,
            status=status,
            occurred_at=occurred_at,
            dedupe_key=f"{self.run}{place}{key}",
            source=Source.WEBHOOK,
            delivery_id=self.ids[place],
        )

    def check(self, facts: list[Fact]) -> None:
        rows = {row.pk: row for row in DeliveryStatus.objects.filter(pk__in=self.ids)}
        for delivery_id in self.ids:
            told = {fact.dedupe_key: fact for fact in facts if fact.delivery_id == delivery_id}.values()
            assert as_recorded(rows[delivery_id]) == self.as_folded(delivery_id, list(told))

    def as_folded(self, delivery_id: UUID, facts: list[Fact]) -> dict[str, object]:
        first = self.first[delivery_id]
        marks = [Mark(fact.status, fact.occurred_at, fact.dedupe_key) for fact in facts]
        decides = fold([Mark(Status(first.status), first.status_at, first.status_key), *marks])
        assert decides is not None
        count = Counter(fact.event_type for fact in facts)
        return {
            "decided by": (decides.status, decides.rank, decides.occurred_at, decides.dedupe_key),
            "counted": (count["opened"], count["clicked"]),
            "first": {
                event_type: min((fact.occurred_at for fact in facts if fact.event_type == event_type), default=None)
                for event_type in ("sent", "delivered", "opened", "clicked", "unsubscribed")
            },
            "events": sorted([first.status_key, *(fact.dedupe_key for fact in facts)]),
        }


def as_recorded(row: DeliveryStatus) -> dict[str, object]:
    return {
        "decided by": (row.status, row.status_rank, row.status_at, row.status_key),
        "counted": (row.open_count, row.click_count),
        "first": {
            "sent": row.sent_at,
            "delivered": row.delivered_at,
            "opened": row.opened_at,
            "clicked": row.clicked_at,
            "unsubscribed": row.unsubscribed_at,
        },
        "events": sorted(DeliveryEvent.objects.filter(delivery=row).values_list("dedupe_key", flat=True)),
    }


LONG = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@settings(max_examples=60, **LONG)
@given(drawn=st.lists(events, min_size=1, max_size=4))
def test_record_equals_the_fold_in_every_order(db, drawn):
    drawn = one_of_each_key(drawn)
    for order in itertools.permutations(drawn):
        history = History(1)
        facts = [history.fact(0, event) for event in order]

        for each in facts:
            ledger.record([each])

        history.check(facts)


@settings(max_examples=300, **LONG)
@given(data=st.data())
def test_record_equals_the_fold_in_batches_with_duplicates(db, data):
    history = History(3)
    told = {
        place: one_of_each_key(data.draw(st.lists(events, max_size=6), label=f"of delivery {place}"))
        for place in range(3)
    }
    facts = [history.fact(place, event) for place, drawn in told.items() for event in drawn]
    again = data.draw(st.lists(st.sampled_from(facts), max_size=6), label="told again") if facts else []
    order = data.draw(st.permutations(facts + again), label="order")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(order)), max_size=4), label="cuts"))

    for start, end in itertools.pairwise([0, *cuts, len(order)]):
        ledger.record(order[start:end])

    history.check(facts)


def test_a_later_event_of_the_same_rank_wins_whatever_comes_first(db):
    for order in itertools.permutations([("bounced", 0), ("rejected", 1), ("suppressed", 2)]):
        delivery_id = new_delivery()

        for event_type, second in order:
            ledger.record([fact(event_type, delivery_id=delivery_id, occurred_at=NOON + timedelta(seconds=second))])

        assert DeliveryStatus.objects.get(pk=delivery_id).status == "suppressed"
