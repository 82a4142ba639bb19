import json
import socket
from typing import Any

import pytest
import requests

from tests.simulator.conftest import (
    KEY,
    PROVIDERS,
    TOKEN,
    Receiver,
    Simulator,
    postmark_mail,
    resend_mail,
    wait_until,
)

BOTH = pytest.mark.parametrize("provider", ["postmark", "resend"])
ALL = pytest.mark.parametrize("provider", PROVIDERS)


@ALL
@pytest.mark.parametrize(("fault", "wait"), [("rate_429", "1"), ("rate_429_bare", None)])
def test_rate_429_may_say_when_to_come_back(quiet: Simulator, provider: str, fault: str, wait: str | None) -> None:
    quiet.faults(**{fault: 1})

    response = quiet.send(provider)

    assert (response.status_code, response.headers.get("Retry-After")) == (429, wait)
    assert quiet.done() == [(provider, "m-1", fault.removeprefix("rate_"))]
    assert quiet.count() == 0


@ALL
@pytest.mark.parametrize(("fault", "accepted"), [("rate_5xx_before", 0), ("rate_5xx_after", 1)])
def test_rate_5xx(quiet: Simulator, provider: str, fault: str, accepted: int) -> None:
    quiet.faults(**{fault: 1})

    assert quiet.send(provider).status_code == 500
    assert quiet.count() == accepted
    assert quiet.done() == [(provider, "m-1", fault.removeprefix("rate_"))]


@ALL
@pytest.mark.parametrize(("fault", "accepted"), [("rate_reset_before", 0), ("rate_reset_after", 1)])
def test_rate_reset_cuts_the_connection(quiet: Simulator, provider: str, fault: str, accepted: int) -> None:
    quiet.faults(**{fault: 1})

    with pytest.raises(requests.ConnectionError):
        quiet.send(provider)
    quiet.faults()
    assert quiet.count() == accepted
    assert quiet.done() == [(provider, "m-1", fault.removeprefix("rate_"))]
    assert quiet.send(provider).ok


@pytest.mark.parametrize("fault", ["rate_reset_before", "rate_reset_after"])
def test_rate_reset_sends_not_one_byte(quiet: Simulator, fault: str) -> None:
    quiet.faults(**{fault: 1})
    body = json.dumps(postmark_mail())
    head = f"POST /postmark/email HTTP/1.1\r\nHost: x\r\nX-Postmark-Server-Token: {TOKEN}\r\n"

    with socket.create_connection(("127.0.0.1", quiet.port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        try:
            answer = connection.recv(1000)
        except ConnectionResetError:
            answer = b""

    assert answer == b""


@ALL
def test_rate_unreadable_accepts_and_answers_200(quiet: Simulator, provider: str) -> None:
    quiet.faults(rate_unreadable=1)

    response = quiet.send(provider)

    assert response.status_code == 200
    with pytest.raises(requests.JSONDecodeError):
        response.json()
    assert quiet.count() == 1


def test_rate_hang_accepts_and_never_answers(quiet: Simulator) -> None:
    quiet.faults(rate_hang=1, hang_ms=300)

    with pytest.raises(requests.ConnectionError):
        quiet.send("postmark")

    assert quiet.done() == [("postmark", "m-1", "hang")]
    assert quiet.count() == 1


def test_rate_hang_holds_no_idempotency_key(quiet: Simulator) -> None:
    quiet.faults(rate_hang=1)
    with pytest.raises(requests.ReadTimeout):
        requests.post(
            f"{quiet.url}/resend/emails",
            json=resend_mail(),
            headers={"Authorization": f"Bearer {KEY}", "Idempotency-Key": "key-1"},
            timeout=1,
        )
    quiet.faults()

    response = quiet.resend(resend_mail(), key="key-1")

    (row,) = quiet.get("/log.json")["accepted"]
    assert response.json() == {"id": row["id"]}


@pytest.mark.parametrize(("fault", "accepted"), [("rate_5xx_before", 0), ("rate_5xx_after", 2)])
def test_a_batch_fails_as_one_request(quiet: Simulator, fault: str, accepted: int) -> None:
    quiet.faults(**{fault: 1})
    mails = [postmark_mail(Metadata={"message_id": name}) for name in ("m-1", "m-2")]

    assert quiet.postmark(mails, "email/batch").status_code == 500

    assert quiet.done() == [("postmark", name, fault.removeprefix("rate_")) for name in ("m-1", "m-2")]
    assert quiet.count() == accepted


def test_retry_with_the_key_after_a_reset_sends_once(quiet: Simulator) -> None:
    quiet.faults(rate_reset_after=1)
    with pytest.raises(requests.ConnectionError):
        quiet.resend(resend_mail(), key="key-1")
    quiet.faults()

    response = quiet.resend(resend_mail(), key="key-1")

    (row,) = quiet.get("/log.json")["accepted"]
    assert response.json() == {"id": row["id"]}


def test_latency_delays_the_answer(quiet: Simulator) -> None:
    quiet.faults(latency_ms=1500)

    with pytest.raises(requests.ReadTimeout):
        requests.post(
            f"{quiet.url}/resend/emails",
            json=resend_mail(),
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=0.2,
        )
    wait_until(lambda: quiet.count() == 1)


def test_seed_repeats_the_choices(quiet: Simulator) -> None:
    def outcomes() -> list[int]:
        quiet.faults(rate_5xx_before=0.5, seed=7)
        return [quiet.postmark(postmark_mail()).status_code for _ in range(12)]

    first = outcomes()

    assert outcomes() == first
    assert set(first) == {200, 500}


def test_webhook_duplicate_posts_the_same_again(simulator: Simulator, receiver: Receiver) -> None:
    simulator.faults(webhook_duplicate=1)
    simulator.resend(resend_mail("reject@example.com"))

    wait_until(lambda: len(receiver.received) == 2)
    first, second = receiver.received
    assert (first.body, first.headers["svix-id"]) == (second.body, second.headers["svix-id"])


def test_webhook_shuffle_lets_later_news_come_first(simulator: Simulator, receiver: Receiver) -> None:
    simulator.faults(webhook_shuffle=True, seed=1)
    simulator.resend(resend_mail("click@example.com"))

    wait_until(lambda: len(receiver.received) == 4)
    due = [hook["event"] for hook in sorted(simulator.webhooks(), key=lambda hook: hook["due"])]
    happened = [hook["event"] for hook in sorted(simulator.webhooks(), key=lambda hook: hook["happened_at"])]
    assert sorted(due) == sorted(happened)
    assert due != happened


def test_webhook_delay_keeps_the_time_of_the_event(simulator: Simulator, receiver: Receiver) -> None:
    simulator.faults(webhook_delay_ms=60_000)
    simulator.resend(resend_mail("reject@example.com"))

    (hook,) = simulator.webhooks()
    assert hook["due"] - hook["happened_at"] == pytest.approx(60)
    assert receiver.received == []


def test_webhook_late_adds_as_much_as_chance_will(simulator: Simulator, receiver: Receiver) -> None:
    simulator.faults(webhook_delay_ms=60_000, webhook_late_ms=1000, seed=1)
    for _ in range(5):
        simulator.resend(resend_mail("reject@example.com"))

    late = {hook["due"] - hook["happened_at"] for hook in simulator.webhooks()}
    assert len(late) == 5
    assert all(60 <= seconds <= 61 for seconds in late)
    assert receiver.received == []


@BOTH
def test_webhook_early_comes_before_the_answer(simulator: Simulator, receiver: Receiver, provider: str) -> None:
    simulator.faults(webhook_early=True)

    simulator.send(provider)

    assert len(receiver.received) == (1 if provider == "postmark" else 2)
    assert {hook["state"] for hook in simulator.webhooks()} == {"delivered"}


@pytest.mark.parametrize(
    "faults", [{"nonsense": 1}, {"rate_429": 2}, {"rate_429": "1"}, {"webhook_shuffle": 1}, {"seed": 1.5}, []]
)
def test_put_faults_refuses_what_it_does_not_know(quiet: Simulator, faults: Any) -> None:
    response = requests.put(f"{quiet.url}/faults", json=faults, timeout=10)

    assert response.status_code == 400
    assert quiet.get("/faults")["rate_429"] == 0


def test_put_faults_replaces_all(quiet: Simulator) -> None:
    quiet.faults(rate_429=0.5, seed=3)
    quiet.faults(latency_ms=1)

    assert quiet.get("/faults") == {
        "latency_ms": 1,
        "hang_ms": 60_000,
        "search_lag_ms": 0,
        "rate_429": 0,
        "rate_429_bare": 0,
        "rate_5xx_before": 0,
        "rate_5xx_after": 0,
        "rate_reset_before": 0,
        "rate_reset_after": 0,
        "rate_unreadable": 0,
        "rate_hang": 0,
        "rate_search_5xx": 0,
        "webhook_duplicate": 0,
        "webhook_forged": 0,
        "webhook_shuffle": False,
        "webhook_delay_ms": 0,
        "webhook_late_ms": 0,
        "webhook_early": False,
        "seed": None,
    }
