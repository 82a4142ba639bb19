"""What a server says, and what is made of it."""

import socket
import threading
import time

import pytest

from mailer import smtp
from mailer.verdicts import Verdict
from tests.conftest import wait_until
from tests.mailer import mailserver
from tests.mailer.smtp.conftest import TAKES, converse

# aiosmtpd says so of a login over a connection that is not encrypted, or was from the start.
pytestmark = [
    pytest.mark.usefixtures("fresh_threads"),
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning"),
]


@pytest.mark.parametrize(
    ("greeting", "verdict", "error_class"),
    [
        ("421 4.3.2 busy", Verdict.NOT_SENT, "smtp_421 4.3.2"),
        ("554 5.7.1 we do not talk to you", Verdict.CONFIGURATION, "smtp_554 5.7.1"),
        ("SSH-2.0-OpenSSH_9.2", Verdict.CONFIGURATION, "smtp_-1"),
        ("", Verdict.NOT_SENT, "SMTPServerDisconnected"),
    ],
)
def test_greeting(point, send, greeting, verdict, error_class):
    with mailserver.talking(lambda connection: converse(connection, TAKES, greeting=greeting)) as port:
        point(port)

        answer = send()

    assert (answer.verdict, answer.error_class) == (verdict, error_class)


@pytest.mark.parametrize(
    ("command", "reply", "verdict", "error_class"),
    [
        ("MAIL", "421 4.3.2 going down", Verdict.NOT_SENT, "smtp_421 4.3.2"),
        ("MAIL", "451 local trouble", Verdict.NOT_SENT, "smtp_451"),
        ("MAIL", "530 5.7.0 log in first", Verdict.CONFIGURATION, "smtp_530 5.7.0"),
        ("MAIL", "552 5.3.4 too large", Verdict.PERMANENT, "smtp_552 5.3.4"),
        ("MAIL", "", Verdict.NOT_SENT, "SMTPServerDisconnected"),
        ("RCPT", "450 4.2.0 greylisted", Verdict.NOT_SENT, "smtp_450 4.2.0"),
        ("RCPT", "550 5.1.1 nobody", Verdict.PERMANENT, "smtp_550 5.1.1"),
        ("RCPT", "what?", Verdict.NOT_SENT, "smtp_-1"),
        ("RCPT", "", Verdict.NOT_SENT, "SMTPServerDisconnected"),
        ("DATA", "451 4.3.0 later", Verdict.NOT_SENT, "smtp_451 4.3.0"),
        ("DATA", "554 5.5.1 no valid recipients", Verdict.PERMANENT, "smtp_554 5.5.1"),
        ("DATA", "250 what?", Verdict.NOT_SENT, "smtp_250"),
        ("DATA", "", Verdict.NOT_SENT, "SMTPServerDisconnected"),
        (".", "250 2.0.0 queued", Verdict.ACCEPTED, ""),
        (".", "421 4.3.2 going down", Verdict.NOT_SENT, "smtp_421 4.3.2"),
        (".", "452 4.3.1 full", Verdict.NOT_SENT, "smtp_452 4.3.1"),
        (".", "554 5.7.1 spam", Verdict.PERMANENT, "smtp_554 5.7.1"),
        (".", "354 what?", Verdict.AMBIGUOUS, "smtp_354"),
        (".", "what?", Verdict.AMBIGUOUS, "smtp_-1"),
        (".", "5" * 9000, Verdict.AMBIGUOUS, "SMTPResponseException"),
        (".", "", Verdict.AMBIGUOUS, "SMTPServerDisconnected"),
    ],
)
def test_reply(point, send, command, reply, verdict, error_class):
    replies = {**TAKES, "RSET": "250 OK", command: reply}
    with mailserver.talking(lambda connection: converse(connection, replies)) as port:
        point(port)

        answer = send()

    assert (answer.verdict, answer.error_class) == (verdict, error_class)


@pytest.mark.parametrize(
    ("replies", "verdict"),
    [
        (["550 no", "551 no"], Verdict.PERMANENT),
        (["550 no", "450 later"], Verdict.NOT_SENT),
        (["530 log in", "550 no"], Verdict.CONFIGURATION),
    ],
)
def test_all_recipients_refused(server, send, replies, verdict):
    recipients = ["ada@example.com", "bob@example.com"]
    server.replies |= dict(zip(recipients, replies, strict=True))

    assert send(*recipients).verdict is verdict
    assert server.mails == []


def test_connection_lost_in_the_middle_of_the_data_sends_nothing(point, send):
    def talk(connection: socket.socket) -> None:
        """Hang up as soon as the first of the data comes, with room for little of it."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        replies = iter([b"250 localhost", b"250 OK", b"250 OK", b"354 go on"])
        connection.sendall(b"220 ESMTP\r\n")
        for reply in replies:
            connection.recv(1000)
            connection.sendall(reply + b"\r\n")
        connection.recv(1)

    with mailserver.talking(talk) as port:
        point(port)

        answer = send(body="a line of text\n" * 400_000)

    assert (answer.verdict, answer.error_class) == (Verdict.NOT_SENT, "SMTPServerDisconnected")


def test_no_answer_to_the_end_of_the_data_is_a_doubt(point, send, monkeypatch):
    monkeypatch.setattr(smtp, "LAST_REPLY", 0.2)
    release = threading.Event()

    def talk(connection: socket.socket) -> None:
        converse(connection, {**TAKES, ".": ""})
        release.wait(30)

    with mailserver.talking(talk) as port:
        point(port)

        answer = send()
        release.set()

    assert (answer.verdict, answer.error_class) == (Verdict.AMBIGUOUS, "SMTPServerDisconnected")


def test_a_server_may_take_longer_for_the_end_of_the_data_than_for_commands(point, send):
    def talk(connection: socket.socket) -> None:
        converse(connection, {**TAKES, ".": ""})
        late = time.monotonic() + 0.6
        wait_until(lambda: time.monotonic() > late)
        connection.sendall(b"250 OK\r\n")

    with mailserver.talking(talk) as port:
        point(port, EMAIL_TIMEOUT=0.3)

        answer = send()

    assert answer.verdict is Verdict.ACCEPTED


def test_data_is_not_begun_when_it_is_late(server, send, monkeypatch):
    monkeypatch.setattr(smtp, "REACH", 0)

    answer = send()

    assert (answer.verdict, answer.error_class) == (Verdict.NOT_SENT, "TimeoutError")
    assert server.mails == []
