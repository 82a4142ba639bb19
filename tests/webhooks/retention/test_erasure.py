"""What is forgotten by address of what providers reported."""

import json
from urllib.parse import quote

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.db.models.functions import Now

from mailer import retention as mail_retention
from tests.mailer.conftest import new_delivery
from tests.webhooks import payloads
from tests.webhooks.conftest import delivery_of
from tests.webhooks.retention.conftest import receipt, report
from webhooks import inbox, retention
from webhooks.models import WebhookReceipt

ADA, BOB = "ada@example.com", "bob@example.com"


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
