"""A mail to see whether mail arrives."""

import subprocess
import sys

import pytest
from django.core.management import CommandError

from mailer import operators, sender
from mailer.models import DeliveryStatus, Message
from tests.conftest import PATIENCE, ROOT, wait_until
from tests.mailer.commands.conftest import run
from tests.mailer.conftest import delivery_of

ADA = "ada@example.com"


def test_send_test_mail_goes_through_the_outbox(db, simulator):
    output = run("send_test_mail", "Ada@example.com", "--provider", "postmark", "--locale", "de")

    message = Message.objects.get()
    assert f"message {message.pk}, delivery {delivery_of(message).pk}\n" == output
    sender.drain()
    (mail,) = simulator.inbox(ADA)
    assert mail["subject"] == "Testmail von Example"
    assert simulator.accepted(message.pk)[0]["provider"] == "postmark"


@pytest.mark.django_db(transaction=True)
def test_send_test_mail_waits_until_it_is_sent(environment, simulator):
    command = [sys.executable, "manage.py", "send_test_mail", ADA, "--wait"]
    with subprocess.Popen(
        command, cwd=ROOT, env={**environment, **simulator.environment}, stdout=subprocess.PIPE, text=True
    ) as process:
        wait_until(Message.objects.exists)
        sender.drain()
        output, _ = process.communicate(timeout=PATIENCE)

    assert process.returncode == 0
    assert output.splitlines()[0].startswith("message ")
    assert output.splitlines()[-1].startswith("sent resend ")


def test_send_test_mail_to_an_address_with_blanks_around_it(db):
    run("send_test_mail", f" {ADA} ")

    assert DeliveryStatus.objects.get().recipient == ADA


def test_send_test_mail_that_nobody_takes(db):
    with pytest.raises(CommandError, match=r"Nobody took it in 0 s: does a worker or the relay run\?"):
        run("send_test_mail", ADA, "--wait", 0)

    assert Message.objects.get().state == "pending"


@pytest.mark.django_db(transaction=True)
def test_send_test_mail_that_is_cancelled(environment, simulator):
    command = [sys.executable, "manage.py", "send_test_mail", ADA, "--wait"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(Message.objects.exists)
        operators.cancel(Message.objects.get().pk)
        output, error = process.communicate(timeout=PATIENCE)

    assert process.returncode == 1
    assert "cancelled" in output
    assert "Not sent: cancelled" in error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["ada"], "valid email"),
        ([ADA, "--provider", "pigeon"], "invalid choice: 'pigeon'"),
        ([ADA, "--wait", "long"], "invalid float value: 'long'"),
        ([ADA, "--locale", "klingon"], "invalid language value: 'klingon'"),
    ],
)
def test_send_test_mail_with_options_that_make_no_sense(db, options, said):
    with pytest.raises(CommandError, match=said):
        run("send_test_mail", *options)

    assert not Message.objects.exists()
