from typing import Any

import pytest
from anymail.message import AnymailMessage
from django.core.mail import get_connection

from tests.simulator.conftest import MAILJET, Simulator, mailjet_mail


def test_send_answers_and_is_in_the_log(quiet: Simulator) -> None:
    response = quiet.mailjet({"Messages": [mailjet_mail("ann@example.com", Bcc=[{"Email": "bo@example.com"}])]})

    (row,) = quiet.get("/log.json")["accepted"]
    (message,) = response.json()["Messages"]
    assert response.status_code == 200
    assert (message["Status"], message["Cc"]) == ("success", [])
    assert [(each["Email"], str(each["MessageID"])) for each in message["To"]] == [("ann@example.com", row["id"])]
    assert [each["Email"] for each in message["Bcc"]] == ["bo@example.com"]
    assert message["Bcc"][0]["MessageID"] != message["To"][0]["MessageID"]
    assert row["to"] == ["ann@example.com", "bo@example.com"]
    assert (row["provider"], row["message_id"], row["subject"]) == ("mailjet", "m-1", "Hello")


def test_each_message_has_its_own_outcome_under_one_400(quiet: Simulator) -> None:
    nobody, textless = mailjet_mail("nobody"), mailjet_mail(TextPart="")

    response = quiet.mailjet({"Messages": [mailjet_mail(), nobody, textless]})

    accepted, *refused = response.json()["Messages"]
    assert response.status_code == 400
    assert accepted["Status"] == "success"
    assert [(each["Status"], each["Errors"][0]["ErrorCode"]) for each in refused] == [
        ("error", "mj-0013"),
        ("error", "send-0003"),
    ]
    assert [done for _, _, done in quiet.done()] == ["accepted", "refused_400", "refused_400"]


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({}, "mj-0003"),
        ([], "mj-0003"),
        ({"Messages": [mailjet_mail()] * 51}, "mj-0006"),
    ],
)
def test_a_wrong_request_is_refused_as_a_whole(quiet: Simulator, payload: Any, code: str) -> None:
    response = quiet.mailjet(payload)

    assert (response.status_code, response.json()["ErrorCode"]) == (400, code)
    assert quiet.count() == 0


def test_a_wrong_key_is_refused(quiet: Simulator) -> None:
    response = quiet.mailjet({"Messages": [mailjet_mail()]}, auth=("mailjet-key", "wrong"))

    assert (response.status_code, response.json()["ErrorCode"]) == (401, "mj-0015")
    assert quiet.done() == [("mailjet", "m-1", "refused_401")]


def test_anymail_understands_it(quiet: Simulator) -> None:
    connection = get_connection(
        "anymail.backends.mailjet.EmailBackend",
        api_url=f"{quiet.url}/mailjet/",
        api_key=MAILJET[0],
        secret_key=MAILJET[1],
    )
    mail = AnymailMessage("Hello", "Text", "shop@example.com", ["ann@example.com"], connection=connection)
    mail.metadata = {"message_id": "m-1"}

    mail.send()

    (row,) = quiet.get("/log.json", message_id="m-1")["accepted"]
    assert mail.anymail_status.recipients["ann@example.com"].message_id == row["id"]
    assert mail.anymail_status.status == {"sent"}
