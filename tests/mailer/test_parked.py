"""Which parked events are looked at in a round, and that none is forgotten."""

from datetime import timedelta

import pytest
from django.db.models import F
from django.db.models.functions import Now

from mailer import ledger, parked
from mailer.ledger import Effect
from mailer.models import DeliveryEvent, DeliveryStatus
from mailer.parked import Walk
from tests.mailer.conftest import enqueue, fact, new_delivery

pytestmark = pytest.mark.django_db


def park(*identifiers, hours=0.0):
    """Park an event each about mails with these ids of their provider, so many hours ago."""
    recorded = ledger.record(
        [fact("opened", provider="postmark", esp_message_id=identifier) for identifier in identifiers]
    )
    keys = [event.dedupe_key for event in recorded]
    DeliveryEvent.objects.filter(dedupe_key__in=keys).update(recorded_at=Now() - timedelta(hours=hours))


def learn(esp_message_id):
    """Make a delivery that knows its provider's id, as another event of it may have told."""
    delivery = new_delivery()
    DeliveryStatus.objects.filter(pk=delivery).update(provider="postmark", esp_message_id=esp_message_id)
    return delivery


def test_deliveries_that_have_learned_their_id_get_their_events():
    park("pm-1")
    delivery = learn("pm-1")

    (matched,) = parked.match()

    row = DeliveryStatus.objects.get(pk=delivery)
    assert (matched.delivery_id, matched.effect) == (delivery, Effect.CHANGED)
    assert (row.status, row.open_count) == ("delivered", 1)
    assert row.events.filter(event_type="opened").exists()


def test_again_changes_nothing():
    park("pm-1")
    delivery = learn("pm-1")
    parked.match()

    assert parked.match() == []

    assert DeliveryStatus.objects.get(pk=delivery).open_count == 1


def test_what_is_still_nobodys_stays_parked():
    park("nobody's", "")
    learn("pm-1")

    assert parked.match() == []

    assert DeliveryEvent.objects.filter(delivery=None).count() == 2


def test_a_round_looks_at_the_newest_and_at_the_next_ones(django_assert_num_queries):
    park(*(f"strange-{number}" for number in range(50)), hours=3)
    park("old", hours=2)
    park(*(f"stranger-{number}" for number in range(50)), hours=1)
    park("new")
    learn("new"), learn("old")
    walk = Walk()
    walk.go(walk_to_the_end := 102)

    with django_assert_num_queries(4):
        (first,) = parked.match(limit=10, walk=walk)
    rounds = 1
    while not (matched := parked.match(limit=10, walk=walk)):
        rounds += 1

    assert DeliveryEvent.objects.get(dedupe_key=first.dedupe_key).esp_message_id == "new"
    assert DeliveryEvent.objects.get(dedupe_key=matched[0].dedupe_key).esp_message_id == "old"
    assert rounds <= walk_to_the_end / 5 + 1


def test_no_round_looks_at_more_than_its_limit():
    park(*(f"pm-{number}" for number in range(30)))
    for number in range(30):
        learn(f"pm-{number}")
    walk = Walk()

    counts = [len(parked.match(limit=4, walk=walk)) for _ in range(20)]

    assert max(counts) <= 4
    assert sum(counts) == 30


def test_walk_finds_each_of_many_that_were_recorded_at_once():
    park(*(f"pm-{number}" for number in range(100)), hours=1)
    walk, ids = Walk(), {*DeliveryEvent.objects.values_list("pk", flat=True)}

    seen = [walk.go(7) for _ in range(30)]

    assert {len(each) for each in seen} == {7}
    assert {identifier for each in seen for identifier in each} == ids


def test_walk_begins_anywhere_and_goes_round():
    for hours in range(1, 24):
        park(f"pm-{hours}", hours=hours)
    oldest_first = list(DeliveryEvent.objects.order_by("recorded_at").values_list("pk", flat=True))

    walks = [Walk().go(23) for _ in range(20)]

    assert {frozenset(each) for each in walks} == {frozenset(oldest_first)}
    assert len({each[0] for each in walks}) > 1


def test_walk_through_nothing():
    assert Walk().go(10) == []
    assert parked.match() == []


def test_strangers_are_given_up_after_a_day():
    park("theirs", hours=25)
    learn("theirs")

    assert parked.match() == []


def test_events_of_deliveries_are_left_alone():
    delivery = new_delivery()
    ledger.record([fact("opened", provider="postmark", delivery_id=delivery, esp_message_id="pm-1")])
    enqueue()
    DeliveryEvent.objects.update(recorded_at=F("recorded_at") - timedelta(hours=1))

    assert Walk().go(10) == []
