"""What is forgotten of what providers reported, by age and by address, and what that must not change."""

import json
from datetime import timedelta
from urllib.parse import quote

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, transaction
from django.db.models.functions import Now

from mailer import ledger, sweeping
from mailer import retention as mail_retention
from mailer.models import DeliveryEvent, DeliveryStatus
from tests.conftest import in_threads
from tests.mailer.conftest import at, fact, new_delivery
from tests.mailer.test_commands import in_terminal
from tests.mailer.test_explain import explained, nodes
from tests.webhooks import payloads
from tests.webhooks.conftest import delivery_of
from tests.webhooks.test_health import BIG, FILL
from webhooks import inbox, retention, tasks
from webhooks.models import Nonce, WebhookReceipt
from webhooks.providers import Incoming

DAY = timedelta(days=1)
ADA, BOB = "ada@example.com", "bob@example.com"


@pytest.fixture(autouse=True)
def ages(settings):
    settings.WEBHOOK_RECEIPT_DAYS, settings.WEBHOOK_EVENT_DAYS, settings.WEBHOOK_NONCE_DAYS = 30, 400, 2


def receipt(days=0, body=b"{}", **fields):
    """Store a receipt that came so many days ago."""
    return WebhookReceipt.objects.create(
        **{"provider": "postmark", "body": body, "state": "processed", "received_at": Now() - days * DAY, **fields}
    )


def report(event_type, days=0, *, of=None, **fields):
    """Record what a provider reported so many days ago, as the receipt `of` has it."""
    [recorded] = ledger.record([fact(event_type, provider="postmark", receipt_id=of and of.pk, **fields)])
    DeliveryEvent.objects.filter(dedupe_key=recorded.dedupe_key).update(recorded_at=Now() - days * DAY)
    return recorded.dedupe_key


def cleanup(**days):
    """Clean up; return what was taken, without the zeros."""
    return {name: count for name, count in retention.cleanup(retention.rules(**days)).items() if count}


# --- By age -------------------------------------------------------------------------------------------


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


# --- The command --------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys):
    def run(*arguments):
        call_command("cleanup_webhooks", *arguments)
        return capsys.readouterr().out

    return run


def test_cleanup_webhooks_dry_run_counts_and_changes_nothing(db, run):
    receipt(31), receipt(31, state="poison")
    report("opened", 401, esp_message_id="nobody's")
    Nonce.objects.create(key="old", digest="d", received_at=Now() - 3 * DAY)

    assert run("--dry-run") == "receipts: 1 poison, 1 processed\nevents: 1 postmark\nnonces: 1 old\n"

    assert (WebhookReceipt.objects.count(), DeliveryEvent.objects.count(), Nonce.objects.count()) == (2, 1, 1)


def test_cleanup_webhooks_by_other_days(db, run):
    receipt(5), receipt(1)

    assert run("--receipt-days", "2", "--event-days", "9") == "receipts: 1\nevents: 0\nnonces: 0\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--receipt-days", "500"], "400 days are fewer than 500 and 7 more"),
        (["--event-days", "6", "--receipt-days", "0"], "6 days are fewer than 0 and 7 more"),
        (["--nonce-days", "0.5"], "at least 0.75 days"),
        (["--event-days", "-1"], "--event-days"),
    ],
)
def test_cleanup_webhooks_with_days_that_would_forget_too_soon(db, run, options, said):
    receipt(1)

    with pytest.raises(CommandError, match=said):
        run(*options)

    assert WebhookReceipt.objects.exists()


# --- By address ---------------------------------------------------------------------------------------


def found_in_receipts(body, address=ADA):
    """Tell whether an erasure takes a receipt whose body this is."""
    one = receipt(body=body if isinstance(body, bytes) else body.encode())
    retention.erase(address)
    return not WebhookReceipt.objects.filter(pk=one.pk).exists()


@pytest.mark.parametrize(
    "body",
    [
        '{"Email": "ada@example.com"}',
        '{"Email": "ADA@Example.COM"}',
        '{"Email": "Ada <ada@example.com>, Bob <bob@example.com>"}',
        '{"Email": "\\u0061da\\u0040example.com"}',
        '{"Message": "{\\"mail\\": \\"\\\\u003cada@example.com\\\\u003e\\"}"}',
        '{"Details": "smtp;550\\nada@example.com. is unknown"}',
        f"mandrill_events={quote(json.dumps([{'email': ADA}]))}",
        f"email={quote(ADA)}",
        "ada@example.com",
        b"\xff\0 \xc3\xbcber ada@example.com \xfe",
    ],
)
def test_erase_takes_a_receipt_that_names_the_address(db, body):
    assert found_in_receipts(body)


@pytest.mark.parametrize(
    "body",
    [
        '{"Email": "nada@example.com"}',
        '{"Email": "x.ada@example.com"}',
        '{"Email": "ada@example.com.au"}',
        '{"Email": "ada@examples.com"}',
        '{"Email": "ada@exampleXcom"}',
        '{"Email": "bob@example.com"}',
    ],
)
def test_erase_leaves_a_receipt_that_names_another_one(db, body):
    assert not found_in_receipts(body)


@pytest.mark.parametrize(
    ("address", "body"),
    [
        ("grün@bücher.example", "grün@bücher.example"),
        ("grün@bücher.example", "grün@xn--bcher-kva.example"),
        ("grün@xn--bcher-kva.example", '{"to": "gr\\u00fcn@b\\u00fccher.example"}'),
        ("grün@bücher.example", quote("grün@bücher.example")),
        ("a+b.c@example.com", "to=a%2Bb.c%40example.com&x=1"),
        ("ada@localhost", "<ada@localhost>"),
        (f"{'a' * 64}@{'.'.join(['b' * 60] * 3)}.com", f"<{'a' * 64}@{'.'.join(['b' * 60] * 3)}.com>"),
        ("not an address", "it is not an address, really"),
    ],
)
def test_erase_knows_an_address_in_other_spellings(db, address, body):
    assert found_in_receipts(body, address)


def test_erase_takes_receipts_through_the_events_they_brought_however_they_spell_it(db):
    delivery = new_delivery(recipient=ADA)
    matched, parked, others = (receipt(body=b"base64 of some kind") for _ in range(3))
    report("opened", of=matched, delivery_id=delivery)
    report("opened", of=parked, recipient_canonical=ADA, esp_message_id="nobody's")
    report("opened", of=others, recipient_canonical=BOB, esp_message_id="nobody's")

    erased = retention.erase(" Ada@EXAMPLE.com ")

    assert (erased.receipts, erased.mail.deliveries, erased.waiting) == (2, 1, 0)
    assert list(WebhookReceipt.objects.all()) == [others]


def test_erase_leaves_no_trace_in_any_table_and_the_statistics(sent, post_postmark):
    message = sent("postmark")
    bounce = payloads.postmark("Bounce")
    assert [post_postmark(bounce).status_code for _ in range(2)] == [200, 200]
    assert post_postmark(b"{ " + payloads.RECIPIENT.encode()).status_code == 200
    status = delivery_of(message).status

    erased = retention.erase(payloads.RECIPIENT)

    # The first brought the event, the second repeated it, the third could not be read.
    assert erased.receipts == 3
    assert delivery_of(message).status == status
    local = payloads.RECIPIENT.partition("@")[0]
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            if table.startswith(("mailer_", "webhooks_")):
                cursor.execute(f"SELECT count(*) FROM {table} t WHERE t::text ~* %s", [rf"\m{local}@"])
                assert cursor.fetchone() == (0,), table


def test_erase_leaves_a_receipt_that_waits_and_cannot_be_recorded_and_says_so(db, monkeypatch):
    receipt(body=ADA.encode(), state="retry", run_at=Now())

    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(inbox, "record_all", fail)

    assert retention.erase(ADA).waiting == 1
    with pytest.raises(CommandError, match="1 webhook receipts wait"):
        call_command("erase_mail_data", ADA, "--yes")

    WebhookReceipt.objects.update(state="poison")
    assert retention.erase(ADA).receipts == 1


def test_erase_reads_receipts_page_by_page(db, monkeypatch):
    monkeypatch.setattr(mail_retention, "BATCH", 2)
    for body in [ADA, BOB] * 4:
        receipt(body=body.encode())

    seen = []

    assert retention.holdings(ADA, seen.append)["webhook receipts"] == 4
    assert retention.erase(ADA, seen.append).receipts == 4

    assert seen == [2] * 8
    assert {bytes(each.body) for each in WebhookReceipt.objects.all()} == {BOB.encode()}


def test_erase_an_empty_address_is_refused(db):
    with pytest.raises(ValueError, match="address"):
        retention.erase(" ")


def test_erase_mail_data_says_what_it_found_and_did(db, capsys):
    receipt(body=ADA.encode())

    call_command("erase_mail_data", ADA, "--yes")

    shown = capsys.readouterr().out
    assert "Found: 1 webhook receipts." in shown
    assert "1 webhook receipts; 0 messages cancelled." in shown


@pytest.mark.django_db(transaction=True)
def test_a_terminal_sees_a_bar_while_receipts_are_read_and_forgotten(environment):
    receipt(body=ADA.encode()), receipt(31)

    assert "2/2" in in_terminal("erase_mail_data", ADA, "--yes", env=environment)[2]
    code, output, shown = in_terminal("cleanup_webhooks", env=environment)

    assert (code, output) == (0, "receipts: 1\nevents: 0\nnonces: 0\n")
    assert "1/1" in shown
