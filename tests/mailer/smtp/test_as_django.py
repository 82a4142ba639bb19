"""What Django's own SMTP backend puts on the wire, a mail that went through the outbox puts there, too."""

import re

import pytest
from anymail.message import attach_inline_image
from django.core.mail import EmailMessage, get_connection

from mailer import sender
from mailer.backends import OutboxBackend
from tests.mailer.test_content import MAILS, PNG, RANDOM, mail

# aiosmtpd says so of a login over a connection that is not encrypted, or was from the start.
pytestmark = [
    pytest.mark.usefixtures("fresh_threads"),
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning"),
]


def with_image(email: EmailMessage) -> EmailMessage:
    attach_inline_image(email, PNG, "logo.png", domain="example.com")
    part = email.attachments[-1]
    part.replace_header("Content-ID", "<logo@example.com>")
    return email


OTHERS = {
    "names in other scripts": lambda: mail(
        from_email="Ђура <a@example.com>", to=['"李, 雷" <b@example.com>'], cc=["ö <c@x.example>"]
    ),
    "domains in other scripts": lambda: mail(from_email="a@bücher.example", to=["Ada <b@mañana.example>"]),
    "a local part with quotes": lambda: mail(to=['"ada,eve"@example.com']),
    "blind copies alone": lambda: mail(to=[], bcc=["b@example.com", "c@example.com"]),
    "nothing in it": lambda: mail(subject="", body=""),
    "a file of no bytes": lambda: mail(attachments=[("a.bin", b"", None), ("b.txt", "", None)]),
    "an inline image": lambda: with_image(mail()),
    "headers in other scripts, and long ones": lambda: mail(
        headers={"X-A": "ü" * 90, "X-B": "b " * 200, "List-Id": "<a.b>"}
    ),
    "long lines and bare dots": lambda: mail(body="x" * 2000 + "\n.\n..\n\nFrom me\r\nend"),
    "a calendar": lambda: mail(
        attachments=[("a.ics", "BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n", "text/calendar; method=REQUEST")]
    ),
    "no address in sight": lambda: mail(headers={"To": "undisclosed-recipients:;"}),
}
CASES = {**MAILS, **OTHERS}


def wire(taken) -> tuple[str, list[str], bytes]:
    """Return what a server was told of a mail, without what is drawn anew each time, and without a Message-ID.

    Ours is made of our id, and the last of the headers.
    """
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", taken.content)
    content = taken.content.replace(b"\r\n", b"\n")
    for pattern, fixed in RANDOM:
        content = re.sub(pattern, fixed, content)
    return taken.sender, taken.recipients, content.replace(b"Message-ID: one\n", b"", 1)


@pytest.mark.parametrize("case", sorted(CASES))
def test_the_same_is_on_the_wire(db, server, case):
    get_connection("django.core.mail.backends.smtp.EmailBackend").send_messages([CASES[case]()])
    OutboxBackend().send_messages([CASES[case]()])

    sender.drain()

    djangos, ours = server.mails
    assert wire(ours) == wire(djangos)
