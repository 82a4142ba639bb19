"""Connections: kept, found dead, and not had."""

import threading

import pytest

from mailer.verdicts import Verdict
from tests.conftest import free_port
from tests.mailer import mailserver
from tests.mailer.smtp.conftest import TAKES, converse

# aiosmtpd says so of a login over a connection that is not encrypted, or was from the start.
pytestmark = [
    pytest.mark.usefixtures("fresh_threads"),
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning"),
]


def test_connection_is_kept(server, send):
    for _ in range(3):
        assert send().verdict is Verdict.ACCEPTED

    assert (len(server.connections), len(server.mails)) == (1, 3)


def test_connection_that_died_meanwhile_is_opened_again(server, send):
    send()
    server.cut()

    assert send().verdict is Verdict.ACCEPTED
    assert (len(server.connections), len(server.mails)) == (2, 2)


def test_connection_that_the_server_ends_is_opened_again(point, send):
    """A server that takes one mail a connection, as RFC 5321, 3.8 lets it."""
    takes_one = {"RSET": "250 OK", **TAKES}
    with mailserver.talking(lambda connection: converse(connection, takes_one, then="421 4.7.0 enough")) as port:
        point(port)

        answers = [send(), send()]

    assert [answer.verdict for answer in answers] == [Verdict.ACCEPTED] * 2


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("reply", ["451 4.3.0 later", "554 5.0.0 never"])
def test_connection_is_kept_after_a_refusal(server, send, command, reply):
    server.replies[command] = reply
    send()
    server.replies.clear()

    assert send().verdict is Verdict.ACCEPTED
    assert (len(server.connections), len(server.mails), server.resets) == (1, 1, 1)


@pytest.mark.parametrize("reply", ["500 what?", "CUT"])
def test_connection_that_cannot_be_reset_is_not_kept(server, send, reply):
    server.replies |= {"MAIL": "451 4.3.0 later", "RSET": reply}
    assert send().verdict is Verdict.NOT_SENT
    server.replies.clear()

    assert send().verdict is Verdict.ACCEPTED
    assert len(server.connections) == 2


def test_connection_refused(point, send):
    point(free_port())

    answer = send()

    assert (answer.verdict, answer.error_class) == (Verdict.NOT_SENT, "ConnectionRefusedError")


def test_connection_to_no_address(point, send):
    point(25, EMAIL_HOST="mail.invalid")

    answer = send()

    assert (answer.verdict, answer.error_class) == (Verdict.NOT_SENT, "gaierror")


def test_connection_to_one_who_does_not_greet(point, send):
    release = threading.Event()
    with mailserver.talking(lambda connection: release.wait(30)) as port:
        point(port, EMAIL_TIMEOUT=0.2)

        answer = send()
        release.set()

    assert (answer.verdict, answer.error_class) == (Verdict.NOT_SENT, "SMTPServerDisconnected")
