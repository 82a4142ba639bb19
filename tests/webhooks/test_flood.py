"""The flood of `make flood`, in small."""

import json
import subprocess
import sys

from tests.conftest import ROOT


def test_no_event_of_a_flood_is_lost_and_each_status_is_the_fold(environment):
    command = [sys.executable, "-m", "tests.webhooks.flood", "--events", "4000", "--deliveries", "800"]

    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["events"], found["deliveries"], found["matched_later"] > 0) == (4000, 800, True)
