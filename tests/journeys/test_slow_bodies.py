"""Bodies that do not come, at the real web server: they hold no thread, and not for ever."""

import select
import socket
from contextlib import ExitStack

import pytest

from tests.conftest import PATIENCE, wait_until
from tests.journeys.test_door import BASIC, BODY
from webhooks.models import WebhookReceipt

# 20 more than the web process of these tests has threads.
STALLED = 24
GENUINE = 50
LARGEST = 10 * 1024 * 1024


@pytest.fixture
def connect(service):
    with ExitStack() as connections:

        def connect(length, *more):
            connection = socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE)
            connections.enter_context(connection)
            head = b"POST /webhooks/postmark/ HTTP/1.1\r\nHost: 127.0.0.1\r\n%sContent-Length: %d\r\n\r\n"
            connection.sendall(head % (BASIC, length) + b"".join(more))
            return connection

        yield connect


def has_answer(connection):
    return bool(select.select([connection], [], [], 0)[0])


def status_of(connection):
    return int(connection.recv(65536).split(b" ", 2)[1])


def test_genuine_webhooks_are_taken_while_bodies_stall(service, connect):
    service.web(WEB_BODY_SECONDS="600")
    stalled = [connect(len(BODY), *[b"{"] * (number % 2)) for number in range(STALLED)]

    statuses = [status_of(connect(len(BODY), BODY)) for _ in range(GENUINE)]

    assert statuses == [200] * GENUINE
    assert not any(map(has_answer, stalled))
    assert WebhookReceipt.objects.count() == GENUINE
    stalled[1].sendall(BODY[1:])  # slow, and in time
    assert status_of(stalled[1]) == 200


def test_body_that_stalls_or_trickles_is_cut_off(service, connect):
    service.web(WEB_BODY_SECONDS="1")
    stalled, trickling = connect(len(BODY)), connect(LARGEST)

    def drip():
        trickling.sendall(b" ")
        return has_answer(trickling)

    wait_until(drip)

    assert [status_of(connection) for connection in (stalled, trickling)] == [503, 503]
    assert [connection.recv(1) for connection in (stalled, trickling)] == [b"", b""]
    assert not WebhookReceipt.objects.exists()
    assert [entry["reason"] for entry in service.entries() if entry["event"] == "receipt_rejected"] == ["too_slow"] * 2


def test_largest_body_is_taken_and_a_larger_one_refused_unread(service, connect):
    service.web()

    assert status_of(connect(LARGEST + 1)) == 413
    assert not WebhookReceipt.objects.exists()
    assert status_of(connect(LARGEST, BODY, b" " * (LARGEST - len(BODY)))) == 200
    assert len(bytes(WebhookReceipt.objects.get().body)) == LARGEST


def test_web_process_stops_in_order_while_bodies_stall(service, connect):
    web = service.web(WEB_BODY_SECONDS="1")
    stalled = [connect(len(BODY)) for _ in range(STALLED)]
    assert status_of(connect(len(BODY), BODY)) == 200

    web.terminate()

    assert web.wait(PATIENCE) == 0
    assert {connection.recv(65536)[:12] for connection in stalled} <= {b"HTTP/1.1 503", b""}
