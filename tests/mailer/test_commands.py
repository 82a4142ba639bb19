"""The commands of the people who run the service, but for the relay."""

import os
import re
import subprocess
import sys
import termios
from datetime import timedelta
from io import StringIO
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from mailer import operators, sender
from mailer.management import console
from mailer.models import DeliveryStatus, Message
from tests.conftest import PATIENCE, ROOT, wait_until
from tests.mailer.conftest import change, claim_one, delivery_of, enqueue, read
from users.models import User

DAY = timedelta(days=1)
ADA = "ada@example.com"


def run(*command: object) -> str:
    """Run a command in this process, and return what it said."""
    output = StringIO()
    call_command(*map(str, command), stdout=output)
    return output.getvalue()


@pytest.fixture
def answers(monkeypatch):
    """Answer questions as somebody at a terminal; yields the questions."""

    def answers(*given: str) -> list[str]:
        asked: list[str] = []
        left = list(given)

        def answer(question: str) -> str:
            asked.append(question)
            return left.pop(0)

        monkeypatch.setattr("builtins.input", answer)
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        return asked

    return answers


def in_terminal(*command: str, env: dict[str, str]) -> tuple[int, str, str]:
    """Run a command with stderr at a terminal; return its exit code, its output, and what the terminal showed."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with subprocess.Popen(
        [sys.executable, "manage.py", *command], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=theirs, text=True
    ) as process:
        os.close(theirs)
        shown = read_all(ours)
        output, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, output, shown


def read_all(terminal: int) -> str:
    shown = b""
    with os.fdopen(terminal, "rb", buffering=0) as stream:
        while True:
            try:
                part = stream.read(4096)
            except OSError:  # so Linux says that the other side is closed
                break
            if not part:
                break
            shown += part
    return shown.decode()


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


# --- Progress, questions ------------------------------------------------------------------------------


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


# --- send_queued_mail ---------------------------------------------------------------------------------


def test_send_queued_mail_sends_what_is_due_and_what_was_left(db, simulator):
    left = enqueue()
    claim_one(left)
    change(left, lease_until=Now() - DAY)
    due, later = enqueue(), enqueue()
    change(later, run_at=Now() + DAY)

    assert run("send_queued_mail") == "2 messages taken, 0 due.\n"

    assert [read(message).state for message in (due, left, later)] == ["sent", "sent", "pending"]


def test_send_queued_mail_takes_no_more_when_its_time_is_over(db):
    enqueue()

    assert run("send_queued_mail", "--seconds", 0) == "0 messages taken, 1 due.\n"


# --- cleanup_mail -------------------------------------------------------------------------------------


@pytest.fixture
def old(db) -> list[Message]:
    messages = [enqueue(content={"text": "t"}) for _ in range(3)]
    for message, (state, days) in zip(messages, [("sent", 31), ("dead", 401), ("sent", 1)], strict=True):
        change(message, state=state, finished_at=Now() - days * DAY)
    return messages


def test_cleanup_mail_dry_run_counts_and_changes_nothing(old):
    output = run("cleanup_mail", "--dry-run")

    assert "bodies: 1 dead, 1 sent\n" in output
    assert "messages: 1 dead\n" in output
    assert "secrets: none\n" in output
    assert Message.objects.exclude(content=None).count() == 3


def test_cleanup_mail_forgets_and_says_what(old):
    output = run("cleanup_mail")

    assert "bodies: 2\n" in output
    assert "messages: 1\n" in output
    assert {message.content is None for message in Message.objects.exclude(pk=old[2].pk)} == {True}
    assert read(old[2]).content == {"text": "t"}


def test_cleanup_mail_by_state_and_other_days(old):
    change(old[0], finished_at=Now() - 41 * DAY)

    run("cleanup_mail", "--state", "sent", "--body-days", "0.5", "--history-days", "40")

    assert set(Message.objects.all()) == {old[1], old[2]}
    assert read(old[2]).content is None
    assert read(old[1]).content == {"text": "t"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--body-days", "500"], "400 days are fewer than 500"),
        # A month of receipts, and a week of what is repeated.
        (["--history-days", "36.9"], "36.9 days are fewer than 37"),
        (["--body-days", "-1"], "--body-days"),
        (["--history-days", "1e7"], "invalid days value: '1e7'"),
        (["--history-days", "soon"], "invalid days value: 'soon'"),
        (["--state", "pending"], "invalid choice: 'pending'"),
    ],
)
def test_cleanup_mail_with_options_that_make_no_sense(old, options, said):
    with pytest.raises(CommandError, match=said):
        run("cleanup_mail", *options)

    assert Message.objects.exclude(content=None).count() == 3


# --- retry_mail ---------------------------------------------------------------------------------------


def stopped(state: str, kind: str = "welcome", days: float = 0) -> Message:
    message = enqueue(kind=kind)
    change(message, state=state, created_at=Now() - days * DAY)
    return message


def test_retry_mail_by_id_asks_and_sends_again(db, simulator, answers):
    asked = answers("y")
    message = stopped("dead")

    assert run("retry_mail", message.pk) == "Stopped: 1 dead.\n1 messages go again.\n"

    assert asked == ["Send 1 messages again? [y/N] "]
    sender.drain()
    assert read(message).state == "sent"


def test_retry_mail_in_doubt_warns(db, answers):
    asked = answers("n")
    stopped("dead")
    message = stopped("unknown")

    with pytest.raises(CommandError, match="Nothing was done"):
        run("retry_mail", "--state", "unknown", "--state", "dead")

    assert asked == ["Send 2 messages again? Those in doubt may arrive twice. [y/N] "]
    assert read(message).state == "unknown"


def test_retry_mail_by_state_kind_and_time(db):
    chosen = stopped("dead")
    others = [stopped("dead", days=3), stopped("dead", kind="test"), stopped("expired"), stopped("sent")]
    since = (read(chosen).created_at - DAY).isoformat()

    output = run("retry_mail", "--state", "dead", "--kind", "welcome", "--since", since, "--yes")

    assert output.endswith("1 messages go again.\n")
    assert read(chosen).state == "retry"
    assert [read(message).state for message in others] == ["dead", "dead", "expired", "sent"]


def test_retry_mail_dry_run_changes_nothing(db):
    message = stopped("dead")

    assert run("retry_mail", "--state", "dead", "--dry-run") == "Stopped: 1 dead.\n"

    assert read(message).state == "dead"


def test_retry_mail_where_there_is_none(db):
    assert run("retry_mail", "--state", "dead") == "Stopped: none.\n"


@pytest.mark.parametrize("state", ["sent", "pending", "leased", "sending", "retry"])
def test_retry_mail_names_what_has_not_stopped(db, state):
    message, dead = stopped(state), stopped("dead")

    with pytest.raises(CommandError, match=f"{message.pk} is {state}"):
        run("retry_mail", message.pk, dead.pk, "--yes")

    assert (read(message).state, read(dead).state) == (state, "dead")


def test_retry_mail_names_what_does_not_exist(db):
    nobody = uuid4()

    with pytest.raises(CommandError, match=f"{nobody} is unheard of"):
        run("retry_mail", nobody, "--yes")


def test_retry_mail_says_what_stayed(db):
    message = stopped("cancelled")
    message.deliveries.update(recipient="")

    with pytest.raises(CommandError, match="1 do not"):
        run("retry_mail", message.pk, "--yes")


def test_retry_mail_goes_batch_by_batch(db, monkeypatch):
    monkeypatch.setattr("mailer.management.commands.retry_mail.BATCH", 2)
    for _ in range(5):
        stopped("dead")

    assert run("retry_mail", "--state", "dead", "--yes").endswith("5 messages go again.\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "by their ids, or by --state"),
        ([uuid4(), "--state", "dead"], "by their ids, or by --state"),
        ([uuid4(), "--kind", "welcome"], "by their ids, or by --state"),
        (["seven"], "invalid UUID value: 'seven'"),
        (["--state", "sent"], "invalid choice: 'sent'"),
        (["--state", "dead", "--since", "monday"], "invalid moment value: 'monday'"),
    ],
)
def test_retry_mail_with_options_that_make_no_sense(db, options, said):
    with pytest.raises(CommandError, match=said):
        run("retry_mail", *options)


# --- enqueue_missing ----------------------------------------------------------------------------------


@pytest.fixture
def unsignalled(db) -> None:
    names = [f"user-{number}@example.com" for number in range(3)]
    User.objects.bulk_create([User(email=name, email_canonical=name) for name in names])
    User.objects.filter(email=names[0]).update(email_verified_at=Now())


def test_enqueue_missing_dry_run_counts(unsignalled):
    output = run("enqueue_missing", "--dry-run")

    assert output == "verification: 2 users miss it\nwelcome: 1 users miss it\n"
    assert not Message.objects.exists()


def test_enqueue_missing_enqueues_once(unsignalled):
    assert run("enqueue_missing") == "verification: 2 mails enqueued\nwelcome: 1 mails enqueued\n"
    assert run("enqueue_missing") == "verification: 0 mails enqueued\nwelcome: 0 mails enqueued\n"
    assert run("enqueue_missing", "--dry-run") == "verification: nobody misses it\nwelcome: nobody misses it\n"

    assert Message.objects.count() == 3


def test_enqueue_missing_beyond_the_histories(db):
    with pytest.raises(CommandError, match=r"--days: .*MAIL_HISTORY_DAYS"):
        run("enqueue_missing", "--days", 4000)


# --- send_test_mail -----------------------------------------------------------------------------------


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


# --- erase_mail_data ----------------------------------------------------------------------------------


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
