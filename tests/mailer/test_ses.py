"""Amazon SES, through boto3 against moto, and against servers that misbehave."""

import base64
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
import requests
import trustme
from anymail.exceptions import AnymailCancelSend
from anymail.message import AnymailMessage
from anymail.signals import post_send, pre_send

from mailer import couriers, sender, ses, threaded
from mailer.models import Attempt, ProviderState
from mailer.providers import PROVIDERS
from mailer.verdicts import Verdict
from tests.brokers import Moto
from tests.conftest import free_port
from tests.mailer import mailserver, tiny
from tests.mailer.conftest import delivery_of, draft, enqueue, read, send_again, signal_receiver

SES = PROVIDERS["amazon_ses"].backend
pytestmark = pytest.mark.usefixtures("fresh_threads")
WELL = (200, {}, b'{"MessageId": "ses-1"}')


@pytest.fixture
def send(thread):
    """Send a mail through SES and return what came of it."""
    return lambda mail: thread.submit(threaded.send, SES, mail).result()


@pytest.fixture(scope="module")
def moto(tmp_path_factory):
    server = Moto(tmp_path_factory.mktemp("moto") / "server", volatile=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def point(boto3_at, settings):
    """Have mails go through SES at another server."""

    def point(url: str) -> None:
        settings.MAIL_PROVIDERS = ["amazon_ses"]
        settings.ANYMAIL = dict(PROVIDERS["amazon_ses"].fixed)
        boto3_at(url)

    return point


@pytest.fixture
def amazon(moto, point):
    """Amazon, where our sender is known and nothing was sent yet."""
    requests.post(f"{moto.url}/moto-api/reset", timeout=30).raise_for_status()
    point(moto.url)
    boto3.session.Session().client("sesv2").create_email_identity(EmailIdentity="accounts@example.com")
    return moto


@pytest.fixture
def answering(point):
    """Start a server that gives one answer for ever, in SES's place."""
    started = []

    def answering(status: int, headers: dict[str, str], body: bytes) -> tiny.Tiny:
        server = tiny.serving(lambda: (status, headers, body))
        started.append(server)
        it = server.__enter__()
        point(it.url)
        return it

    yield answering
    ses.forget()
    for server in started:
        server.__exit__(None, None, None)


def refusal(status: int, code: str):
    return status, {"x-amzn-ErrorType": f"{code}:http://internal.amazon.com/"}, b'{"message": "to ada@example.com: no"}'


def test_ses_sends_what_is_due(db, amazon):
    message = enqueue("Ada@example.com")

    assert sender.drain() == 1

    delivery, attempt = delivery_of(message), Attempt.objects.get()
    assert (read(message).state, delivery.status, delivery.provider) == ("sent", "sent", "amazon_ses")
    assert (attempt.outcome, attempt.http_status, attempt.error_class) == ("accepted", 200, "")
    assert delivery.esp_message_id in requests.get(f"{amazon.url}/moto-api/data.json", timeout=30).text


def test_ses_gets_our_ids_and_no_second_request(db, answering):
    server = answering(*WELL)
    message = enqueue()

    sender.drain()

    ((headers, body),) = server.requests
    raw = content_of(body)
    assert str(message.pk) in raw
    assert headers["Authorization"].startswith("AWS4-HMAC-SHA256")
    assert delivery_of(message).esp_message_id == "ses-1"


def content_of(body: bytes) -> str:
    return base64.b64decode(json.loads(body)["Content"]["Raw"]["Data"]).decode()


def test_ses_keeps_one_client_and_its_connections(db, answering):
    server = answering(*WELL)

    for _ in range(3):
        enqueue()
        sender.drain()

    assert len(server.requests) == 3
    assert server.connections == 1


def test_ses_uses_no_connection_that_was_idle(answering, send, monkeypatch):
    monkeypatch.setattr(couriers, "KEPT", 0)
    server = answering(*WELL)

    answers = [send(draft()) for _ in range(3)]

    assert {answer.verdict for answer in answers} == {Verdict.ACCEPTED}
    assert server.connections == 3


def test_ses_makes_one_client_for_all_threads(answering, monkeypatch):
    answering(*WELL)
    made = []
    session = boto3.session.Session
    monkeypatch.setattr(boto3.session, "Session", lambda **each: made.append(each) or session(**each))
    start = threading.Barrier(4)

    def one(_):
        start.wait(30)
        return threaded.send(SES, draft())

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(one, range(4)))

    assert {answer.verdict for answer in answers} == {Verdict.ACCEPTED}
    assert len(made) == 1


def test_ses_names_each_recipient(answering, send):
    answering(*WELL)

    answer = send(draft("ada@example.com", cc=["bob@example.com"], bcc=["eve@example.com"]))

    assert {address: (each.message_id, each.status) for address, each in answer.recipients.items()} == {
        "ada@example.com": ("ses-1", "queued"),
        "bob@example.com": ("ses-1", "queued"),
        "eve@example.com": ("ses-1", "queued"),
    }


@pytest.mark.parametrize(
    ("status", "code", "verdict"),
    [
        (400, "BadRequestException", Verdict.PERMANENT),
        (400, "MessageRejected", Verdict.NOT_SENT),
        (400, "AccountSuspendedException", Verdict.CONFIGURATION),
        (400, "SendingPausedException", Verdict.CONFIGURATION),
        (400, "MailFromDomainNotVerifiedException", Verdict.CONFIGURATION),
        (400, "AccessDeniedException", Verdict.CONFIGURATION),
        (400, "InvalidSignatureException", Verdict.CONFIGURATION),
        (400, "UnrecognizedClientException", Verdict.CONFIGURATION),
        (403, "SignatureDoesNotMatch", Verdict.CONFIGURATION),
        (404, "NotFoundException", Verdict.CONFIGURATION),
        (400, "ThrottlingException", Verdict.THROTTLED),
        (400, "LimitExceededException", Verdict.THROTTLED),
        (429, "TooManyRequestsException", Verdict.THROTTLED),
        (429, "SomethingNew", Verdict.THROTTLED),
        (400, "RequestAbortedException", Verdict.AMBIGUOUS),
        (408, "RequestTimeoutException", Verdict.AMBIGUOUS),
        (500, "InternalFailure", Verdict.AMBIGUOUS),
        (503, "ServiceUnavailable", Verdict.AMBIGUOUS),
    ],
)
def test_ses_says_what_its_pages_say(answering, send, status, code, verdict):
    server = answering(*refusal(status, code))

    answer = send(draft())

    assert (answer.verdict, answer.http_status, answer.error_class) == (verdict, status, code)
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"MessageId": {}}', b"\xff"])
def test_ses_has_accepted_with_any_2xx(answering, send, body):
    server = answering(200, {}, body)

    answer = send(draft())

    assert (answer.verdict, answer.error_class) == (Verdict.ACCEPTED, "unreadable_answer")
    assert len(server.requests) == 1


def test_ses_said_something_unreadable_while_it_failed(answering, send):
    answering(500, {}, b"\xff")

    answer = send(draft())

    assert (answer.verdict, answer.http_status) == (Verdict.AMBIGUOUS, 500)


def bulk(*statuses: str) -> bytes:
    return json.dumps(
        {"BulkEmailEntryResults": [{"Status": each, "MessageId": each.lower()} for each in statuses]}
    ).encode()


def template(*to: str) -> AnymailMessage:
    mail = draft(*to, template_id="hello", merge_data={address: {"name": "you"} for address in to})
    mail.subject, mail.body = None, None
    return mail


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("ACCOUNT_THROTTLED", Verdict.THROTTLED),
        ("ACCOUNT_SUSPENDED", Verdict.CONFIGURATION),
        ("TEMPLATE_NOT_FOUND", Verdict.PERMANENT),
        ("TRANSIENT_FAILURE", Verdict.NOT_SENT),
    ],
)
def test_ses_refuses_a_templates_mail_with_200(answering, send, status, verdict):
    answering(200, {}, bulk(status))

    answer = send(template("ada@example.com"))

    assert (answer.verdict, answer.error_class) == (verdict, status)


def test_ses_refuses_one_recipient_of_a_templates_mail(answering, send):
    answering(200, {}, bulk("MESSAGE_REJECTED", "SUCCESS"))

    answer = send(template("ada@example.com", "bob@example.com"))

    assert answer.verdict is Verdict.ACCEPTED
    assert {address: each.status for address, each in answer.recipients.items()} == {
        "ada@example.com": "failed",
        "bob@example.com": "queued",
    }


def test_ses_is_sent_nothing_that_anymail_cannot_write(answering, send):
    server = answering(*WELL)

    answer = send(draft("no address at all"))

    assert (answer.verdict, answer.error_class) == (Verdict.PERMANENT, "AnymailInvalidAddress")
    assert server.connections == 0


def test_ses_is_not_there(point, send):
    point(f"http://127.0.0.1:{free_port()}")

    answer = send(draft())

    assert (answer.verdict, answer.error_class) == (Verdict.NOT_SENT, "EndpointConnectionError")


def test_ses_has_no_address(point, send):
    point("http://ses.invalid")

    answer = send(draft())

    assert (answer.verdict, answer.error_class) == (Verdict.NOT_SENT, "EndpointConnectionError")


def test_ses_cannot_be_trusted(point, send, tmp_path):
    certificate = tmp_path / "server.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    with tiny.serving(lambda: WELL, certificate) as server:
        point(server.url)

        answer = send(draft())

    assert (answer.verdict, answer.error_class) == (Verdict.NOT_SENT, "SSLError")
    assert server.requests == []


def test_ses_hangs_up_without_an_answer(point, send):
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)

    with mailserver.talking(talk) as port:
        point(f"http://127.0.0.1:{port}")

        answer = send(draft())

    assert (answer.verdict, answer.error_class) == (Verdict.AMBIGUOUS, "ConnectionClosedError")


def test_ses_does_not_answer_in_time(point, send, settings):
    release = threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        release.wait(30)

    with mailserver.talking(talk) as port:
        point(f"http://127.0.0.1:{port}")
        config = {**settings.ANYMAIL["AMAZON_SES_CLIENT_PARAMS"]["config"], "read_timeout": 0.2}
        settings.ANYMAIL = {"AMAZON_SES_CLIENT_PARAMS": {"config": config}}

        answer = send(draft())
        release.set()

    assert (answer.verdict, answer.error_class) == (Verdict.AMBIGUOUS, "ReadTimeoutError")


def test_ses_is_not_asked_without_credentials(answering, send, monkeypatch):
    server = answering(*WELL)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")

    answer = send(draft())

    assert (answer.verdict, answer.error_class) == (Verdict.CONFIGURATION, "NoCredentialsError")
    assert server.connections == 0


def test_ses_is_not_asked_without_a_region(answering, send, monkeypatch):
    answering(*WELL)
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    answer = send(draft())

    assert (answer.verdict, answer.error_class) == (Verdict.CONFIGURATION, "NoRegionError")


def test_ses_is_asked_again_with_credentials_that_came_later(answering, send, monkeypatch):
    answering(*WELL)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    send(draft())

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")

    assert send(draft()).verdict is Verdict.ACCEPTED


def test_drain_leaves_ses_alone_that_throttles_and_sends_later(db, answering, amazon):
    server = answering(*refusal(429, "TooManyRequestsException"))
    message = enqueue()

    sender.drain()

    row = read(message)
    assert (row.state, row.attempts, row.error_class) == ("retry", 0, "TooManyRequestsException")
    assert ProviderState.objects.get(name="amazon_ses").reason == "throttled"
    assert len(server.requests) == 1

    server.answer = lambda: WELL
    send_again()

    assert (read(message).state, len(server.requests)) == ("sent", 2)


def test_drain_is_in_doubt_after_an_error_of_ses(db, answering):
    server = answering(*refusal(500, "InternalFailure"))
    message = enqueue()

    sender.drain()
    send_again()

    assert (read(message).state, delivery_of(message).status) == ("unknown", "unknown")
    assert Attempt.objects.get().error_class == "InternalFailure"
    assert len(server.requests) == 1


def test_drain_sends_many_by_ses_at_once(db, answering):
    server = answering(*WELL)
    messages = [enqueue(f"user-{number}@example.com") for number in range(40)]

    assert sender.drain() == 40

    assert {read(message).state for message in messages} == {"sent"}
    assert len(server.requests) == 40
    assert server.connections <= sender.THREADS


def test_anymails_signals_are_heard_in_the_drains_thread(db, answering):
    answering(*WELL)
    heard = []

    def listen(signal, message, status=None, **_):
        heard.append((signal, message.to, status and status.message_id, threading.current_thread()))

    enqueue()
    with signal_receiver(pre_send, listen), signal_receiver(post_send, listen):
        sender.drain()

    here = threading.current_thread()
    assert heard == [(pre_send, ["ada@example.com"], None, here), (post_send, ["ada@example.com"], "ses-1", here)]


def test_a_receiver_cancels_what_would_go_by_ses(db, answering):
    def cancel(**_):
        raise AnymailCancelSend

    server = answering(*WELL)
    message = enqueue()
    with signal_receiver(pre_send, cancel):
        sender.drain()

    assert (read(message).state, read(message).error_class) == ("dead", "cancelled_by_receiver")
    assert server.connections == 0
