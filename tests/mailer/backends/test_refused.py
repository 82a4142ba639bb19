"""What cannot be queued is an error at the call, and names no address."""

from email.mime.base import MIMEBase

import pytest
from anymail.message import AnymailMessage
from django.core.mail import (
    BadHeaderError,
    EmailMessage,
    EmailMultiAlternatives,
)

from mailer.backends import Options
from mailer.exceptions import InvalidAddress, Unqueueable, Unsupported
from mailer.models import Message
from tests.mailer.backends.conftest import mail, templated, with_options


def attached(attachment) -> EmailMessage:
    email = mail()
    email.attachments.append(attachment)
    return email


class Signed(EmailMessage):
    def message(self):
        return super().message()


def encoded(encoding: str, body: str) -> EmailMessage:
    email = mail(body=body)
    email.encoding = encoding
    return email


def as_text(address: str) -> EmailMessage:
    email = mail()
    email.reply_to = address
    return email


class Related(EmailMultiAlternatives):
    """Attaches images beside those that Django knows of, as some packages do."""

    def _create_message(self, msg):
        return super()._create_message(msg)


class Elsewhere(EmailMessage):
    """Goes to others than it says."""

    def recipients(self):
        return ["eve@example.com"]


def enveloped(sender: str) -> AnymailMessage:
    return AnymailMessage("s", "b", None, ["ada@example.com"], envelope_sender=sender)


def unencoded() -> MIMEBase:
    part = MIMEBase("text", "plain")
    part.set_payload("ü")
    return part


REFUSED = {
    "newline in the subject": (BadHeaderError, lambda: mail(subject="Hello\nBcc: eve@example.com")),
    "newline in a recipient": (BadHeaderError, lambda: mail(to=["ada@example.com\nBcc: eve@example.com"])),
    "newline in the sender": (BadHeaderError, lambda: mail(from_email="x@example.com\r\nBcc: eve@example.com")),
    "newline in a header": (BadHeaderError, lambda: mail(headers={"X-Y": "z\rBcc: eve@example.com"})),
    "newline in a header's name": (BadHeaderError, lambda: mail(headers={"X-Y: z\nBcc": "eve@example.com"})),
    "newline in a file's name": (BadHeaderError, lambda: mail(attachments=[("a\nb", "c", "text/plain")])),
    "newline in a reply-to": (BadHeaderError, lambda: mail(reply_to=["a@example.com\n"])),
    "no address": (InvalidAddress, lambda: mail(cc=["eve"])),
    "no address to reply to": (InvalidAddress, lambda: mail(reply_to=["eve"])),
    "no sender": (InvalidAddress, lambda: mail(from_email="nobody")),
    "too long an address": (InvalidAddress, lambda: mail(to=[f"{'a' * 64}@{'b.' * 100}example.com"])),
    "a set": (Unqueueable, lambda: AnymailMessage("s", "b", None, ["ada@example.com"], metadata={"a": {1}})),
    "a number that is none": (
        Unqueueable,
        lambda: AnymailMessage("s", "b", None, ["ada@example.com"], metadata={"a": float("nan")}),
    ),
    "a key that is no text": (
        Unqueueable,
        lambda: AnymailMessage("s", "b", None, ["ada@example.com"], metadata={1: "a"}),
    ),
    "a time that is none": (Unqueueable, lambda: AnymailMessage("s", "b", None, ["ada@example.com"], send_at="noon")),
    "NUL": (Unqueueable, lambda: mail(body="a\0b")),
    "half a character": (Unqueueable, lambda: mail(body="a\ud800")),
    "half a character in a file": (Unqueueable, lambda: attached(("a.txt", "\ud800", "text/plain"))),
    "an open file": (Unqueueable, lambda: attached(("a.txt", open, "text/plain"))),
    "no attachment": (Unqueueable, lambda: attached("a.txt")),
    "MIME of its own": (Unqueueable, lambda: Signed("s", "b", None, ["ada@example.com"])),
    "parts of its own": (Unqueueable, lambda: Related("s", "b", None, ["ada@example.com"])),
    "recipients of its own": (Unqueueable, lambda: Elsewhere("s", "b", None, ["ada@example.com"])),
    "text of a part that is not encoded": (Unqueueable, lambda: attached(unencoded())),
    "no sender of the envelope": (InvalidAddress, lambda: enveloped("")),
    "no address for the envelope": (InvalidAddress, lambda: enveloped("a b")),
    "two senders of the envelope": (InvalidAddress, lambda: enveloped("a@example.com, b@example.com")),
    "newline in the envelope": (BadHeaderError, lambda: enveloped("a@example.com\n")),
    "an encoding that lacks its letters": (Unqueueable, lambda: encoded("ascii", "ü")),
    "an encoding that does not exist": (Unqueueable, lambda: encoded("klingon", "ü")),
    "a template, where no provider has them": (Unsupported, templated),
    "options that are none": (TypeError, lambda: with_options({"priority": "high"})),
    "a key that is too long": (Unqueueable, lambda: with_options(Options(dedupe_key="k" * 194))),
    "text for a list": (TypeError, lambda: as_text("ada@example.com")),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
@pytest.mark.parametrize("provider", ["resend", "smtp"])
def test_what_cannot_be_queued_is_an_error_at_the_call(db, settings, case, provider):
    settings.MAIL_PROVIDERS = [provider]
    error, make = REFUSED[case]

    with pytest.raises(error) as caught:
        make().send()

    assert "@" not in str(caught.value)
    assert not Message.objects.exists()


def test_a_wrong_priority_is_an_error_before_the_call():
    with pytest.raises(ValueError, match="'urgent' is not one of now, high, medium, low"):
        Options(priority="urgent")
