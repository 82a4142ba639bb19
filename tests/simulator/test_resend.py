import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from svix.webhooks import Webhook

from tests.simulator.conftest import SECRET, Receiver, Simulator, Start, resend_mail, wait_until


def posted(receiver: Receiver, count: int) -> list[dict[str, Any]]:
    wait_until(lambda: len(receiver.received) >= count)
    return [json.loads(request.body) for request in receiver.received]


def test_email_answers_and_is_in_the_log(quiet: Simulator) -> None:
    response = quiet.resend(resend_mail("Ann <ann@example.com>"), key="key-1")

    (row,) = quiet.get("/log.json", message_id="m-1", to="ANN@example.com")["accepted"]
    assert response.status_code == 200
    assert response.json() == {"id": row["id"]}
    assert (row["provider"], row["to"], row["idempotency_key"]) == ("resend", ["ann@example.com"], "key-1")
    assert row["metadata"] == {"message_id": "m-1"}


@pytest.mark.parametrize(
    ("token", "status", "name"), [(None, 401, "missing_api_key"), ("wrong", 403, "invalid_api_key")]
)
def test_email_refuses_a_bad_key(quiet: Simulator, token: str | None, status: int, name: str) -> None:
    response = quiet.resend(resend_mail(), token=token)

    assert response.status_code == status
    assert response.json() == {"statusCode": status, "name": name, "message": response.json()["message"]}
    assert quiet.count() == 0


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"to": []}, "missing_required_field"),
        ({"from": ""}, "missing_required_field"),
        ({"subject": ""}, "missing_required_field"),
        ({"text": ""}, "missing_required_field"),
        ({"to": ["nobody"]}, "validation_error"),
        ({"to": ["a@example.com", "broken <"]}, "validation_error"),
        ({"to": [f"{n}@example.com" for n in range(51)]}, "validation_error"),
        ({"subject": 5}, "validation_error"),
    ],
)
def test_email_refuses_what_resend_refuses(quiet: Simulator, change: dict[str, Any], name: str) -> None:
    response = quiet.resend(resend_mail() | change)

    assert (response.status_code, response.json()["name"]) == (422, name)
    assert quiet.count() == 0


def test_batch_answers_in_order(quiet: Simulator) -> None:
    response = quiet.resend([resend_mail("a@example.com"), resend_mail("b@example.com")], path="emails/batch")

    rows = quiet.get("/log.json")["accepted"]
    assert response.json() == {"data": [{"id": row["id"]} for row in rows]}
    assert [row["to"] for row in rows] == [["a@example.com"], ["b@example.com"]]


@pytest.mark.parametrize("mails", [[resend_mail()] * 101, [resend_mail(), resend_mail(to=["x"])], {}])
def test_batch_is_refused_as_a_whole(quiet: Simulator, mails: Any) -> None:
    response = quiet.resend(mails, path="emails/batch")

    assert response.status_code == 422
    assert quiet.count() == 0


def test_permissive_batch_takes_the_valid_ones(quiet: Simulator) -> None:
    mails = [resend_mail("a@example.com"), resend_mail(to=["x"]), resend_mail("b@example.com")]
    headers = {"Authorization": "Bearer re_key", "x-batch-validation": "permissive", "Idempotency-Key": "key-1"}

    def post() -> requests.Response:
        return requests.post(f"{quiet.url}/resend/emails/batch", json=mails, headers=headers, timeout=10)

    first, again = post(), post()

    rows = quiet.get("/log.json")["accepted"]
    errors = first.json()["errors"]
    assert first.status_code == 200
    assert first.json()["data"] == [{"id": row["id"]} for row in rows]
    assert [row["to"] for row in rows] == [["a@example.com"], ["b@example.com"]]
    assert [(each["index"], each["message"][:20]) for each in errors] == [(1, "Invalid `to` field. ")]
    assert again.json() == first.json()
    done = [what for _, _, what in quiet.done()]
    assert done == ["accepted", "refused_422", "accepted", "repeated", "repeated", "repeated"]


@pytest.mark.parametrize("path", ["emails", "emails/batch"])
def test_same_key_and_body_answers_again_and_sends_nothing(quiet: Simulator, path: str) -> None:
    payload = [resend_mail()] if path.endswith("batch") else resend_mail()
    first = quiet.resend(payload, key="key-1", path=path)

    again = quiet.resend(payload, key="key-1", path=path)

    assert again.json() == first.json()
    assert quiet.count() == 1


def test_same_key_with_another_body_is_refused(quiet: Simulator) -> None:
    quiet.resend(resend_mail(), key="key-1")

    response = quiet.resend(resend_mail(subject="Other"), key="key-1")

    assert (response.status_code, response.json()["name"]) == (409, "invalid_idempotent_request")
    assert quiet.count() == 1


def test_same_key_in_progress_is_refused(quiet: Simulator) -> None:
    quiet.faults(latency_ms=1500)
    with ThreadPoolExecutor() as pool:
        responses = list(pool.map(lambda _: quiet.resend(resend_mail(), key="key-1"), range(2)))

    refused, accepted = sorted(responses, key=lambda response: -response.status_code)
    assert (accepted.status_code, refused.status_code) == (200, 409)
    assert refused.json()["name"] == "concurrent_idempotent_requests"
    assert quiet.count() == 1


@pytest.mark.parametrize("key", ["", "x" * 257])
def test_key_of_a_wrong_length_is_refused(quiet: Simulator, key: str) -> None:
    response = quiet.resend(resend_mail(), key=key)

    assert (response.status_code, response.json()["name"]) == (400, "invalid_idempotency_key")


def test_key_outlives_a_restart_and_expires_after_a_day(start: Start, tmp_path: Path) -> None:
    simulator = start()
    first = simulator.resend(resend_mail(), key="key-1").json()
    simulator.stop()

    simulator = start()
    assert simulator.resend(resend_mail(), key="key-1").json() == first
    simulator.stop()
    with sqlite3.connect(tmp_path / "data" / "log.sqlite3") as log:
        log.execute("UPDATE idempotency SET at = at - 24 * 3600 - 1")
    simulator = start()
    assert simulator.resend(resend_mail(), key="key-1").json() != first


def test_webhooks_are_signed_as_svix_signs(simulator: Simulator, receiver: Receiver) -> None:
    simulator.resend(resend_mail())

    posted(receiver, 2)
    for request in receiver.received:
        Webhook(SECRET).verify(request.body, request.headers)
    assert len({request.headers["svix-id"] for request in receiver.received}) == 2


def test_webhook_carries_every_field(simulator: Simulator, receiver: Receiver) -> None:
    tags = [{"name": "kind", "value": "verification"}]
    email_id = simulator.resend(resend_mail("Bo <bounce@example.com>", tags=tags)).json()["id"]

    sent, bounced = sorted(posted(receiver, 2), key=lambda body: body["created_at"])
    common = {
        "created_at": sent["data"]["created_at"],
        "email_id": email_id,
        "message_id": sent["data"]["message_id"],
        "from": "Shop <shop@example.com>",
        "subject": "Hello",
        "headers": [{"name": "X-Metadata", "value": '{"message_id": "m-1"}'}],
        "tags": {"kind": "verification"},
    }
    assert sent == {
        "type": "email.sent",
        "created_at": sent["created_at"],
        "data": common | {"to": ["Bo <bounce@example.com>"]},
    }
    bounce = bounced["data"].pop("bounce")
    assert bounced == {
        "type": "email.bounced",
        "created_at": bounced["created_at"],
        "data": common | {"to": ["bounce@example.com"]},
    }
    assert set(bounce) == {"message", "type", "subType", "diagnosticCode"}
    assert (bounce["type"], bounce["subType"]) == ("Permanent", "General")


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        ("someone", ["sent", "delivered"]),
        ("bounce", ["sent", "bounced"]),
        ("soft+7", ["sent", "bounced"]),
        ("defer", ["sent", "delivery_delayed", "delivered"]),
        ("anyone+complain", ["sent", "delivered", "complained"]),
        ("open", ["sent", "delivered", "opened"]),
        ("click", ["sent", "delivered", "opened", "clicked"]),
        ("slow", ["sent", "delivered"]),
        ("reject", ["suppressed"]),
    ],
)
def test_webhooks_follow_the_address(simulator: Simulator, receiver: Receiver, local: str, expected: list[str]) -> None:
    simulator.resend(resend_mail(f"{local}@example.com"))

    bodies = sorted(posted(receiver, len(expected)), key=lambda body: body["created_at"])
    assert [body["type"] for body in bodies] == [f"email.{kind}" for kind in expected]


def test_several_recipients_are_told_of_one_by_one(simulator: Simulator, receiver: Receiver) -> None:
    simulator.resend(resend_mail() | {"to": ["a@example.com", "bounce@example.com"]})

    told = {(body["type"], tuple(body["data"]["to"])) for body in posted(receiver, 3)}
    assert told == {
        ("email.sent", ("a@example.com", "bounce@example.com")),
        ("email.delivered", ("a@example.com",)),
        ("email.bounced", ("bounce@example.com",)),
    }


def test_retrieve_names_the_last_event(quiet: Simulator) -> None:
    email_id = quiet.resend(resend_mail("silent@example.com")).json()["id"]

    def retrieve() -> Any:
        headers = {"Authorization": "Bearer re_key"}
        return requests.get(f"{quiet.url}/resend/emails/{email_id}", headers=headers, timeout=10).json()

    wait_until(lambda: retrieve()["last_event"] == "delivered")
    assert retrieve()["id"] == email_id
    assert retrieve()["to"] == ["silent@example.com"]
