"""Never a 200 without a row, and never half of one: the process, or the database, is killed in the middle."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.webhooks.genuine import ENVIRON, REQUESTS

# Lines that are struck: `python -m tests.webhooks.dying` strikes at each. The database is started again after each.
POINTS = {"process": 12, "database": 4}


@pytest.mark.parametrize("provider", REQUESTS)
@pytest.mark.parametrize("way", POINTS)
def test_ingestion_that_is_struck(way, provider, environment, tmp_path):
    command = [sys.executable, "-m", "tests.webhooks.dying", way, provider]
    command += ["--points", str(POINTS[way]), "--directory", str(tmp_path / "postgres")]

    done = subprocess.run(
        command, cwd=ROOT, env=environment | ENVIRON, capture_output=True, text=True, check=False
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["halves"], found["lost"]) == ([], [])
    assert found["struck"] >= POINTS[way]
    assert (found["refused"] > 0) is (way == "database")
