"""Sending by SMTP, and servers that say what a test wants."""

import socket

import pytest

from mailer import threaded
from mailer.providers import PROVIDERS
from tests.mailer.conftest import draft

SMTP = PROVIDERS["smtp"].backend


@pytest.fixture
def send(thread):
    """Send a mail through SMTP and return what came of it."""
    return lambda *to, **fields: thread.submit(threaded.send, SMTP, draft(*to, **fields)).result()


# What one says who takes a mail: the end of its data stands as a dot.
TAKES = {"EHLO": "250 localhost", "MAIL": "250 OK", "RCPT": "250 OK", "DATA": "354 go on", ".": "250 OK"}


def converse(connection: socket.socket, replies: dict[str, str], then: str = "", greeting: str = "220 ESMTP") -> None:
    """Say what stands in the replies, for one mail, then something else for ever; hang up where nothing stands."""
    lines = connection.makefile("rb")
    is_over = False

    def say(text: str) -> None:
        connection.sendall(f"{text}\r\n".encode())

    if not greeting:
        return
    say(greeting)
    while line := lines.readline():
        reply = then if is_over else replies.get(line.split()[0].decode().upper(), "")
        if not reply:
            return
        say(reply)
        if line.upper().startswith(b"DATA") and reply.startswith("354"):
            while lines.readline() not in {b".\r\n", b""}:
                pass
            if not replies.get("."):
                return
            say(replies["."])
            is_over = bool(then)
