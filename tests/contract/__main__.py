"""Hold the running service to its OpenAPI document: schemathesis, every phase and check, as each kind of caller.

    python -m tests.contract [--max-examples 20] [--seed 5] [--as user] [options of `schemathesis run`]

runs on the servers that the environment names (`make contract` starts some), in a database that it fills. What is no
option of its own goes to schemathesis: `--include-path /api/v1/deliveries`, `--phases fuzzing`.

It exits with 1 where a caller finds a fault; and where a run of everything gets no good answer at all from some
operation, or leaves a phase out.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import django

from project.arrangement import ports
from project.processes import tethered
from tests.chaos.ground import PATIENCE, ROOT, until_it_answers
from tests.webhooks.flood import WEB, environment

CALLERS: Final = ("anonymous", "user", "operator")
CONFIG: Final = Path(__file__).with_name("schemathesis.toml")


@dataclass(frozen=True, slots=True)
class Found:
    """What a caller's run came to: schemathesis' report, and what it said."""

    caller: str
    report: dict[str, Any]
    said: str

    @property
    def is_good(self) -> bool:
        return self.report.get("exit_code") == 0

    @property
    def left_out(self) -> list[str]:
        """The phases for which no time was left, or that found nothing to do."""
        return [name for name, phase in (self.report.get("phases") or {}).items() if phase["status"] == "skip"]

    @property
    def cases(self) -> int:
        return int(self.report.get("test_cases", {}).get("generated", 0))

    @property
    def accepted(self) -> set[str]:
        """The operations that gave a good answer at least once."""
        rates = self.report.get("valid_rates", {})
        return {name for name, phases in rates.items() if any(rate["accepted"] for rate in phases.values())}


def examine(url: str, caller: str, directory: Path, arguments: Sequence[str]) -> Found:
    """Run schemathesis as a caller."""
    report = directory / f"{caller}.json"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", f"{url}/api/schema/"]
    command += ["--report=json", f"--report-json-path={report}", *arguments]
    done = subprocess.run(
        tethered(command, signal.SIGTERM), cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"CONTRACT_CALLER": caller, "SCHEMATHESIS_HOOKS": "tests.contract.hooks"},
    )  # fmt: skip
    return Found(caller, json.loads(report.read_text()) if report.exists() else {}, done.stdout + done.stderr)


@contextmanager
def serving(port: int, log: Path) -> Iterator[str]:
    """Run the web server as it is deployed; return its URL."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            tethered([sys.executable, *WEB, "--port", str(port)], signal.SIGTERM),
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until_it_answers(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(PATIENCE)


def prepare() -> list[str]:
    """Migrate and fill the database; return the names of all operations, as schemathesis calls them."""
    django.setup()
    from django.core.management import call_command  # wants Django to be set up, as what follows
    from drf_spectacular.generators import SchemaGenerator

    from tests.contract import people

    call_command("migrate", verbosity=0)
    people.furnish()
    paths = SchemaGenerator().get_schema(public=True)["paths"]
    return [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]


def told(found: Found) -> Found:
    """Print what a run came to, in one line where it found nothing."""
    verdict = "nothing found" if found.is_good else f"FOUND\n{found.said}"
    sys.stdout.write(f"  {found.caller:10} {found.cases:6} requests   {verdict}\n")
    sys.stdout.flush()
    return found


def is_whole(runs: Sequence[Found], operations: Sequence[str]) -> bool:
    """Tell whether the runs together looked at everything; say what they did not."""
    unanswered = {*operations}.difference(*(found.accepted for found in runs))
    left_out = [f"{found.caller}: {name}" for found in runs for name in found.left_out]
    if unanswered or left_out:
        sys.stdout.write(f"  never answered well: {sorted(unanswered)}, phases left out: {left_out}\n")
    return not (unanswered or left_out)


def failures(log: Path) -> str:
    """Return what the web server logged as errors."""
    return "\n".join(line for line in log.read_text().splitlines() if '"level":"error"' in line)[:20_000]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.contract", allow_abbrev=False)
    parser.add_argument(
        "--max-examples", type=int, default=20, help="of each operation in each phase (default: %(default)s)"
    )
    parser.add_argument("--seconds", type=int, help="go on drawing until so many are over, and no longer")
    parser.add_argument("--seed", type=int, default=5, help="of what is drawn (default: %(default)s)")
    parser.add_argument("--as", dest="callers", action="append", choices=CALLERS, help="as this kind of caller alone")
    options, others = parser.parse_known_args()
    port = ports(fixed=False)["WEB_PORT"]
    os.environ |= environment(port) | {"THROTTLES": "0"}
    operations = prepare()
    callers = options.callers or CALLERS
    drawn = [f"--max-examples={options.max_examples}", f"--seed={options.seed}", *others]
    if options.seconds:
        drawn.append(f"--max-time={options.seconds}")
    with tempfile.TemporaryDirectory() as kept, ThreadPoolExecutor(len(callers)) as pool:
        directory, log = Path(kept), Path(kept) / "web.log"
        with serving(port, log) as url:
            all_found = [*pool.map(lambda caller: told(examine(url, caller, directory, drawn)), callers)]
        is_good = all(found.is_good for found in all_found)
        if is_good and not (others or options.callers or options.seconds):
            is_good = is_whole(all_found, operations)
        if not is_good:
            sys.stdout.write(failures(log))
        again = [*(f"--as={caller}" for caller in options.callers or ()), *drawn]
        sys.stdout.write(f'  Again: make contract ARGS="{" ".join(again)}"\n')
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
