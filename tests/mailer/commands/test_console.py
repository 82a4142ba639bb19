"""What all commands share: their help, a bar for whoever sits at a terminal, and questions."""

import re
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from mailer.management import console
from tests.mailer.commands.conftest import run
from tests.mailer.conftest import change, enqueue, read
from tests.terminal import in_terminal

DAY = timedelta(days=1)


COMMANDS = [
    *("send_queued_mail", "cleanup_mail", "cleanup_webhooks", "retry_mail", "enqueue_missing", "send_test_mail"),
    "erase_mail_data",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_it_does(capsys, command):
    with pytest.raises(SystemExit, match="0"):
        call_command(command, "--help")

    shown = " ".join(capsys.readouterr().out.split())
    assert len(re.split(r"options:|positional arguments:", shown)[0]) > 200


@pytest.mark.django_db(transaction=True)
def test_a_terminal_sees_a_bar_while_mail_is_sent(environment, simulator):
    simulator.faults(latency_ms=700)
    for _ in range(3):
        enqueue()

    code, output, shown = in_terminal(
        "send_queued_mail", env={**environment, **simulator.environment, "MAIL_CONCURRENCY": "1"}
    )

    assert (code, output) == (0, "3 messages taken, 0 due.\n")
    assert "0/3" in shown
    assert re.search(r"[12]/3", shown)
    assert "3/3" in shown


@pytest.mark.django_db(transaction=True)
def test_a_terminal_sees_a_bar_while_mail_is_forgotten(environment):
    change(enqueue(content={"text": "t"}), state="sent", finished_at=Now() - 31 * DAY)

    code, output, shown = in_terminal("cleanup_mail", env=environment)

    assert (code, "bodies: 1\n" in output) == (0, True)
    assert "1/1" in shown


def test_nobody_sees_a_bar_where_there_is_no_terminal(db, capsys):
    change(enqueue(content={"text": "t"}), state="sent", finished_at=Now() - 31 * DAY)

    run("cleanup_mail")

    assert "%|" not in capsys.readouterr().err


def test_a_question_that_nobody_can_answer_is_an_error(db):
    message = enqueue()
    change(message, state="dead")

    with pytest.raises(CommandError, match="--yes"):
        run("retry_mail", message.pk)

    assert read(message).state == "dead"


@pytest.mark.parametrize("answer", ["", "n", "what?"])
def test_any_answer_but_yes_is_no(answers, answer):
    asked = answers(answer)

    with pytest.raises(CommandError, match="Nothing was done"):
        console.confirm("Go on?", yes=False)

    assert asked == ["Go on? [y/N] "]
