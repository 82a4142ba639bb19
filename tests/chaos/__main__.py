"""The proof under fire: `make chaos`.

    python -m tests.chaos [--slice | --long] [--seed N] ...

kills the service's code at each of its lines, puts its processes into a storm, and a plain `send.delay()` into the same
one. Progress goes to stderr; the last line of stdout is one JSON object; the exit code is 0 if every check held.
"""

import argparse
import json
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from project.processes import Interrupted, Unavailable, interrupt_once
from tests.chaos import runs
from tests.chaos.brokers import BROKERS
from tests.chaos.ground import Kit
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
# Of what speaks against a run, so many are told of on stderr.
SHOWN: Final = 20


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Prove that no mail is lost or doubled: kill the service's code at its lines (points), its "
        "processes in a storm, and a plain `send.delay()` in the same one (baseline).",
        epilog="The last line on stdout is a JSON object, told of in docs/chaos.md; the exit code is 0 if all held. "
        "Logs and data of the last run are in .run/chaos/.",
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; may be given again")
    parser.add_argument("--seed", type=int, metavar="N", help="repeats a storm's events and times (default: a new one)")
    parser.add_argument(
        "--points", type=int, metavar="N", help="about so many crash points, evenly chosen; 0: each line"
    )
    parser.add_argument("--registrations", type=int, metavar="N", help="people who register, and are answered")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of the storm as planned")
    parser.add_argument("--provider", default="resend,postmark", help="of the storm, as MAIL_PROVIDERS (%(default)s)")
    parser.add_argument("--broker", choices=BROKERS, default="valkey", help="what carries the hints (%(default)s)")
    lengths = parser.add_mutually_exclusive_group()
    lengths.add_argument("--slice", action="store_true", help="some minutes: 300 points, a storm of a minute")
    lengths.add_argument(
        "--long", action="store_true", help="hours: every line is a point, and the storm lasts --hours"
    )
    long = parser.add_argument_group("with --long")
    long.add_argument("--hours", type=float, metavar="H", default=1.0, help="length of the storm (%(default)s)")
    long.add_argument("--messages", type=int, metavar="N", default=0, help="mails to be sent besides (%(default)s)")
    long.add_argument(
        "--clock-jumps", action="store_true", help="clocks are wrong by up to a day now and then, by libfaketime"
    )
    long.add_argument("--full-disk", action="store_true", help="the database's disk is full now and then; takes root")
    return parser.parse_args(arguments)


@dataclass(frozen=True)
class Length:
    """How long a run is: crash points, at least, registrations, seconds of the storm, registrations of the baseline."""

    points: int
    fewest: int
    registrations: int
    seconds: float
    baseline: int


SLICE: Final = Length(points=300, fewest=200, registrations=600, seconds=60.0, baseline=300)
USUAL: Final = Length(points=3_150, fewest=3_000, registrations=5_000, seconds=220.0, baseline=600)
# Of a storm that lasts an hour.
PER_HOUR: Final = 50_000


def length_of(options: argparse.Namespace) -> Length:
    if not options.long:
        return SLICE if options.slice else USUAL
    return replace(USUAL, points=0, registrations=round(PER_HOUR * options.hours), seconds=3600 * options.hours)


def plan_of(options: argparse.Namespace) -> Plan:
    length = length_of(options)
    registrations = options.registrations or length.registrations
    return Plan(
        seed=secrets.randbelow(10**6) if options.seed is None else options.seed,
        points=length.points if options.points is None else options.points,
        fewest=length.fewest if options.points is None else 0,
        registrations=registrations,
        seconds=options.seconds or length.seconds,
        providers=options.provider,
        baseline=min(registrations, length.baseline),
        messages=options.messages if options.long else 0,
        kit=Kit(
            broker=options.broker,
            full_disk=options.long and options.full_disk,
            clock_jumps=options.long and options.clock_jumps,
        ),
    )


def summary(plan: Plan, parts: dict[str, Figures]) -> dict[str, Any]:
    """Return the one object that a run ends with."""
    points, storm, plain = (parts.get(name, {}) for name in PARTS)
    return {
        "kills": storm.get("kills", 0),
        "crash_points": points.get("crash_points", 0),
        "registrations": storm.get("registrations", 0),
        **{name: points.get(name, 0) + storm.get(name, 0) for name in ADDED},
        "recovery_s": storm.get("recovery_s", 0.0),
        "seed": plan.seed,
        "baseline": {name: plain.get(name, 0) for name in ("lost", "stuck", "duplicates")} if plain else {},
    }


def verdict(parts: dict[str, Figures]) -> list[str]:
    """Return what speaks against the run."""
    found = [f"{name}: {text}" for name, part in parts.items() for text in part.get("violations", [])]
    found += [f"{name}: {part['deadlocks']} deadlocks" for name, part in parts.items() if part.get("deadlocks")]
    plain = parts.get("baseline")
    if plain and not plain.get("lost", 0) + plain.get("duplicates", 0):
        found.append("baseline: nothing was lost and nothing doubled: that was no storm, and the run is void")
    return found


def play(plan: Plan, names: list[str]) -> int:
    parts: dict[str, Figures] = {}
    with Progress() as progress:
        for name in names:
            begin = time.monotonic()
            try:
                parts[name] = PARTS[name](plan, progress)
            except TimeoutError as error:
                parts[name] = {"violations": [f"not_finished: {error}"]}
            counted = {key: value for key, value in parts[name].items() if key != "violations"}
            progress.say(f"{name} took {time.monotonic() - begin:.0f} s: {json.dumps(counted)}")
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
    except Unavailable as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except Interrupted as interruption:
        return 128 + interruption.number


if __name__ == "__main__":
    sys.exit(main())
