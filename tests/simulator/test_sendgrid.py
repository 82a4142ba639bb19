from typing import Any

import pytest
import requests
from anymail.exceptions import AnymailNotSupportedWarning
from anymail.message import AnymailMessage
from django.core.mail import get_connection

from tests.conftest import wait_until
from tests.simulator.conftest import SENDGRID, Simulator, sendgrid_mail


def test_send_answers_202_with_an_id_and_nothing_else(quiet: Simulator) -> None:
    response = quiet.sendgrid(sendgrid_mail("ann@example.com"))

    (row,) = quiet.get("/log.json")["accepted"]
    assert (response.status_code, response.content) == (202, b"")
    assert response.headers["X-Message-Id"] == row["id"]
    assert (row["provider"], row["to"], row["message_id"]) == ("sendgrid", ["ann@example.com"], "m-1")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"from": {"email": "nobody"}}, "from.email"),
        ({"personalizations": []}, "personalizations"),
        ({"personalizations": [{"to": [{"email": f"{n}@example.com"} for n in range(1001)]}]}, "personalizations"),
        ({"personalizations": [{"cc": [{"email": "a@example.com"}]}]}, "personalizations.0.to"),
        ({"personalizations": [{"to": [{"email": "nobody"}]}]}, "personalizations.0.to"),
        ({"subject": ""}, "subject"),
        ({"content": []}, "content"),
    ],
)
def test_send_refuses_what_sendgrid_refuses(quiet: Simulator, change: dict[str, Any], field: str) -> None:
    response = quiet.sendgrid(sendgrid_mail() | change)

    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, field)
    assert quiet.done() == [("sendgrid", "m-1", "refused_400")]


def test_a_wrong_key_is_refused(quiet: Simulator) -> None:
    assert quiet.sendgrid(sendgrid_mail(), token="wrong").status_code == 401
    assert quiet.count() == 0


def test_anymail_understands_it(quiet: Simulator) -> None:
    with pytest.warns(AnymailNotSupportedWarning):
        connection = get_connection(
            "anymail.backends.sendgrid.EmailBackend", api_url=f"{quiet.url}/sendgrid/", api_key=SENDGRID
        )
    mail = AnymailMessage("Hello", "Text", "shop@example.com", ["ann@example.com"], connection=connection)
    mail.metadata = {"message_id": "m-1"}

    mail.send()

    (row,) = quiet.get("/log.json", message_id="m-1")["accepted"]
    assert row["metadata"]["message_id"] == "m-1"
    assert mail.anymail_status.status == {"queued"}


def activity_of(simulator: Simulator, **query: str) -> requests.Response:
    headers = {"Authorization": f"Bearer {SENDGRID}"}
    return requests.get(f"{simulator.url}/sendgrid/messages", query, headers=headers, timeout=10)


@pytest.mark.parametrize(("local", "status"), [("silent", "delivered"), ("bounce", "not_delivered")])
def test_activity_tells_what_became_of_a_mail(quiet: Simulator, local: str, status: str) -> None:
    quiet.sendgrid(sendgrid_mail(f"{local}@example.com", custom_args={"anymail_id": "a-1"}))
    quiet.sendgrid(sendgrid_mail("other@example.com", custom_args={"anymail_id": "a-2"}))

    def told() -> Any:
        [message] = activity_of(quiet, query="(unique_args['anymail_id']=\"a-1\")", limit="10").json()["messages"]
        return message["status"] != "processed" and message

    message = wait_until(told)
    assert (message["to_email"], message["status"]) == (f"{local}@example.com", status)


@pytest.mark.parametrize("query", [{}, {"query": 'status="delivered"', "limit": "10"}])
def test_activity_refuses_what_it_does_not_understand(quiet: Simulator, query: dict[str, str]) -> None:
    assert activity_of(quiet, **query).status_code == 400
