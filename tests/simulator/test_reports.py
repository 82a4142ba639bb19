"""Reports that somebody asks for, of a mail that was taken here or of any other."""

import json
from typing import Any

import pytest
import requests

from simulator import commands
from tests.simulator.conftest import (
    PATIENCE,
    Receiver,
    Simulator,
    Start,
    mailjet_mail,
    postmark_mail,
    sendgrid_mail,
    wait_until,
)

ELSEWHERE = {"mail": "id-of-elsewhere", "to": "a@example.com", "happening": "delivered"}


def ask(simulator: Simulator, provider: str, *reports: dict[str, Any], **more: Any) -> requests.Response:
    asked = {"provider": provider, "reports": [*reports], **more}
    return requests.post(f"{simulator.url}/reports", json=asked, timeout=PATIENCE)


@pytest.fixture
def sendgrid(start: Start, receiver: Receiver) -> Simulator:
    settings = commands.environment(f"http://127.0.0.1:{receiver.port}")
    return start(**{name: value for name, value in settings.items() if name.startswith("SIMULATOR_SENDGRID")})


def test_mail_taken_here_is_known(simulator: Simulator, receiver: Receiver) -> None:
    mail = simulator.postmark(postmark_mail("silent@example.com", Tag="welcome")).json()["MessageID"]

    answer = ask(simulator, "postmark", {"mail": mail, "happening": "complained"})

    assert answer.status_code == 202
    wait_until(lambda: len(receiver.received) == 2)
    body = next(body for body in map(parsed, receiver.received) if body["RecordType"] == "SpamComplaint")
    assert (body["MessageID"], body["Email"], body["Tag"]) == (mail, "silent@example.com", "welcome")
    assert body["Metadata"] == {"message_id": "m-1"}


def parsed(received: Any) -> Any:
    return json.loads(received.body)


def test_mail_taken_elsewhere_is_as_described(simulator: Simulator, receiver: Receiver) -> None:
    more = {"metadata": {"message_id": "m-2"}, "tags": ["welcome"], "at": "2026-11-20T16:33:54.25Z"}

    ask(simulator, "postmark", ELSEWHERE | more)

    wait_until(lambda: receiver.received)
    body = parsed(receiver.received[0])
    assert (body["MessageID"], body["Recipient"], body["Tag"]) == ("id-of-elsewhere", "a@example.com", "welcome")
    assert (body["Metadata"], body["DeliveredAt"]) == ({"message_id": "m-2"}, "2026-11-20T16:33:54.2500000Z")


def test_whole_mail_is_reported_of_where_no_recipient_is_named(simulator: Simulator) -> None:
    mail = simulator.postmark(postmark_mail("silent@example.com, b+silent@example.com")).json()["MessageID"]

    answer = ask(simulator, "postmark", {"mail": mail, "happening": "delivered"})

    told = [hook["recipient"] for hook in answer.json()["webhooks"]]
    assert told == ["silent@example.com", "b+silent@example.com"]


def test_reports_come_in_batches_where_the_provider_does_so(sendgrid: Simulator, receiver: Receiver) -> None:
    reports = [ELSEWHERE | {"mail": f"mail-{number}"} for number in range(5)]

    answer = ask(sendgrid, "sendgrid", *reports, batch=2)

    assert answer.json()["count"] == 3
    wait_until(lambda: len(receiver.received) == 3)
    assert sorted(len(parsed(received)) for received in receiver.received) == [1, 2, 2]


def test_mail_to_a_send_api_is_reported_of_by_itself(sendgrid: Simulator, receiver: Receiver) -> None:
    sendgrid.sendgrid(sendgrid_mail("bounce@example.com"))

    wait_until(lambda: len(receiver.received) == 2)
    [processed], [bounce] = sorted(map(parsed, receiver.received), key=lambda events: -len(events[0]["event"]))
    assert (processed["event"], bounce["event"], bounce["type"]) == ("processed", "bounce", "bounce")
    assert {each["message_id"] for each in (processed, bounce)} == {"m-1"}


def test_repeat_of_sendgrid_gives_events_other_ids(sendgrid: Simulator, receiver: Receiver) -> None:
    ask(sendgrid, "sendgrid", ELSEWHERE, faults={"webhook_duplicate": 1, "webhook_early": True})

    [first], [second] = map(parsed, receiver.received)
    assert first.pop("sg_event_id") != second.pop("sg_event_id")
    assert first == second


def test_page_of_a_mail_has_a_form_to_report_of_it(simulator: Simulator, receiver: Receiver) -> None:
    mail = simulator.postmark(postmark_mail("silent@example.com")).json()["MessageID"]
    form = {"to": "silent@example.com", "happening": "opened"}

    page = requests.post(f"{simulator.url}/inbox/{mail}/reports", data=form, timeout=PATIENCE)

    assert page.url == f"{simulator.url}/inbox/{mail}"
    assert "<option>unsubscribed</option>" in page.text
    assert parsed(receiver.received[0])["RecordType"] == "Open"
    assert "answered" in page.text


@pytest.mark.parametrize("form", [{}, {"happening": "eaten"}, {"happening": "opened", "colour": "red"}])
def test_form_that_cannot_be_met_is_refused(simulator: Simulator, form: dict[str, str]) -> None:
    mail = simulator.postmark(postmark_mail("silent@example.com")).json()["MessageID"]

    answers = [
        requests.post(f"{simulator.url}/inbox/{each}/reports", data=form, timeout=PATIENCE) for each in (mail, "none")
    ]

    assert [answer.status_code for answer in answers] == [400, 400]


def test_page_has_no_form_where_nothing_is_posted(quiet: Simulator) -> None:
    mail = quiet.postmark(postmark_mail()).json()["MessageID"]

    assert "<form" not in requests.get(f"{quiet.url}/inbox/{mail}", timeout=PATIENCE).text


def test_each_recipient_of_mailjets_has_an_id_of_its_own(start: Start, receiver: Receiver) -> None:
    simulator = start(SIMULATOR_MAILJET_WEBHOOK=f"http://hook:pass@127.0.0.1:{receiver.port}/webhooks/mailjet/")
    people = [{"Email": "delivered@example.com"}, {"Email": "b+delivered@example.com"}]
    answer = simulator.mailjet({"Messages": [mailjet_mail(To=people, CustomCampaign="welcome")]}).json()

    wait_until(lambda: len(receiver.received) == 2)

    answered = {each["Email"]: each["MessageID"] for each in answer["Messages"][0]["To"]}
    events = [event for received in receiver.received for event in parsed(received)]
    assert {event["email"]: event["MessageID"] for event in events} == answered
    assert {event["customcampaign"] for event in events} == {"welcome"}


def test_faults_of_one_request_are_its_own(simulator: Simulator, receiver: Receiver) -> None:
    answer = ask(simulator, "postmark", ELSEWHERE, faults={"webhook_duplicate": 1, "webhook_early": True})

    [hook] = answer.json()["webhooks"]
    assert (hook["state"], hook["status"], hook["attempts"]) == ("delivered", 200, 2)
    assert len(receiver.received) == 2
    assert receiver.received[0].body == receiver.received[1].body
    assert simulator.get("/faults")["webhook_duplicate"] == 0


def test_faults_in_force_hold_for_reports(simulator: Simulator, receiver: Receiver) -> None:
    simulator.faults(webhook_forged=1)

    ask(simulator, "postmark", ELSEWHERE)

    wait_until(lambda: receiver.received)
    genuine = "Basic dXNAZXI6cGFzcw=="
    assert receiver.received[0].headers["authorization"] not in ("", genuine)


def test_late_report_waits(simulator: Simulator, receiver: Receiver) -> None:
    answer = ask(simulator, "postmark", ELSEWHERE, faults={"webhook_delay_ms": 3_600_000})

    [hook] = answer.json()["webhooks"]
    assert hook["state"] == "pending"
    assert hook["due"] - hook["happened_at"] > 3599
    assert receiver.received == []


def test_report_waits_for_the_service_also_after_a_kill(start: Start, receiver: Receiver) -> None:
    receiver.answers = [503]
    simulator = start()
    ask(simulator, "postmark", ELSEWHERE, faults={"webhook_early": True})
    simulator.process.kill()
    simulator.process.wait()

    simulator = start(SIMULATOR_TIME_SCALE="0.0001")

    wait_until(lambda: [hook["state"] for hook in simulator.webhooks()] == ["delivered"])


@pytest.mark.parametrize(
    ("provider", "happening", "status", "state"),
    [
        ("mailgun", "opened", 503, "pending"),
        ("mailgun", "opened", 406, "failed"),
        ("mailgun", "delivered", 503, "failed"),
        ("brevo", "opened", 429, "pending"),
        ("brevo", "opened", 503, "failed"),
        ("mailersend", "opened", 401, "failed"),
        ("unisender_go", "opened", 201, "pending"),
    ],
)
def test_what_is_repeated_is_each_providers_own(
    start: Start, receiver: Receiver, provider: str, happening: str, status: int, state: str
) -> None:
    settings = commands.environment(f"http://127.0.0.1:{receiver.port}")
    simulator = start(**{name: value for name, value in settings.items() if f"_{provider.upper()}_" in name})
    receiver.answers = [status] * 2

    answer = ask(simulator, provider, ELSEWHERE | {"happening": happening}, faults={"webhook_early": True})

    assert {(hook["state"], hook["status"]) for hook in answer.json()["webhooks"]} == {(state, status)}


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ([], "a request for reports must be a JSON object"),
        ({"provider": "pigeon"}, "unknown provider 'pigeon'"),
        ({"provider": "brevo", "reports": [ELSEWHERE]}, "SIMULATOR_BREVO_WEBHOOK"),
        ({"provider": "postmark"}, "at least one"),
        ({"provider": "postmark", "reports": {}}, "must be a JSON array"),
        ({"provider": "postmark", "reports": [7]}, "a report must be a JSON object"),
        ({"provider": "postmark", "reports": [ELSEWHERE | {"happening": "eaten"}]}, "nothing of 'eaten'"),
        ({"provider": "postmark", "reports": [ELSEWHERE | {"at": "noon"}]}, "RFC 3339"),
        ({"provider": "postmark", "reports": [ELSEWHERE | {"colour": "red"}]}, "unknown field 'colour'"),
        ({"provider": "postmark", "reports": [{"mail": "1", "happening": "opened"}]}, "must both be given"),
        ({"provider": "postmark", "reports": [ELSEWHERE], "faults": {"luck": 1}}, "unknown fault 'luck'"),
    ],
)
def test_what_cannot_be_reported_is_said(simulator: Simulator, asked: Any, named: str) -> None:
    answer = requests.post(f"{simulator.url}/reports", json=asked, timeout=PATIENCE)

    assert answer.status_code == 400
    assert named in answer.json()["error"]


def test_command_says_what_was_answered(
    simulator: Simulator, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.answers = [200, 403]
    asked = ["--mail", "id", "--to", "a@example.com", "--simulator", simulator.url]

    codes = [commands.report(["postmark", "delivered", *asked]) for _ in range(2)]
    later = commands.report(["postmark", "opened", *asked, "--late", "60000", "--message-id", "m-1"])

    assert (codes, later) == ([0, 1], 0)
    assert capsys.readouterr().out.splitlines() == [
        "postmark Delivery (delivered): 200",
        "postmark Delivery (failed): 403",
        "postmark Open (pending): not posted yet",
    ]


def test_command_says_what_it_cannot_do(simulator: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["brevo", "delivered", "--mail", "id", "--to", "a@example.com", "--simulator"]

    assert commands.report([*asked, simulator.url]) == 1
    assert "SIMULATOR_BREVO_WEBHOOK" in capsys.readouterr().err
    assert commands.report([*asked, "http://127.0.0.1:9"]) == 1
    assert "nobody answers" in capsys.readouterr().err


def test_address_is_tried_as_the_provider_does(
    start: Start, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.answers = [200, 403]
    settings = commands.environment(f"http://127.0.0.1:{receiver.port}")
    simulator = start(**{name: value for name, value in settings.items() if "_MAILERSEND_" in name})

    codes = [commands.check(["mailersend", "--simulator", simulator.url]) for _ in range(2)]

    assert codes == [0, 1]
    assert capsys.readouterr().out.splitlines() == ["mailersend POST: 200", "mailersend POST: 403"]
    assert {parsed(received)["type"] for received in receiver.received} == {"webhook.test"}
    assert simulator.webhooks() == []


def test_address_where_nobody_listens_is_said(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    simulator = start(SIMULATOR_SPARKPOST_WEBHOOK="http://hook:pass@127.0.0.1:9/")

    assert commands.check(["sparkpost", "--simulator", simulator.url]) == 1
    assert "ClientConnectorError" in capsys.readouterr().out
    assert commands.check(["mandrill", "--simulator", simulator.url]) == 1
    assert "provider must be one of postmark, resend, sparkpost" in capsys.readouterr().err


def test_secrets_are_for_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.secrets(["http://127.0.0.1:8001/"]) == 0

    lines = dict(line.split("=", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["WEBHOOK_SECRET_MAILGUN"] == lines["SIMULATOR_MAILGUN_SECRET"]
    assert lines["SIMULATOR_MAILGUN_WEBHOOK"] == "http://127.0.0.1:8001/webhooks/mailgun/"
    assert lines["SIMULATOR_BREVO_WEBHOOK"] == f"http://{lines['WEBHOOK_SECRET_BREVO']}@127.0.0.1:8001/webhooks/brevo/"
    assert lines["WEBHOOK_SECRET_SENDGRID"] != lines["SIMULATOR_SENDGRID_SECRET"]
    assert lines["SIMULATOR_AMAZON_SES_SECRET"].startswith(f"{lines['WEBHOOK_TOPICS_AMAZON_SES']} ")
