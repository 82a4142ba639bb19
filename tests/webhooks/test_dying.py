"""Never a 200 without a row, and never half of one: the process is killed, or its database, in the middle.

`make dying` strikes at every step, in every case. Here the process is killed at some lines, and the database at every
COMMIT. What a provider alone decides, which is what it asks of the database before the rows are written (Mailgun has a
nonce), is struck with small requests; what the size decides, and how the database is lost, with SendGrid's.
"""

import json
import subprocess
import sys

from tests.conftest import ROOT

# Requests of each provider, and of each size.
EACH = ("small", "sendgrid")
# The same while the server is killed, and of each size while our sessions are ended.
LOST = ("server questions postmark small", "server questions mailgun small", "questions sendgrid")


def strike(environment, *arguments):
    """Return the exit code, and what was found in each case."""
    command = [sys.executable, "-m", "tests.webhooks.dying", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr[-3000:]
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_process_that_is_killed(environment):
    code, found = strike(environment, "process", "--points", "3", "--only", *EACH)

    assert code == 0, found
    assert len(found) == 5
    assert all(case["struck"] >= 2 for case in found)
    assert any(case["unsaid"] for case in found)  # it was killed once all was stored, too


def test_database_that_is_lost(environment, tmp_path):
    code, found = strike(environment, "database", "--only", *LOST, "--points", "1", "--directory", str(tmp_path))

    assert code == 0, found
    assert len(found) == 5 + 3
    assert all(case["refused"] and case["unsaid"] for case in found)


def test_what_is_lost_is_found(environment, tmp_path):
    case = ("--only", "server questions postmark small", "--points", "1")

    code, [found] = strike(environment, "database", "--forgetful", *case, "--directory", str(tmp_path))

    assert code == 1
    assert found["lost"]
