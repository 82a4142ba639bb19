"""Forgetting webhooks by hand."""

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db.models.functions import Now

from mailer.models import DeliveryEvent
from tests.terminal import in_terminal
from tests.webhooks.retention.conftest import DAY, receipt, report
from webhooks.models import Nonce, WebhookReceipt

ADA, BOB = "ada@example.com", "bob@example.com"


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


@pytest.mark.django_db(transaction=True)
def test_a_terminal_sees_a_bar_while_receipts_are_read_and_forgotten(environment):
    receipt(body=ADA.encode()), receipt(31)

    assert "2/2" in in_terminal("erase_mail_data", ADA, "--yes", env=environment)[2]
    code, output, shown = in_terminal("cleanup_webhooks", env=environment)

    assert (code, output) == (0, "receipts: 1\nevents: 0\nnonces: 0\n")
    assert "1/1" in shown
