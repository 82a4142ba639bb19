import json

import pytest

from tests.simulator.conftest import Receiver, Simulator, Start, postmark_mail, resend_mail, wait_until


def states(simulator: Simulator) -> list[tuple[str, int]]:
    return [(hook["state"], hook["attempts"]) for hook in simulator.webhooks()]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
def test_postmark_takes_a_4xx_as_final(simulator: Simulator, receiver: Receiver, status: int) -> None:
    receiver.answers = [status]
    simulator.postmark(postmark_mail())

    wait_until(lambda: states(simulator) == [("failed", 1)])
    assert simulator.webhooks()[0]["status"] == status


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_postmark_retries_what_is_temporary(start: Start, receiver: Receiver, status: int) -> None:
    simulator = start(SIMULATOR_TIME_SCALE="0.0002")
    receiver.answers = [status] * 9
    simulator.postmark(postmark_mail())

    wait_until(lambda: states(simulator) == [("delivered", 10)])
    remaining = [request.headers["x-pm-retries-remaining"] for request in receiver.received]
    assert remaining == ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"]
    assert len({request.headers["x-pm-webhook-trace-id"] for request in receiver.received}) == 1


@pytest.mark.parametrize("status", [302, 401, 403, 503])
def test_resend_retries_anything_but_success(start: Start, receiver: Receiver, status: int) -> None:
    simulator = start(SIMULATOR_TIME_SCALE="0.00001")
    receiver.answers = [status] * 8
    simulator.resend(resend_mail("reject@example.com"))

    wait_until(lambda: states(simulator) == [("failed", 8)])
    assert len({request.headers["svix-id"] for request in receiver.received}) == 1
    assert len({request.body for request in receiver.received}) == 1


def test_nobody_listening_is_retried(start: Start) -> None:
    simulator = start(SIMULATOR_RESEND_WEBHOOK="http://127.0.0.1:9/", SIMULATOR_TIME_SCALE="0.00001")
    simulator.resend(resend_mail("reject@example.com"))

    wait_until(lambda: states(simulator) == [("failed", 8)])
    assert "ClientConnectorError" in simulator.webhooks()[0]["answer"]


def test_pending_webhooks_survive_kill_9(start: Start, receiver: Receiver) -> None:
    receiver.answers = [503]
    simulator = start()
    simulator.resend(resend_mail("slow@example.com"))
    wait_until(lambda: len(receiver.received) == 1)
    simulator.process.kill()
    simulator.process.wait()

    simulator = start()

    wait_until(lambda: {state for state, _ in states(simulator)} == {"delivered"})
    kinds = [json.loads(request.body)["type"] for request in receiver.received]
    assert set(kinds) == {"email.sent", "email.delivered"}


def test_without_an_address_nothing_is_posted(start: Start, receiver: Receiver) -> None:
    simulator = start(SIMULATOR_POSTMARK_WEBHOOK="")
    simulator.postmark(postmark_mail())

    assert states(simulator) == [("withheld", 0)]
    assert receiver.received == []
