"""Erasing a person's data, by hand."""

import pytest
from django.core.management import CommandError

from mailer.models import DeliveryStatus
from tests.mailer.commands.conftest import run
from tests.mailer.conftest import claim_one, delivery_of, enqueue

ADA = "ada@example.com"


def test_erase_mail_data_asks_and_counts(db, answers):
    asked = answers("yes")
    enqueue(ADA, content={"text": "t"})

    output = run("erase_mail_data", "ADA@example.com")

    assert asked == ["Erase them for good? [y/N] "]
    assert output == (
        "Found: 1 deliveries.\nErased: 1 deliveries, 0 events, 1 bodies, 0 suppressions, 0 webhook receipts;"
        " 1 messages cancelled.\n"
    )
    assert not DeliveryStatus.objects.exclude(recipient="").exists()


def test_erase_mail_data_unless_the_answer_is_yes(db, answers):
    answers("no")
    message = enqueue(ADA)

    with pytest.raises(CommandError, match="Nothing was done"):
        run("erase_mail_data", ADA)

    assert delivery_of(message).recipient == ADA


def test_erase_mail_data_of_nobody(db):
    enqueue("bob@example.com")

    assert run("erase_mail_data", ADA) == "Found: none.\n"


def test_erase_mail_data_of_what_is_under_way(db):
    claim_one(enqueue(ADA))

    with pytest.raises(CommandError, match="1 deliveries are under way at this moment: run it again"):
        run("erase_mail_data", ADA, "--yes")


def test_erase_mail_data_of_what_is_no_address(db):
    with pytest.raises(CommandError, match="no address"):
        run("erase_mail_data", "ada")
