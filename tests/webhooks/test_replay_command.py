"""`manage.py replay_webhooks`."""

import re
from datetime import timedelta
from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from mailer.models import DeliveryEvent
from tests.terminal import in_terminal
from tests.webhooks import payloads
from tests.webhooks.conftest import delivery_of, encoded
from webhooks.models import WebhookReceipt

pytestmark = pytest.mark.django_db


def run(*command):
    """Run the command in this process; return what it said."""
    output = StringIO()
    call_command("replay_webhooks", *map(str, command), stdout=output)
    return output.getvalue()


@pytest.fixture
def lost(post_postmark, sent):
    """Leave a receipt that an older release could not read."""

    def lost(kind="Delivery", number=0):
        message = sent("postmark", f"id-{number}", f"ada{number}@example.com")
        post_postmark(b"{")
        WebhookReceipt.objects.filter(body=b"{").update(
            body=encoded(payloads.postmark(kind, message, MessageID=f"id-{number}"))
        )
        return message

    return lost


def test_help_says_what_it_does(capsys):
    with pytest.raises(SystemExit, match="0"):
        run("--help")

    shown = " ".join(capsys.readouterr().out.split())
    assert len(re.split(r"options:|positional arguments:", shown)[0]) > 200


def test_dry_run_says_what_would_change_from_what_to_what(lost):
    delivered, bounced = lost(), lost("Bounce", 1)
    ids = [delivery_of(message).pk for message in (delivered, bounced)]

    said = run("--state", "poison", "--dry-run")

    assert said.splitlines() == [
        "Receipts: 2 postmark poison.",
        f"postmark delivery {ids[0]}: sent -> delivered",
        f"postmark delivery {ids[1]}: sent -> bounced",
        "postmark: 1 deliveries sent -> bounced",
        "postmark: 1 deliveries sent -> delivered",
        "2 new events would be recorded, 0 of mails we do not know.",
    ]
    assert not DeliveryEvent.objects.filter(source="webhook").exists()
    assert set(WebhookReceipt.objects.values_list("state", flat=True)) == {"poison"}


def test_replay_says_what_has_changed(lost):
    message = lost()

    said = run("--provider", "postmark", "--yes")

    assert f"postmark delivery {delivery_of(message).pk}: sent -> delivered\n" in said
    assert "1 new events recorded" in said
    assert delivery_of(message).status == "delivered"


def test_ids_name_receipts(lost):
    message = lost()

    assert "1 new events recorded" in run(WebhookReceipt.objects.get().pk, "--yes")
    assert delivery_of(message).status == "delivered"


def test_time_names_receipts(lost):
    lost()
    receipt = WebhookReceipt.objects.get()
    day = receipt.received_at.date()

    assert run("--since", day + timedelta(days=1), "--dry-run") == "Receipts: none.\n"
    assert run("--until", day, "--dry-run") == "Receipts: none.\n"
    assert "1 new events" in run("--since", day, "--until", day + timedelta(days=1), "--dry-run")


def test_no_address_is_said(lost):
    lost("Bounce")

    assert "@" not in run("--state", "poison", "--yes")


def test_what_is_read_otherwise_is_counted(lost):
    lost("Bounce")
    run("--state", "poison", "--yes")
    DeliveryEvent.objects.filter(source="webhook").update(status="soft_bounced")

    said = run("--state", "processed", "--yes")

    assert "0 new events recorded" in said
    assert "1 events are known, and read otherwise now: they stay as they are.\n" in said


def test_what_cannot_be_read_is_named_and_fails(post_postmark):
    post_postmark(b"{")
    output = StringIO()

    with pytest.raises(CommandError, match="1 receipts cannot be read or recorded"):
        call_command("replay_webhooks", "--state", "poison", "--yes", stdout=output)

    assert f"receipt {WebhookReceipt.objects.get().pk}: Unreadable\n" in output.getvalue()


def test_nothing_is_done_where_nobody_agrees(lost, monkeypatch):
    message = lost()

    with pytest.raises(CommandError, match="Replay 1 receipts"):
        run("--state", "poison")

    assert delivery_of(message).status == "sent"


@pytest.mark.parametrize("arguments", [[], ["--dry-run"], [str(uuid4()), "--state", "poison"]])
def test_receipts_must_be_named_one_way(arguments):
    with pytest.raises(CommandError, match="Name receipts by"):
        run(*arguments)


def test_id_of_no_receipt_is_an_error(lost):
    lost()

    with pytest.raises(CommandError, match="1 of these ids are no receipts"):
        run(WebhookReceipt.objects.get().pk, uuid4())


@pytest.mark.parametrize(("option", "value"), [("--state", "lost"), ("--provider", "pigeon"), ("--since", "monday")])
def test_what_does_not_exist_is_refused(option, value):
    with pytest.raises(CommandError, match="invalid"):
        run(option, value)


@pytest.mark.django_db(transaction=True)
def test_a_terminal_sees_a_bar(environment, lost):
    for number in range(3):
        lost(number=number)
    WebhookReceipt.objects.update(received_at=Now() - timedelta(days=1))

    code, output, shown = in_terminal("replay_webhooks", "--state", "poison", "--yes", env=environment)

    assert (code, "3 new events recorded" in output) == (0, True)
    assert "3/3" in shown
