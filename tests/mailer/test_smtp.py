"""SMTP, against servers of this process that take mails, refuse them, or hang up."""

import re
import socket
import ssl
import threading
import time

import pytest
import trustme

from mailer import sender, smtp, threaded
from mailer.models import Attempt, ProviderState
from mailer.providers import PROVIDERS
from mailer.verdicts import Verdict
from tests.conftest import free_port, wait_until
from tests.mailer import mailserver
from tests.mailer.conftest import delivery_of, draft, enqueue, read, send_again

# aiosmtpd says so of a login over a connection that is not encrypted, or was from the start.
pytestmark = [
    pytest.mark.usefixtures("fresh_threads"),
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning"),
]

SMTP = PROVIDERS["smtp"].backend


@pytest.fixture
def send(thread):
    """Send a mail through SMTP and return what came of it."""
    return lambda *to, **fields: thread.submit(threaded.send, SMTP, draft(*to, **fields)).result()


# --- From the outbox ------------------------------------------------------------------------------------


def test_drain_sends_what_is_due(db, server):
    message = enqueue("Ada@example.com")

    assert sender.drain() == 1

    (mail,) = server.mails
    delivery, attempt = delivery_of(message), Attempt.objects.get()
    assert (mail.sender, mail.recipients) == ("accounts@example.com", ["Ada@example.com"])
    assert (read(message).state, delivery.status, delivery.provider) == ("sent", "sent", "smtp")
    assert delivery.esp_message_id == mail.message["Message-ID"] == f"<{message.pk}@example.com>"
    assert (attempt.outcome, attempt.http_status, attempt.error_class) == ("accepted", None, "")


def test_drain_sends_many_over_few_connections(db, server):
    messages = [enqueue(f"user-{number}@example.com") for number in range(40)]

    assert sender.drain() == 40

    assert {read(message).state for message in messages} == {"sent"}
    assert len({mail.message["Message-ID"] for mail in server.mails}) == 40
    assert len(server.connections) <= sender.THREADS


def test_drain_is_in_doubt_after_a_connection_that_was_cut_at_the_end_of_the_data(db, server):
    server.replies["DATA"] = "CUT"
    message = enqueue()

    sender.drain()
    server.replies.clear()
    send_again()

    assert (read(message).state, delivery_of(message).status) == ("unknown", "unknown")
    assert (Attempt.objects.get().outcome, len(server.mails)) == ("ambiguous", 1)


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
def test_drain_retries_what_is_refused_for_now(db, server, command):
    server.replies[command] = "451 4.7.1 Greylisted, please try again later"
    message = enqueue()
    sender.drain()
    assert (read(message).state, read(message).error_class) == ("retry", "smtp_451 4.7.1")

    server.replies.clear()
    send_again()

    assert (read(message).state, len(server.mails)) == ("sent", 1)


def test_drain_gives_up_what_is_refused_for_good(db, server):
    server.replies["RCPT"] = "550 5.1.1 <ada@example.com>: there is no such mailbox"
    message = enqueue()

    sender.drain()

    assert (read(message).state, delivery_of(message).status) == ("dead", "rejected")
    assert read(message).error_class == "smtp_550 5.1.1"


def test_drain_gives_up_content_that_is_refused_without_blaming_the_recipient(db, server):
    server.replies["DATA"] = "554 5.6.0 no"
    message = enqueue()

    sender.drain()

    assert (read(message).state, delivery_of(message).status) == ("dead", "failed")


def test_drain_charges_no_attempt_where_the_login_fails(db, point, settings):
    with mailserver.taking(login=True, auth_require_tls=False) as server:
        point(server.port, EMAIL_HOST_USER="accounts", EMAIL_HOST_PASSWORD="wrong")
        message = enqueue()

        sender.drain()

    assert (read(message).state, read(message).attempts) == ("retry", 0)
    assert ProviderState.objects.get(name="smtp").reason == "refused"
    assert server.mails == []


def test_drain_sends_to_an_international_address(db, server):
    message = enqueue("ada@bücher.example")

    sender.drain()

    assert server.mails[0].recipients == ["ada@xn--bcher-kva.example"]
    assert delivery_of(message).status == "sent"


# --- The mail -------------------------------------------------------------------------------------------


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


# --- The connection -------------------------------------------------------------------------------------


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


# --- What a server says ---------------------------------------------------------------------------------

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
        """Hang up as soon as the first of the data comes."""
        replies = iter([b"250 localhost", b"250 OK", b"250 OK", b"354 go on"])
        connection.sendall(b"220 ESMTP\r\n")
        for reply in replies:
            connection.recv(1000)
            connection.sendall(reply + b"\r\n")
        connection.recv(1)

    with mailserver.talking(talk) as port:
        point(port)

        answer = send(body="a line of text\n" * 2_000_000)

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


# --- Login and TLS --------------------------------------------------------------------------------------


@pytest.fixture
def authority(monkeypatch, tmp_path):
    """A certificate authority whom we trust."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    return authority


@pytest.mark.parametrize(
    ("password", "verdict", "error_class"),
    [("opensesame", Verdict.ACCEPTED, ""), ("wrong", Verdict.CONFIGURATION, "smtp_535 5.7.8")],
)
def test_login(point, send, password, verdict, error_class):
    with mailserver.taking(login=True, auth_require_tls=False) as server:
        point(server.port, EMAIL_HOST_USER="accounts", EMAIL_HOST_PASSWORD=password)

        answer = send()

    assert (answer.verdict, answer.error_class) == (verdict, error_class)


@pytest.mark.parametrize(
    ("reply", "verdict"), [("454 4.7.0 later", Verdict.NOT_SENT), ("534 5.7.9 too weak", Verdict.CONFIGURATION)]
)
def test_login_that_is_refused(point, send, reply, verdict):
    replies = {**TAKES, "EHLO": "250-localhost\r\n250 AUTH PLAIN", "AUTH": reply}
    with mailserver.talking(lambda connection: converse(connection, replies)) as port:
        point(port, EMAIL_HOST_USER="accounts", EMAIL_HOST_PASSWORD="opensesame")

        assert send().verdict is verdict


@pytest.mark.parametrize("offered", ["", " AUTH SOMETHING-NEW"])
def test_login_where_none_is_offered(point, send, offered):
    replies = {**TAKES, "EHLO": f"250-localhost\r\n250 {offered.strip() or 'HELP'}"}
    with mailserver.talking(lambda connection: converse(connection, replies)) as port:
        point(port, EMAIL_HOST_USER="accounts", EMAIL_HOST_PASSWORD="opensesame")

        assert send().verdict is Verdict.CONFIGURATION


KINDS = pytest.mark.parametrize("kind", ["EMAIL_USE_TLS", "EMAIL_USE_SSL"])


def over_tls(kind: str, context: ssl.SSLContext) -> dict[str, object]:
    if kind == "EMAIL_USE_SSL":
        return {"ssl_context": context, "auth_require_tls": False}
    return {"tls_context": context, "require_starttls": True}


@KINDS
def test_tls_with_a_server_that_is_trusted(db, point, authority, kind):
    context = mailserver.certified(authority.issue_cert("localhost"))
    with mailserver.taking(login=True, **over_tls(kind, context)) as server:
        login = {"EMAIL_HOST_USER": "accounts", "EMAIL_HOST_PASSWORD": "opensesame"}
        point(server.port, **{**login, "EMAIL_USE_TLS": False, kind: True})
        messages = [enqueue(), enqueue()]

        sender.drain()

    assert {read(message).state for message in messages} == {"sent"}
    assert len(server.mails) == 2


@KINDS
@pytest.mark.parametrize("case", ["of nobody's", "of another name"])
def test_tls_with_a_server_that_is_not_trusted(point, send, authority, kind, case):
    certificate = (
        authority.issue_cert("other.example") if case == "of another name" else trustme.CA().issue_cert("localhost")
    )
    with mailserver.taking(login=True, **over_tls(kind, mailserver.certified(certificate))) as server:
        login = {"EMAIL_HOST_USER": "accounts", "EMAIL_HOST_PASSWORD": "opensesame"}
        point(server.port, **{**login, "EMAIL_USE_TLS": False, kind: True})

        answer = send()

    assert (answer.verdict, answer.error_class) == (Verdict.NOT_SENT, "SSLCertVerificationError")
    assert (server.mails, server.logins) == ([], 0)


def test_tls_that_is_not_offered_is_no_reason_to_go_without(server, point, send):
    point(server.port, EMAIL_USE_TLS=True)

    answer = send()

    assert (answer.verdict, answer.error_class) == (Verdict.CONFIGURATION, "SMTPNotSupportedError")
    assert server.mails == []


def test_tls_with_a_key_of_our_own_still_verifies_the_server(point, send, authority, tmp_path):
    ours = authority.issue_cert("accounts.example.com")
    ours.private_key_and_cert_chain_pem.write_to_path(tmp_path / "ours.pem")
    context = mailserver.certified(authority.issue_cert("localhost"))
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with mailserver.taking(**over_tls("EMAIL_USE_SSL", context)) as server:
        point(server.port, EMAIL_USE_SSL=True, EMAIL_SSL_CERTFILE=str(tmp_path / "ours.pem"))

        answer = send()

    assert (answer.verdict, len(server.mails)) == (Verdict.ACCEPTED, 1)
