"""The webhooks' door behind the real web server: what arrives there is not always what a test client can send."""

import base64
import json
import socket

import pytest

from tests.conftest import wait_until
from tests.journeys.conftest import HOOK_PASSWORD
from webhooks.models import WebhookReceipt

BASIC = f"Authorization: Basic {base64.b64encode(f'hook:{HOOK_PASSWORD}'.encode()).decode()}\r\n".encode()
BODY = json.dumps({"RecordType": "Delivery", "MessageID": "id", "Recipient": "ada@example.org"}).encode()


@pytest.fixture
def speak(service):
    """Send bytes to the web server and return the status it answers with."""
    service.web()

    def speak(*parts, path=b"/webhooks/postmark/"):
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
            connection.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n")
            connection.sendall(b"".join(parts))
            answer = connection.recv(65536)
        return int(answer.split(b" ", 2)[1])

    return speak


def test_door_behind_the_web_server(speak):
    length = b"Content-Length: %d\r\n\r\n" % len(BODY)

    assert speak(BASIC, length, BODY) == 200
    assert WebhookReceipt.objects.get().state == "processed"


def test_door_takes_a_body_in_chunks(speak):
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:7], BODY[7:]))

    assert speak(BASIC, b"Transfer-Encoding: chunked\r\n\r\n", chunks, b"0\r\n\r\n") == 200
    receipt = WebhookReceipt.objects.get()
    assert (bytes(receipt.body), receipt.state) == (BODY, "processed")


def test_door_refuses_garbage_in_headers_and_stores_nothing(speak):
    length = b"Content-Length: %d\r\n\r\n" % len(BODY)
    garbage = [b"Authorization: Basic \xff\xfe\x80\r\n", b"Authorization: \xe9\r\n", b"svix-signature: v1,\xff\r\n"]

    statuses = {speak(line, length, BODY) for line in garbage}
    statuses |= {
        speak(
            b"svix-id: \xff\r\nsvix-timestamp: 1\xff\r\nsvix-signature: v1,\xc3\x28\r\n",
            length,
            BODY,
            path=b"/webhooks/resend/",
        )
    }

    assert statuses <= {400, 401}
    assert not WebhookReceipt.objects.exists()


def test_door_refuses_a_body_that_is_too_large(speak):
    assert speak(BASIC, b"Content-Length: 10485761\r\n\r\n", b"x" * 1024) == 413
    assert not WebhookReceipt.objects.exists()


def test_door_refuses_chunks_that_are_too_large(speak):
    chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"

    assert speak(BASIC, b"Transfer-Encoding: chunked\r\n\r\n", chunk * 10, b"1\r\nx\r\n0\r\n\r\n") == 413
    assert not WebhookReceipt.objects.exists()


def test_door_stores_nothing_of_a_body_that_breaks_off(speak, service):
    length = b"Content-Length: %d\r\n\r\n" % len(BODY)
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(b"POST /webhooks/postmark/ HTTP/1.1\r\nHost: 127.0.0.1\r\n" + BASIC + length + BODY[:10])

    assert speak(BASIC, length, BODY) == 200
    wait_until(lambda: service.text().count("request_started") == service.text().count("request_finished") > 0)
    assert bytes(WebhookReceipt.objects.get().body) == BODY
