"""What is forgotten by age of what providers reported, and what that must not change."""

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from mailer import ledger, sweeping
from mailer import retention as mail_retention
from mailer.models import DeliveryEvent, DeliveryStatus
from tests.conftest import in_threads
from tests.mailer.conftest import at, fact, new_delivery
from tests.mailer.test_explain import explained, nodes
from tests.webhooks import payloads
from tests.webhooks.conftest import delivery_of
from tests.webhooks.retention.conftest import DAY, receipt, report
from tests.webhooks.test_health import BIG, FILL
from webhooks import inbox, retention, tasks
from webhooks.models import Nonce, WebhookReceipt
from webhooks.providers import Incoming

ADA, BOB = "ada@example.com", "bob@example.com"


def cleanup(**days):
    """Clean up; return what was taken, without the zeros."""
    return {name: count for name, count in retention.cleanup(retention.rules(**days)).items() if count}


def test_receipts_go_after_their_days(db):
    kept = receipt(29)
    for state in ("processed", "poison"):
        receipt(31, state=state)

    assert cleanup() == {"receipts": 2}

    assert list(WebhookReceipt.objects.all()) == [kept]
    assert cleanup() == {}


def test_a_receipt_that_waits_to_be_tried_again_stays(db):
    receipt(4000, state="retry", run_at=Now())

    assert cleanup(receipt_days=0) == {}


def test_events_go_after_their_days_whether_they_found_a_delivery_or_not(db):
    delivery = new_delivery()
    report("delivered", 399, delivery_id=delivery)
    report("opened", 401, delivery_id=delivery)
    report("opened", 401, esp_message_id="nobody's")

    assert cleanup() == {"events": 2}

    assert set(DeliveryEvent.objects.values_list("event_type", flat=True)) == {"queued", "delivered"}


def test_what_a_provider_was_asked_for_goes_as_well_and_our_own_words_stay(db):
    delivery = new_delivery()
    report("delivered", 401, delivery_id=delivery, source=ledger.Source.POLL)
    DeliveryEvent.objects.update(recorded_at=Now() - 401 * DAY)

    assert cleanup() == {"events": 1}

    assert [event.source for event in DeliveryEvent.objects.all()] == ["sender"]


def test_a_delivery_keeps_its_status_and_counters_when_its_events_go(db):
    delivery = new_delivery()
    report("delivered", 500, delivery_id=delivery, occurred_at=at(1))
    report("opened", 500, delivery_id=delivery, occurred_at=at(2))
    report("clicked", 500, delivery_id=delivery, occurred_at=at(3))
    before = DeliveryStatus.objects.filter(pk=delivery).values().get()

    assert cleanup() == {"events": 3}

    after = DeliveryStatus.objects.filter(pk=delivery).values().get()
    assert after == before
    assert (after["status"], after["open_count"], after["click_count"]) == ("delivered", 1, 1)


@pytest.mark.parametrize(
    ("event_type", "seconds", "effect", "status"),
    [
        ("deferred", 9, "outranked", "delivered"),
        ("delivered", 0, "outranked", "delivered"),
        ("delivered", 9, "confirmed", "delivered"),
        ("complained", 0, "changed", "complained"),
    ],
)
def test_what_is_reported_later_is_folded_as_if_the_events_were_there(db, event_type, seconds, effect, status):
    delivery = new_delivery()
    report("delivered", 500, delivery_id=delivery, occurred_at=at(5))
    cleanup()

    report(event_type, delivery_id=delivery, occurred_at=at(seconds))

    assert DeliveryStatus.objects.get(pk=delivery).status == status
    assert DeliveryEvent.objects.get(source="webhook").effect == effect


def test_an_event_stays_while_its_receipt_can_be_replayed(db):
    delivery, waits = new_delivery(), receipt(401, state="retry")
    report("opened", 401, of=waits, delivery_id=delivery)

    assert cleanup() == {}

    WebhookReceipt.objects.update(state="processed")
    assert cleanup() == {"receipts": 1, "events": 1}


def test_a_receipt_that_is_read_again_just_before_it_goes_counts_nothing_twice(sent, post_postmark):
    message = sent("postmark")
    body = payloads.postmark("Open")
    assert post_postmark(body).status_code == 200
    WebhookReceipt.objects.update(received_at=Now() - 29 * DAY)
    DeliveryEvent.objects.update(recorded_at=Now() - 29 * DAY)

    cleanup()
    [kept] = WebhookReceipt.objects.all()
    inbox.process("postmark", Incoming(kept.headers, bytes(kept.body)))

    assert delivery_of(message).open_count == 1


def test_nonces_go_after_their_days(db):
    for key, days in (("young", 1), ("old", 3)):
        Nonce.objects.create(key=key, digest="d", received_at=Now() - days * DAY)

    assert cleanup() == {"nonces": 1}

    assert [nonce.key for nonce in Nonce.objects.all()] == ["young"]


def test_cleanup_goes_batch_by_batch_and_stops_when_told_to(db, monkeypatch):
    monkeypatch.setattr(mail_retention, "BATCH", 2)
    for _ in range(5):
        receipt(31)
    seen = []

    taken = retention.cleanup(retention.rules(), keep_on=lambda: len(seen) < 2, seen=seen.append)

    assert (taken, seen) == ({"receipts": 4, "events": 0, "nonces": 0}, [2, 2])


@pytest.mark.django_db(transaction=True)
def test_cleanup_by_many_at_once_takes_each_row_once_and_leaves_what_is_held(monkeypatch):
    monkeypatch.setattr(mail_retention, "BATCH", 3)
    held, *_ = [receipt(31) for _ in range(30)]

    with transaction.atomic():
        WebhookReceipt.objects.select_for_update().get(pk=held.pk)
        taken = in_threads(4, lambda _: cleanup())

    assert sum(each.get("receipts", 0) for each in taken) == 29
    assert list(WebhookReceipt.objects.all()) == [held]


@pytest.mark.django_db(transaction=True)
def test_reports_that_come_as_old_ones_go_are_folded():
    deliveries = [new_delivery() for _ in range(20)]
    for number, delivery in enumerate(deliveries):
        report("opened", 401, delivery_id=delivery, key=f"again {number}")

    def work(number):
        if not number:
            return cleanup()
        return ledger.record([fact("clicked", f"{number} {pk}", delivery_id=pk) for pk in deliveries])

    in_threads(3, work)

    assert set(DeliveryStatus.objects.values_list("open_count", "click_count")) == {(1, 2)}


def test_the_sweep_takes_a_batch_of_each(db, monkeypatch):
    monkeypatch.setattr(mail_retention, "BATCH", 2)
    for number in range(3):
        receipt(31)
        Nonce.objects.create(key=str(number), digest="d", received_at=Now() - 3 * DAY)

    assert [sweeping.sweep() for _ in range(3)] == [{"forgotten": 4}, {"forgotten": 2}, {}]


def test_what_goes_is_found_by_an_index(db):
    for statement in FILL:
        with connection.cursor() as cursor:
            cursor.execute(statement)
    with explained() as plans:
        taken = [[next(rule.apply(), 0) for rule in retention.rules(*days)] for days in ((3, 4), (3, 3), (30, 400))]
        retention._reached(ADA)

    assert taken == [[1000, 0, 0], [1000, 1000, 0], [0, 0, 0]]
    scanned = [node for _, plan in plans for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
    assert not [node for node in scanned if node["Relation Name"] in BIG]
    assert len(plans) >= 10


def test_the_task_stops_when_its_time_is_over(db, monkeypatch):
    receipt(31)
    monkeypatch.setattr(tasks, "CLEANUP", 0.0)
    assert set(tasks.cleanup.apply(throw=True).get().values()) == {0}

    monkeypatch.setattr(tasks, "CLEANUP", 300.0)
    assert tasks.cleanup.apply(throw=True).get()["receipts"] == 1
