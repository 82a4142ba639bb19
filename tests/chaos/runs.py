"""The parts of a run, each on ground of its own; each returns its figures and what it found."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Final

from mailer.providers import PROVIDERS
from project.arrangement import ports
from project.embedded import RUN
from project.processes import tethered
from tests.chaos import aftermath
from tests.chaos.baseline import verdict
from tests.chaos.ground import ROOT, USUAL, Ground, Kit, Provider, connect, deadlocks, serving, standing
from tests.chaos.modes import MODES, Mode
from tests.chaos.progress import Progress
from tests.chaos.storm import LEASE, QUIET, SERVICE, Storm, Subject

Figures = dict[str, Any]

HOME: Final = RUN / "chaos"
# Leases shorter than a request may take run out soon; those of the simulator are over sooner.
HASTY: Final = {"SILENCED_SYSTEM_CHECKS": "mailer.E002"}
# Short leases, enough slots to leave a handful of messages in the middle, and less to log.
POINT_ENVIRON: Final = {**HASTY, "MAIL_LEASE_SECONDS": "1", "MAIL_CONCURRENCY": "32", "LOG_LEVEL": "ERROR"}
# Webhooks a second that a provider posts at least, of those that many mails have left when the storm is over.
POSTED: Final = 100
# Seconds without news after which the baseline is taken to be at rest.
SILENCE: Final = 15.0


@dataclass(frozen=True)
class Plan:
    """How large a run is. `points` is how many of the lines are points, 0 for each; `fewest` how many have to be."""

    seed: int
    points: int
    fewest: int
    registrations: int
    seconds: float
    providers: str
    baseline: int
    messages: int = 0
    kit: Kit = USUAL

    @property
    def rate(self) -> float:
        return self.registrations / self.seconds


def points(plan: Plan, progress: Progress) -> Figures:
    """Kill the service's code at each of its lines, in every mode that can be had."""
    modes = [mode for mode in MODES if mode.provider in PROVIDERS]
    targets = {mode: ceil(plan.points * mode.share / sum(each.share for each in modes)) for mode in modes}
    with standing(HOME / "points", webhooks=False, providers=modes[0].provider, **POINT_ENVIRON) as ground:
        ground.program("prepare", *SERVICE.prepare).run()
        with connect(ground.database("template1")) as sql:
            for mode in modes:
                sql.execute(f"CREATE DATABASE {mode.name} TEMPLATE postgres")
        with ThreadPoolExecutor(len(modes)) as pool:  # each waits for its servers half of the time
            running: list[subprocess.Popen[str]] = []
            try:
                results = list(
                    pool.map(lambda mode: _points_of(mode, ground, targets[mode], plan.seed, progress, running), modes)
                )
            except BaseException:
                for process in running:
                    process.terminate()  # else the pool would wait for their ends
                raise
        found = [text for result in results for text in result["violations"]]
        killed = sum(sum(result["points"].values()) for result in results)
        if killed < plan.fewest:
            found.append(f"too_few_points: {killed} instead of {plan.fewest}")
        return {**_summed(results), "crash_points": killed, "deadlocks": deadlocks(ground), "violations": found}


def _points_of(
    mode: Mode, ground: Ground, target: int, seed: int, progress: Progress, running: list[subprocess.Popen[str]]
) -> Figures:
    """Run the points of one mode in a process, on a database and with a simulator of its own."""
    directory = ground.directory / mode.name
    directory.mkdir()
    port = ports(fixed=False)["SIMULATOR_PORT"]
    provider = Provider(f"http://127.0.0.1:{port}")
    environ = {"MAIL_PROVIDERS": mode.provider, "DATABASE_URL": ground.database(mode.name)}
    if mode.name == "key":
        environ["MAIL_BATCH_SIZE"] = "1"  # of a key of its own for each, where batches have one for all
    environ |= {"SIMULATOR_PORT": str(port), "SIMULATOR_DATA": str(directory)}
    environ |= {
        name: value.replace(ground.provider.url, provider.url)
        for name, value in ground.environ.items()
        if name.endswith("_API_URL")
    }
    simulator = ground.program(f"simulator-{mode.name}", "-m", "simulator", **environ)
    command = ["-m", "tests.chaos.points", mode.name, "--database", environ["DATABASE_URL"]]
    command += ["--simulator", provider.url, "--points", str(target), "--seed", str(seed)]
    result: Figures = {"points": {}, "violations": []}
    with serving(simulator, provider), (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            tethered([sys.executable, *command], signal.SIGTERM),
            cwd=ROOT, env=ground.environ | environ, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        running.append(process)
        for line in process.stdout or ():
            said = json.loads(line)
            progress.add(f"points: {mode.name}", said.get("lines", 0), said.get("done", 0))
            result = said.get("result", result)
        if process.wait() != 0:
            result["violations"].append(f"points_of_{mode.name}_failed: see {_short(directory / 'log')}")
    result["violations"] = [f"{mode.name}: {text}" for text in result["violations"]]
    return result


def storm(plan: Plan, progress: Progress) -> Figures:
    """Put the service into the storm."""
    environ = {"providers": plan.providers, **HASTY, "MAIL_LEASE_SECONDS": str(LEASE)}
    with standing(HOME / "storm", webhooks=True, kit=plan.kit, **environ) as ground:
        raging = _storm(SERVICE, ground, plan, plan.registrations, progress)
        raging.messages = plan.messages
        told: set[int] = set()
        try:
            visitors = raging.rage()
            # What so many mails left for the provider to post is no unrest of ours.
            backlog = ground.provider.webhooks_due() if plan.messages else 0
            recovery_s = aftermath.come_to_rest(ground, QUIET + backlog / POSTED, told)
        finally:
            raging.stop()
        return {
            **aftermath.judge(ground, visitors.answered, told),
            "registrations": len(visitors.answered),
            "kills": raging.kills,
            "deadlocks": deadlocks(ground),
            "recovery_s": round(recovery_s, 1),
        }


def baseline(plan: Plan, progress: Progress) -> Figures:
    """Put the plain way into the same storm, if a shorter one."""
    with standing(HOME / "baseline", webhooks=True, providers="resend") as ground:
        raging = _storm(verdict.BASELINE, ground, plan, plan.baseline, progress)
        try:
            visitors = raging.rage()
            _fall_silent(ground.provider)
        finally:
            raging.stop()
        return verdict.judge(ground, visitors.answered)


def _storm(subject: Subject, ground: Ground, plan: Plan, registrations: int, progress: Progress) -> Storm:
    name = f"{ground.directory.name}: registrations"
    progress.add(name, registrations, 0)
    return Storm(
        subject, ground, plan.seed, registrations, registrations / plan.rate, on_answer=lambda: progress.add(name, 0, 1)
    )


def _fall_silent(provider: Provider) -> None:
    """Wait until the provider has heard nothing for a while, and has nothing to say."""
    heard, since, begin = -1, time.monotonic(), time.monotonic()
    while time.monotonic() - begin < QUIET and time.monotonic() - since < SILENCE:
        now_heard = provider.counts()["mails"] + provider.webhooks_due()
        if now_heard != heard:
            heard, since = now_heard, time.monotonic()
        time.sleep(0.5)


def _summed(results: Sequence[Figures]) -> Counter[str]:
    """Add up what is counted."""
    total: Counter[str] = Counter()
    for result in results:
        total.update({name: value for name, value in result.items() if isinstance(value, int)})
    return total


def _short(path: Path) -> str:
    return os.path.relpath(path, ROOT)
