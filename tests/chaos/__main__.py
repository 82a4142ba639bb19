"""The proof under fire: `make chaos`.

    python -m tests.chaos [--slice] [--seed N] ...

kills the service's code at each of its lines, puts its processes into a storm, and a plain `send.delay()` into the same
one. Progress goes to stderr; the last line of stdout is one JSON object; the exit code is 0 if every check held.
"""

import argparse
import json
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from project.processes import Interrupted, Unavailable, interrupt_once
from tests.chaos import runs
from tests.chaos.progress import Progress
from tests.chaos.runs import Figures, Plan

PARTS: Final[dict[str, Callable[[Plan, Progress], Figures]]] = {
    "points": runs.points,
    "storm": runs.storm,
    "baseline": runs.baseline,
}
# What both the points and the storm count, and what only one of them does.
ADDED: Final = (
    *("messages", "events", "lost", "duplicates_avoidable", "duplicates_unavoidable", "ambiguous", "unconverged"),
    "deadlocks",
)
# What may be there, since it was promised so; of all else that is found there may be none.
SHOWN: Final = 20


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Prove that no mail is lost or doubled.")
    parser.add_argument("--slice", action="store_true", help="a short one: 300 points, a storm of a minute")
    parser.add_argument("--points", type=int, help="about so many crash points, evenly chosen (default: each line)")
    parser.add_argument("--registrations", type=int, help="answered ones in the storm (default: 5000)")
    parser.add_argument("--seconds", type=float, help="length of the storm as planned (default: 240)")
    parser.add_argument("--seed", type=int, help="repeats a storm (default: a new one)")
    parser.add_argument("--provider", default="resend,postmark", help="as MAIL_PROVIDERS (default: %(default)s)")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; may be given again")
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> Plan:
    points, fewest, registrations, seconds = (300, 200, 600, 60.0) if options.slice else (0, 3000, 5000, 240.0)
    registrations = options.registrations or registrations
    return Plan(
        seed=secrets.randbelow(10**6) if options.seed is None else options.seed,
        points=points if options.points is None else options.points,
        fewest=fewest if options.points is None else 0,
        registrations=registrations,
        seconds=options.seconds or seconds,
        providers=options.provider,
        baseline=min(registrations, 600),
    )


def summary(plan: Plan, parts: dict[str, Figures]) -> dict[str, Any]:
    """Return the one object that a run ends with."""
    points, storm = parts.get("points", {}), parts.get("storm", {})
    return {
        "kills": storm.get("kills", 0),
        "crash_points": points.get("crash_points", 0),
        "registrations": storm.get("registrations", 0),
        **{name: points.get(name, 0) + storm.get(name, 0) for name in ADDED},
        "recovery_s": storm.get("recovery_s", 0.0),
        "seed": plan.seed,
        "baseline": parts.get("baseline", {}),
    }


def verdict(parts: dict[str, Figures]) -> list[str]:
    """Return what speaks against the run."""
    found = [f"{name}: {text}" for name, part in parts.items() for text in part.get("violations", [])]
    found += [f"{name}: {part['deadlocks']} deadlocks" for name, part in parts.items() if part.get("deadlocks")]
    plain = parts.get("baseline")
    if plain and not plain["lost"] + plain["duplicates"]:
        found.append("baseline: nothing was lost and nothing doubled: that was no storm, and the run is void")
    return found


def play(plan: Plan, names: list[str]) -> int:
    parts: dict[str, Figures] = {}
    with Progress() as progress:
        for name in names:
            begin = time.monotonic()
            parts[name] = PARTS[name](plan, progress)
            progress.say(f"{name} took {time.monotonic() - begin:.0f} s")
        found = verdict(parts)
        for text in found[:SHOWN]:
            progress.say(text)
        if found[SHOWN:]:
            progress.say(f"and {len(found) - SHOWN} more")
    sys.stdout.write(json.dumps(summary(plan, parts)) + "\n")
    return 1 if found else 0


def main() -> int:
    options = parse()
    interrupt_once()
    try:
        return play(plan_of(options), options.part or list(PARTS))
    except (Unavailable, TimeoutError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except Interrupted as interruption:
        return 128 + interruption.number


if __name__ == "__main__":
    sys.exit(main())
