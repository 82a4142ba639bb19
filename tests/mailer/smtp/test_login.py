"""Logins, and servers that are trusted or not."""

import ssl

import pytest
import trustme

from mailer import sender
from mailer.verdicts import Verdict
from tests.mailer import mailserver
from tests.mailer.conftest import enqueue, read
from tests.mailer.smtp.conftest import TAKES, converse

# aiosmtpd says so of a login over a connection that is not encrypted, or was from the start.
pytestmark = [
    pytest.mark.usefixtures("fresh_threads"),
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning"),
]


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
