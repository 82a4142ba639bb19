import signal
import socket
from pathlib import Path

import pytest

from tests.simulator.conftest import PATIENCE, Start, free_port, postmark_mail, run

TOKEN = {"SIMULATOR_POSTMARK_TOKEN": "t"}
RESEND = {"SIMULATOR_RESEND_KEY": "k", "SIMULATOR_RESEND_WEBHOOK": "http://127.0.0.1:1/"}


def fail(*arguments: str, **env: str) -> tuple[int, str]:
    process = run(*arguments, **env)
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({}, "SIMULATOR_POSTMARK_TOKEN"),
        (TOKEN | {"SIMULATOR_DATA": ""}, "SIMULATOR_DATA"),
        (TOKEN | {"SIMULATOR_PORT": "many"}, "SIMULATOR_PORT"),
        (TOKEN | {"SIMULATOR_TIME_SCALE": "-1"}, "SIMULATOR_TIME_SCALE"),
        (TOKEN | {"SIMULATOR_FAULTS": '{"nonsense": 1}'}, "nonsense"),
        (TOKEN | {"SIMULATOR_FAULTS": "{"}, "SIMULATOR_FAULTS"),
        (TOKEN | {"SIMULATOR_POSTMARK_WEBHOOK": "somewhere"}, "SIMULATOR_POSTMARK_WEBHOOK"),
        ({"SIMULATOR_SENDGRID_WEBHOOK": "http://h/"}, "SIMULATOR_SENDGRID_SECRET"),
        ({"SIMULATOR_POSTAL_WEBHOOK": "http://h/", "SIMULATOR_POSTAL_SECRET": "key"}, "SIMULATOR_POSTAL_SECRET"),
        (
            {"SIMULATOR_AMAZON_SES_WEBHOOK": "http://h/", "SIMULATOR_AMAZON_SES_SECRET": "topic key"},
            "SIMULATOR_AMAZON_SES_SECRET",
        ),
        (TOKEN | {"SIMULATOR_WEBHOOKS": "no"}, "SIMULATOR_WEBHOOKS"),
        (TOKEN | {"SIMULATOR_SYNC": "0"}, "SIMULATOR_SYNC"),
        (TOKEN | {"SIMULATOR_CERTFILE": "cert.pem"}, "SIMULATOR_KEYFILE"),
        (TOKEN | {"SIMULATOR_CERTFILE": "nowhere.pem", "SIMULATOR_KEYFILE": "nowhere.pem"}, "SIMULATOR_CERTFILE"),
        (RESEND, "SIMULATOR_RESEND_SECRET"),
        (RESEND | {"SIMULATOR_RESEND_SECRET": "whsec_???"}, "SIMULATOR_RESEND_SECRET"),
    ],
)
def test_wrong_setting_is_one_clear_line(tmp_path: Path, env: dict[str, str], named: str) -> None:
    code, errors = fail(**{"SIMULATOR_DATA": str(tmp_path)} | env)

    assert code == 2
    assert errors.count("\n") == 1
    assert named in errors


def test_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, errors = fail("--port", port, "--data", str(tmp_path), **TOKEN)

    assert (code, errors.count("\n")) == (1, 1)
    assert port in errors


def test_used_data_directory_is_one_clear_line(start: Start, tmp_path: Path) -> None:
    start()

    code, errors = fail("--port", str(free_port()), "--data", str(tmp_path / "data"), **TOKEN)

    assert (code, errors.count("\n")) == (1, 1)
    assert "another simulator" in errors


def test_unusable_data_directory_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    code, errors = fail("--port", str(free_port()), "--data", str(tmp_path / "file" / "data"), **TOKEN)

    assert (code, errors.count("\n")) == (1, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_it_cleanly(start: Start, number: signal.Signals) -> None:
    simulator = start()
    simulator.postmark(postmark_mail("slow@example.com"))

    assert simulator.stop(number) == 0
    assert simulator.process.communicate()[1] == ""
