"""Fuzz every provider's verifier and parser from its seeds, for some seconds in all, on two cores.

    python -m tests.fuzz [--seconds 60] [--only PROVIDER]

What is found is kept beside the seeds, as `find-...`: mend it, and leave it there. `tests/fuzz/test_seeds.py` plays all
of them in each run of the tests.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

from tests.fuzz import SEEDS

CORES = 2
ROOT = SEEDS.parent.parent.parent
# Seconds, and MiB, after which one request is taken to hang, or to be without bounds.
HANGS, MOST_MEMORY = 10, 2048
LONGEST = 64 * 1024  # bytes of a request
EXECUTIONS = "stat::number_of_executed_units:"


def fuzz(provider: str, seconds: int) -> tuple[str, int, str]:
    """Fuzz one provider's; return its name, how many requests were tried, and what was found, if anything."""
    with tempfile.TemporaryDirectory() as grown:
        command = [sys.executable, "-m", "tests.fuzz.target", provider, grown, str(SEEDS / provider)]
        command += [f"-max_total_time={seconds}", f"-timeout={HANGS}", f"-rss_limit_mb={MOST_MEMORY}"]
        command += [f"-max_len={LONGEST}", f"-artifact_prefix={SEEDS / provider}/find-", "-print_final_stats=1"]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, check=False,
            env=os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings", "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
    said = done.stderr.decode(errors="replace") + done.stdout.decode(errors="replace")
    tried = next((int(line.split()[-1]) for line in said.splitlines() if line.startswith(EXECUTIONS)), 0)
    return provider, tried, "" if done.returncode == 0 and tried else said[-3000:]


def main(arguments: Sequence[str] | None = None) -> int:
    names = sorted(each.name for each in SEEDS.iterdir())
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the webhooks' parsers.")
    parser.add_argument("--seconds", type=int, default=60, help="for all together (default: %(default)s)")
    parser.add_argument("--only", choices=names, help="one provider")
    options = parser.parse_args(arguments)
    if find_spec("atheris") is None:
        sys.stdout.write(
            "Nothing is fuzzed: atheris has no wheel for this Python or platform (Linux on x86-64 only).\n"
        )
        return int("NOTHING_LEFT_OUT" in os.environ)
    chosen = [options.only] if options.only else names
    share = max(1, options.seconds * min(CORES, len(chosen)) // len(chosen))
    faults = 0
    with ThreadPoolExecutor(CORES) as pool:
        for provider, tried, found in pool.map(lambda name: fuzz(name, share), chosen):
            sys.stdout.write(f"  {provider:14} {tried:8} requests   {'FOUND' if found else 'nothing found'}\n{found}")
            sys.stdout.flush()
            faults += bool(found)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
