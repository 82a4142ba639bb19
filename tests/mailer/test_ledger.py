"""What recording facts does to events and deliveries, alone and when many do it at once."""

import random

import pytest
from django.db import transaction

from mailer import ledger, parked
from mailer.ledger import Effect
from mailer.models import DeliveryEvent, DeliveryStatus, Message
from mailer.parked import Walk
from mailer.status import Mark, Status, fold
from tests.conftest import in_threads
from tests.mailer.conftest import at, change, delivery_of, enqueue, fact, new_delivery


def get(delivery_id) -> DeliveryStatus:
    return DeliveryStatus.objects.get(pk=delivery_id)


def learn(delivery_id, esp_message_id: str, provider: str = "postmark") -> None:
    """Tell a delivery its provider's id, as the sender's outcome does."""
    ledger.record([fact("sent", delivery_id=delivery_id, provider=provider, esp_message_id=esp_message_id)])


def snapshot() -> list:
    return [*DeliveryStatus.objects.order_by("pk").values(), *DeliveryEvent.objects.order_by("pk").values()]


@pytest.fixture
def message(db) -> Message:
    return Message.objects.create(kind="welcome", dedupe_key="the message")


def test_open_delivery_starts_with_its_first_event(db):
    message = enqueue("Ada@Example.COM")

    delivery = delivery_of(message)
    event = delivery.events.get()
    assert (delivery.status, delivery.recipient, delivery.recipient_canonical) == (
        "queued",
        "Ada@Example.COM",
        "ada@example.com",
    )
    assert (event.event_type, event.status, event.effect, event.source) == ("queued", "queued", "changed", "sender")
    assert (event.occurred_at, event.dedupe_key) == (delivery.status_at, delivery.status_key)


def test_record_nothing(db, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert ledger.record([]) == []


def test_record_tells_what_was_new(db):
    message = enqueue()
    delivery = delivery_of(message)

    (recorded,) = ledger.record([fact("delivered", "k", delivery_id=delivery.pk)])

    assert recorded == ledger.Recorded(
        dedupe_key=ledger.dedupe_key("test", "k"),
        event_type="delivered",
        effect=Effect.CHANGED,
        delivery_id=delivery.pk,
        message_id=message.pk,
        correlation_id=message.correlation_id,
        old_status="queued",
        new_status="delivered",
    )


def test_record_a_duplicate_changes_nothing(db):
    delivery_id = new_delivery()
    facts = [fact("opened", "same", delivery_id=delivery_id), fact("delivered", "other", delivery_id=delivery_id)]
    ledger.record(facts)
    before = snapshot()

    assert ledger.record(facts) == []
    assert ledger.record(facts[::-1]) == []

    assert snapshot() == before


def test_record_a_duplicate_within_one_batch_counts_once(db):
    delivery_id = new_delivery()
    opened = fact("opened", "same", delivery_id=delivery_id)

    recorded = ledger.record([opened, opened, opened])

    assert len(recorded) == 1
    assert get(delivery_id).open_count == 1


def test_record_a_fact_without_a_time_takes_the_databases(db):
    delivery_id = new_delivery()

    ledger.record([fact("delivered", delivery_id=delivery_id, occurred_at=None)])

    delivery = get(delivery_id)
    assert delivery.delivered_at is not None
    assert delivery.delivered_at >= delivery.created_at


@pytest.mark.parametrize(
    ("stands", "comes", "seconds", "effect"),
    [
        ("sent", "delivered", 1, Effect.CHANGED),
        ("delivered", "delivered", 1, Effect.CONFIRMED),
        ("delivered", "delivered", -1, Effect.OUTRANKED),
        ("delivered", "sent", 1, Effect.OUTRANKED),
        ("bounced", "delivered", 1, Effect.OUTRANKED),
        ("bounced", "rejected", 1, Effect.CHANGED),
        ("delivered", "autoresponded", 1, Effect.NONE),
        ("delivered", "opened", 1, Effect.CONFIRMED),
        ("sent", "opened", 1, Effect.CHANGED),
    ],
)
def test_record_keeps_an_events_effect(db, stands, comes, seconds, effect):
    delivery_id = new_delivery()
    ledger.record([fact(stands, delivery_id=delivery_id, occurred_at=at(0))])

    (recorded,) = ledger.record([fact(comes, "it", delivery_id=delivery_id, occurred_at=at(seconds))])

    assert recorded.effect is effect
    assert DeliveryEvent.objects.get(dedupe_key=recorded.dedupe_key).effect == effect


def test_record_judges_only_the_greatest_of_a_batch_to_have_changed_the_status(db):
    delivery_id = new_delivery()

    recorded = ledger.record(
        [fact(event_type, delivery_id=delivery_id) for event_type in ("sent", "complained", "delivered")]
    )

    effects = {each.event_type: each.effect for each in recorded}
    assert effects == {"sent": "outranked", "complained": "changed", "delivered": "outranked"}
    assert {each.new_status for each in recorded} == {"complained"}


def test_record_an_event_for_nobody_parks_it(db):
    (recorded,) = ledger.record([fact("delivered", provider="resend", esp_message_id="nobody's")])

    event = DeliveryEvent.objects.get()
    assert (recorded.effect, recorded.delivery_id, recorded.new_status) == (Effect.PARKED, None, "")
    assert (event.effect, event.delivery) == ("parked", None)


def test_record_finds_a_delivery_by_our_message_id(message):
    delivery_id = new_delivery(message=message)
    change(message, provider="resend")

    ledger.record([fact("delivered", message_id=message.pk, provider="resend", esp_message_id="re-1")])

    delivery = get(delivery_id)
    assert (delivery.status, delivery.provider, delivery.esp_message_id) == ("delivered", "resend", "re-1")


def test_record_finds_the_only_delivery_whatever_the_recipient_is_called(message):
    delivery_id = new_delivery(message=message)

    ledger.record([fact("delivered", message_id=message.pk, recipient_canonical="alias@example.net")])

    assert get(delivery_id).status == "delivered"


@pytest.mark.parametrize("by_our_id", [True, False], ids=["by our id", "by the provider's"])
def test_record_finds_the_recipients_among_several_deliveries(message, by_our_id):
    ada = new_delivery(message=message, recipient="Ada@example.com")
    bob = new_delivery(message=message, recipient="bob@example.com")
    for delivery_id in (ada, bob):
        learn(delivery_id, "shared")
    known = {"provider": "postmark", **({"message_id": message.pk} if by_our_id else {"esp_message_id": "shared"})}

    ledger.record([fact("bounced", recipient_canonical="bob@example.com", **known)])

    assert (get(ada).status, get(bob).status) == ("sent", "bounced")


def test_record_does_not_guess_among_several_deliveries(message):
    deliveries = [new_delivery(message=message, recipient=f"{name}@example.com") for name in ("ada", "bob")]

    (recorded,) = ledger.record([fact("bounced", message_id=message.pk, recipient_canonical="eve@example.com")])

    assert recorded.effect is Effect.PARKED
    assert {get(delivery_id).status for delivery_id in deliveries} == {"queued"}


def test_record_finds_a_delivery_by_the_providers_id(db):
    delivery_id = new_delivery()
    learn(delivery_id, "pm-1")

    ledger.record([fact("delivered", provider="postmark", esp_message_id="pm-1")])

    assert get(delivery_id).status == "delivered"


def test_record_keeps_the_ids_of_two_providers_apart(db):
    delivery_id = new_delivery()
    learn(delivery_id, "1", provider="postmark")

    (recorded,) = ledger.record([fact("delivered", provider="resend", esp_message_id="1")])

    assert recorded.effect is Effect.PARKED
    assert get(delivery_id).status == "sent"


def test_record_does_not_take_an_empty_id_for_one(db):
    new_delivery()  # knows no provider's id

    (recorded,) = ledger.record([fact("delivered", provider="", esp_message_id="")])

    assert recorded.effect is Effect.PARKED


def test_record_does_not_change_the_id_a_delivery_has(db):
    delivery_id = new_delivery()
    learn(delivery_id, "first")

    learn(delivery_id, "second")

    assert get(delivery_id).esp_message_id == "first"


def test_record_keeps_the_earliest_time_and_counts_all(db):
    delivery_id = new_delivery()

    for second in (5, 3, 9):
        ledger.record([fact("opened", delivery_id=delivery_id, occurred_at=at(second))])
        ledger.record([fact("clicked", delivery_id=delivery_id, occurred_at=at(second + 1))])

    delivery = get(delivery_id)
    assert (delivery.open_count, delivery.opened_at) == (3, at(3))
    assert (delivery.click_count, delivery.clicked_at) == (3, at(4))


def test_record_keeps_what_the_provider_said(db):
    delivery_id = new_delivery()

    ledger.record([fact("bounced", delivery_id=delivery_id, reject_reason="bounced", detail="550 5.1.1 no such user")])

    event = DeliveryEvent.objects.get(event_type="bounced")
    assert (event.reject_reason, event.detail) == ("bounced", "550 5.1.1 no such user")


# --- Parked events --------------------------------------------------------------------------------------


def test_match_parked_of_matches_only_those_named(db):
    for identifier in ("one", "two"):
        ledger.record([fact("opened", provider="postmark", esp_message_id=identifier)])
        learn(new_delivery(), identifier)

    (matched,) = ledger.match_parked_of([("postmark", "two"), ("resend", "one"), ("postmark", "")])

    assert get(matched.delivery_id).esp_message_id == "two"
    assert DeliveryEvent.objects.get(delivery=None).esp_message_id == "one"


def test_match_parked_of_nothing(db, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert ledger.match_parked_of([("postmark", "")]) == []


# --- Many at once ---------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_record_overlapping_batches_from_many_threads_equals_the_fold():
    deliveries = [new_delivery() for _ in range(6)]
    words = ["sent", "deferred", "delivered", "opened", "clicked", "bounced", "complained"]
    facts = [
        fact(random.Random(f"{place}{number}").choice(words), delivery_id=delivery_id, occurred_at=at(number % 4))
        for place, delivery_id in enumerate(deliveries)
        for number in range(10)
    ]

    def work(number: int) -> int:
        chance = random.Random(number)
        shuffled = chance.sample(facts, len(facts))
        new = 0
        while shuffled:
            batch = [shuffled.pop() for _ in range(min(len(shuffled), chance.randint(1, 12)))]
            with transaction.atomic():
                new += len(ledger.record(batch))
        return new

    new = in_threads(8, work)

    assert sum(new) == len(facts)
    for delivery_id in deliveries:
        told = [each for each in facts if each.delivery_id == delivery_id]
        decides = fold(Mark(each.status, each.occurred_at, each.dedupe_key) for each in told)
        delivery = get(delivery_id)
        assert (Status(delivery.status), delivery.status_key) == (decides.status, decides.dedupe_key)
        assert delivery.open_count == sum(each.event_type == "opened" for each in told)
        assert delivery.click_count == sum(each.event_type == "clicked" for each in told)


@pytest.mark.django_db(transaction=True)
def test_match_parked_by_many_threads_gives_each_event_once():
    ledger.record([fact("opened", provider="postmark", esp_message_id=f"pm-{number % 5}") for number in range(50)])
    deliveries = [new_delivery() for _ in range(5)]

    def work(number: int) -> int:
        if number < 5:
            learn(deliveries[number], f"pm-{number}")
        return len(ledger.match_parked_of([("postmark", f"pm-{place}") for place in range(5)])) + len(
            parked.match(walk=Walk())
        )

    matched = sum(in_threads(8, work)) + len(parked.match())

    assert matched == 50
    assert [get(delivery_id).open_count for delivery_id in deliveries] == [10] * 5
