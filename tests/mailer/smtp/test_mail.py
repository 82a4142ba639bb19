"""What a mail is when it arrives."""

import re

import pytest

from mailer.verdicts import Verdict

# aiosmtpd says so of a login over a connection that is not encrypted, or was from the start.
pytestmark = [
    pytest.mark.usefixtures("fresh_threads"),
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning"),
]


def test_mail_goes_to_everybody_and_names_only_whom_it_should(server, send):
    answer = send("Ada <ada@example.com>", cc=["bob@example.com"], bcc=["eve@example.com"])

    (mail,) = server.mails
    assert mail.recipients == ["ada@example.com", "bob@example.com", "eve@example.com"] == [*answer.recipients]
    assert b"eve@" not in mail.content
    assert {(each.status, each.message_id) for each in answer.recipients.values()} == {
        ("queued", mail.message["Message-ID"])
    }


def test_mail_keeps_its_lines(server, send):
    body = "first\r\n.\r\n..\r\n.hidden\r\n\r\nlast\r\n."

    send(body=body)

    assert server.mails[0].message.get_payload().rstrip("\r\n") == body.rstrip("\r\n")


def test_mail_keeps_a_message_id_of_its_own(server, send):
    send(headers={"message-id": "<mine@example.com>"}, metadata={"message_id": "1"})

    assert re.findall(rb"(?mi)^message-id: (.*?)\r$", server.mails[0].content) == [b"<mine@example.com>"]


def test_mail_has_an_envelope_sender_where_one_is_given(server, send):
    send(envelope_sender="bounces@bücher.example")

    assert server.mails[0].sender == "bounces@xn--bcher-kva.example"


def test_mail_says_what_it_weighs_and_that_it_is_8bit(server, send):
    send(body="Grüß Gott")

    (mail,) = server.mails
    assert mail.options == [f"SIZE={len(mail.content)}", "BODY=8BITMIME"]
    assert mail.message.get_payload(decode=True).decode().strip() == "Grüß Gott"


def test_mail_without_another_character_than_ascii_is_not_8bit(server, send):
    send()

    assert "BODY=8BITMIME" not in server.mails[0].options


@pytest.mark.parametrize(
    ("fields", "error_class"),
    [
        ({"to": ["jürgen@example.com"]}, "NeedsUtf8"),
        ({"from_email": "jürgen@example.com"}, "NeedsUtf8"),
        ({"to": ["ada@" + "ü" * 80 + ".example"]}, "UnicodeError"),
        ({"subject": "a\nb"}, "BadHeaderError"),
        ({"to": ["nobody at home"]}, "AnymailInvalidAddress"),
    ],
)
def test_mail_that_cannot_be_written_for_smtp(server, send, fields, error_class):
    answer = send(**fields)

    assert (answer.verdict, answer.error_class) == (Verdict.PERMANENT, error_class)
    assert server.connections == []
