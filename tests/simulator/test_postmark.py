import json
from typing import Any

import pytest
import requests

from tests.simulator.conftest import Receiver, Simulator, postmark_mail, wait_until


def posted(receiver: Receiver, count: int) -> list[dict[str, Any]]:
    wait_until(lambda: len(receiver.received) >= count)
    return [json.loads(request.body) for request in receiver.received]


def test_email_answers_and_is_in_the_log(quiet: Simulator) -> None:
    response = quiet.postmark(postmark_mail("Ann <ann@example.com>", Bcc="delivered@example.com"))

    body = response.json()
    (row,) = quiet.get("/log.json")["accepted"]
    assert response.status_code == 200
    assert body == {
        "To": "Ann <ann@example.com>",
        "SubmittedAt": body["SubmittedAt"],
        "MessageID": row["id"],
        "ErrorCode": 0,
        "Message": "OK",
    }
    assert row == {
        "seq": row["seq"],
        "request": row["seq"],
        "message_id": "m-1",
        "done": "accepted",
        "id": body["MessageID"],
        "provider": "postmark",
        "to": ["ann@example.com", "delivered@example.com"],
        "subject": "Hello",
        "metadata": {"message_id": "m-1"},
        "idempotency_key": "",
        "accepted_at": row["accepted_at"],
    }


@pytest.mark.parametrize("token", [None, "wrong"])
def test_email_refuses_a_bad_token(quiet: Simulator, token: str | None) -> None:
    response = quiet.postmark(postmark_mail(), token=token)

    assert (response.status_code, response.json()["ErrorCode"]) == (401, 10)
    assert quiet.count() == 0


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"From": ""}, 300),
        ({"To": ""}, 300),
        ({"To": "nobody"}, 300),
        ({"TextBody": ""}, 300),
        ({"To": ", ".join(f"{n}@example.com" for n in range(51))}, 300),
        ({"Metadata": {"a name of more than twenty": "1"}}, 300),
        ({"Metadata": {"name": "x" * 81}}, 300),
        ({"Metadata": {str(n): "x" for n in range(11)}}, 300),
        ({"Subject": "x" * 2001}, 300),
        ({"To": ["delivered@example.com"]}, 403),
    ],
)
def test_email_refuses_what_postmark_refuses(quiet: Simulator, change: dict[str, Any], code: int) -> None:
    response = quiet.postmark(postmark_mail() | change)

    assert (response.status_code, response.json()["ErrorCode"]) == (422, code)
    assert quiet.count() == 0


def test_email_refuses_when_every_recipient_is_inactive(quiet: Simulator) -> None:
    response = quiet.postmark(postmark_mail("reject@example.com"))

    assert response.status_code == 422
    assert response.json()["ErrorCode"] == 406
    assert "Found inactive addresses: reject@example.com. Inactive recipients" in response.json()["Message"]


def test_email_leaves_out_one_inactive_recipient(simulator: Simulator, receiver: Receiver) -> None:
    response = simulator.postmark(postmark_mail("delivered@example.com, a+reject@example.com"))

    assert response.json()["ErrorCode"] == 0
    assert "inactive addresses: a+reject@example.com. Inactive" in response.json()["Message"]
    assert [body["Recipient"] for body in posted(receiver, 1)] == ["delivered@example.com"]


def test_batch_gives_each_message_its_own_outcome(quiet: Simulator) -> None:
    messages = [postmark_mail(), postmark_mail("reject@example.com"), postmark_mail(To="nobody")]

    response = quiet.postmark(messages, "email/batch")

    assert response.status_code == 200
    assert [outcome["ErrorCode"] for outcome in response.json()] == [0, 406, 300]
    assert quiet.count() == 1


def test_batch_refuses_more_than_500(quiet: Simulator) -> None:
    response = quiet.postmark([postmark_mail()] * 501, "email/batch")

    assert (response.status_code, response.json()["ErrorCode"]) == (422, 410)
    assert quiet.count() == 0


@pytest.mark.parametrize(("path", "payload"), [("email", [postmark_mail()]), ("email/batch", postmark_mail())])
def test_one_and_many_have_paths_of_their_own(quiet: Simulator, path: str, payload: Any) -> None:
    response = quiet.postmark(payload, path)

    assert (response.status_code, response.json()["ErrorCode"]) == (422, 403)
    assert quiet.done() == [("postmark", "m-1", "refused_422")]


def search(simulator: Simulator, **query: str) -> requests.Response:
    return requests.get(
        f"{simulator.url}/postmark/messages/outbound",
        params={"count": "10", "offset": "0", **query},
        headers={"X-Postmark-Server-Token": "server-token"},
        timeout=10,
    )


def test_search_finds_by_metadata_tag_and_recipient(quiet: Simulator) -> None:
    quiet.postmark(postmark_mail("Ann <ann@example.com>", Metadata={"message_id": "m-1", "color": "blue"}))
    quiet.postmark(postmark_mail("bo@example.com", Tag="welcome", Metadata={"message_id": "m-2", "color": "red"}))
    quiet.send("resend")
    ann, bo = (row["id"] for row in quiet.get("/log.json")["accepted"] if row["provider"] == "postmark")

    def found(**query: str) -> list[str]:
        body = search(quiet, **query).json()
        assert body["TotalCount"] == len(body["Messages"])
        return [message["MessageID"] for message in body["Messages"]]

    assert found() == [bo, ann]
    assert found(metadata_message_id="m-1") == [ann]
    assert found(metadata_color="red") == [bo]
    assert found(tag="welcome") == [bo]
    assert found(recipient="ANN@example.com") == [ann]
    assert found(metadata_message_id="m-3") == []


def test_search_shows_what_postmark_shows(quiet: Simulator) -> None:
    quiet.postmark(postmark_mail("Ann <ann@example.com>", Tag="welcome"))

    (message,) = search(quiet).json()["Messages"]
    (row,) = quiet.get("/log.json")["accepted"]
    assert message == {
        "Tag": "welcome",
        "MessageID": row["id"],
        "To": [{"Email": "ann@example.com", "Name": None}],
        "Cc": [],
        "Bcc": [],
        "Recipients": ["ann@example.com"],
        "ReceivedAt": message["ReceivedAt"],
        "From": "Shop <shop@example.com>",
        "Subject": "Hello",
        "Attachments": [],
        "Status": "Sent",
        "TrackOpens": False,
        "TrackLinks": "None",
        "Metadata": {"message_id": "m-1"},
        "Sandboxed": False,
        "MessageStream": "outbound",
    }


def test_search_pages_newest_first(quiet: Simulator) -> None:
    for name in ("m-1", "m-2", "m-3"):
        quiet.send("postmark", message_id=name)

    body = search(quiet, count="2", offset="1").json()

    assert body["TotalCount"] == 3
    assert [message["Metadata"]["message_id"] for message in body["Messages"]] == ["m-2", "m-1"]


@pytest.mark.parametrize(
    "query",
    [{"count": ""}, {"offset": "x"}, {"count": "501"}, {"offset": "9991"}, {"metadata_a": "1", "metadata_b": "2"}],
)
def test_search_refuses_wrong_parameters(quiet: Simulator, query: dict[str, str]) -> None:
    response = search(quiet, **query)

    assert (response.status_code, response.json()["ErrorCode"]) == (422, 700)


def test_search_refuses_a_bad_token(quiet: Simulator) -> None:
    path = f"{quiet.url}/postmark/messages/outbound?count=1&offset=0"

    assert requests.get(path, headers={"X-Postmark-Server-Token": "wrong"}, timeout=10).status_code == 401


def test_search_lags_and_fails_as_told(quiet: Simulator) -> None:
    quiet.send("postmark")

    quiet.faults(search_lag_ms=60_000)
    assert search(quiet).json() == {"TotalCount": 0, "Messages": []}

    quiet.faults(rate_search_5xx=1)
    assert search(quiet).status_code == 500

    quiet.faults()
    assert search(quiet).json()["TotalCount"] == 1


def test_webhook_carries_basic_auth_and_every_field(simulator: Simulator, receiver: Receiver) -> None:
    message_id = simulator.postmark(postmark_mail(Tag="verification")).json()["MessageID"]

    (body,) = posted(receiver, 1)
    (request,) = receiver.received
    assert request.path == "/webhooks/postmark/"
    assert request.headers["authorization"] == "Basic dXNAZXI6cGFzcw=="
    assert request.headers["x-pm-retries-remaining"] == "9"
    assert body == {
        "RecordType": "Delivery",
        "MessageStream": "outbound",
        "ServerID": 23,
        "MessageID": message_id,
        "Recipient": "delivered@example.com",
        "Tag": "verification",
        "Metadata": {"message_id": "m-1"},
        "DeliveredAt": body["DeliveredAt"],
        "Details": f"smtp;250 2.0.0 OK {message_id}",
    }


@pytest.mark.parametrize(
    ("local", "expected"),
    [
        ("someone", [("Delivery", None)]),
        ("bounce", [("Bounce", 1), ("SubscriptionChange", None)]),
        ("soft", [("Bounce", 4096)]),
        ("defer", [("Bounce", 2), ("Delivery", None)]),
        ("complain", [("Delivery", None), ("SpamComplaint", 100001), ("SubscriptionChange", None)]),
        ("open", [("Delivery", None), ("Open", None)]),
        ("click", [("Delivery", None), ("Open", None), ("Click", None)]),
        ("slow", [("Delivery", None)]),
    ],
)
def test_webhooks_follow_the_address(
    simulator: Simulator, receiver: Receiver, local: str, expected: list[tuple[str, int | None]]
) -> None:
    message_id = simulator.postmark(postmark_mail(f"{local}@example.com")).json()["MessageID"]

    bodies = posted(receiver, len(expected))
    assert sorted((body["RecordType"], body.get("TypeCode") or 0) for body in bodies) == sorted(
        (kind, code or 0) for kind, code in expected
    )
    assert {body["MessageID"] for body in bodies} == {message_id}
    assert {body["Metadata"]["message_id"] for body in bodies} == {"m-1"}


def test_click_names_the_mails_own_link(simulator: Simulator, receiver: Receiver) -> None:
    simulator.postmark(postmark_mail("click@example.com"))

    click = next(body for body in posted(receiver, 3) if body["RecordType"] == "Click")
    assert click["OriginalLink"] == "https://example.com/verify?token=abc"


def test_details_tell_what_happened_even_of_a_silent_mail(quiet: Simulator) -> None:
    message_id = quiet.postmark(postmark_mail("silent@example.com")).json()["MessageID"]
    path = f"/postmark/messages/outbound/{message_id}/details"

    details = wait_until(lambda: (body := details_of(quiet, path)) and body["MessageEvents"] and body)
    assert details["MessageID"] == message_id
    assert details["Metadata"] == {"message_id": "m-1"}
    assert [(event["Type"], event["Recipient"]) for event in details["MessageEvents"]] == [
        ("Delivered", "silent@example.com")
    ]
    assert [hook["state"] for hook in quiet.webhooks()] == ["withheld"]


def test_details_of_an_unknown_message(quiet: Simulator) -> None:
    body = details_of(quiet, "/postmark/messages/outbound/nothing/details")

    assert body["ErrorCode"] == 701


def test_bounces_tell_the_kind_that_the_details_leave_out(quiet: Simulator) -> None:
    message_id = quiet.postmark(postmark_mail("soft@example.com")).json()["MessageID"]
    path = f"/postmark/messages/outbound/{message_id}/details"

    details = wait_until(lambda: (body := details_of(quiet, path)) and body["MessageEvents"] and body)
    [event] = details["MessageEvents"]
    found = details_of(quiet, f"/postmark/bounces?messageID={message_id}&count=50&offset=0")

    assert event["Type"] == "Bounced"
    [bounce] = found["Bounces"]
    assert (str(bounce["ID"]), bounce["Type"], found["TotalCount"]) == (event["Details"]["BounceID"], "SoftBounce", 1)


def test_bounces_want_a_page(quiet: Simulator) -> None:
    assert details_of(quiet, "/postmark/bounces?messageID=nothing")["ErrorCode"] == 700


def details_of(simulator: Simulator, path: str) -> dict[str, Any]:
    headers = {"X-Postmark-Server-Token": "server-token"}
    body: dict[str, Any] = requests.get(simulator.url + path, headers=headers, timeout=10).json()
    return body
