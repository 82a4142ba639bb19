"""What people at a terminal, and cron, see of a command that cannot go on."""

import signal
import subprocess
import sys

from tests.conftest import PATIENCE, ROOT, free_port

COMMAND = (sys.executable, "manage.py")


def test_a_database_that_is_away_is_said_in_one_line(environment):
    away = f"postgresql://ada:sesame@127.0.0.1:{free_port()}/mail"

    ended = subprocess.run(
        [*COMMAND, "cleanup_mail"],
        cwd=ROOT,
        env={**environment, "DATABASE_URL": away},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert ended.returncode == 1
    assert ended.stderr.startswith("Database: ")
    assert "Connection refused" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "sesame" not in ended.stderr


def test_ctrl_c_ends_a_command_without_a_traceback(transactional_db, environment):
    with subprocess.Popen(
        [*COMMAND, "send_test_mail", "ada@example.com", "--wait", "600"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline().startswith("message ")
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130
    assert "Traceback" not in error
