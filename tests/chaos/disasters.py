"""What goes wrong in a storm, and when: drawn beforehand, so that a seed makes the same storm."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

# Seconds between two kills of a program.
PACE: Final = (2.0, 4.0)
# Seconds that a storm usually lasts at most; a longer one is as rough all the time.
USUAL_LENGTH: Final = 220.0
# How often each of these happens in such a time, and in a shorter storm, too.
TIMES: Final = {"flush": 5, "cut_off": 3, "restart_database": 3, "freeze": 6}

# What the provider does wrong, a part of the storm each. It takes its time, so that each kill finds requests under way.
FAULTS: Final[tuple[dict[str, Any], ...]] = (
    {"latency_ms": 200, "webhook_early": True},
    {"latency_ms": 200, "rate_429": 0.1},
    {"latency_ms": 100, "rate_5xx_before": 0.05, "rate_5xx_after": 0.05, "webhook_duplicate": 0.3},
    {"latency_ms": 200, "rate_reset_before": 0.05, "rate_reset_after": 0.05, "webhook_shuffle": True},
    {"latency_ms": 100, "rate_unreadable": 0.2, "webhook_delay_ms": 2000, "webhook_late_ms": 3000},
    {"latency_ms": 200, "rate_hang": 0.01, "hang_ms": 15_000, "webhook_shuffle": True, "webhook_late_ms": 1000},
    {
        "latency_ms": 300,
        "rate_429": 0.02,
        "rate_429_bare": 0.02,
        "rate_5xx_before": 0.02,
        "rate_5xx_after": 0.02,
        "rate_reset_before": 0.02,
        "rate_reset_after": 0.02,
        "rate_unreadable": 0.02,
        "rate_search_5xx": 0.2,
        "webhook_duplicate": 0.2,
        "webhook_shuffle": True,
        "webhook_late_ms": 500,
        "search_lag_ms": 500,
    },
)


@dataclass(frozen=True, order=True)
class Disaster:
    """Something that happens `at` seconds into the storm; `target` names the program, or the number of the faults."""

    at: float
    what: str
    target: str = ""


def drawn(seed: int, seconds: float, programs: list[str], rare: Sequence[str] = ()) -> list[Disaster]:
    """Draw a storm of some length over some programs, in the order of time.

    `rare` are what happens besides, once in each USUAL_LENGTH; so often happen all, in a storm that is longer.
    """
    chance = random.Random(seed)
    disasters: list[Disaster] = []
    at = chance.uniform(*PACE)
    while at < seconds:
        disasters.append(Disaster(at, chance.choice(("kill", "kill_child")), chance.choice(programs)))
        at += chance.uniform(*PACE)
    workers = [name for name in programs if name.startswith("worker")]
    rounds = max(1, round(seconds / USUAL_LENGTH))
    for what, times in {**TIMES, **dict.fromkeys(rare, 1)}.items():
        for number in range(times * rounds):
            # One in each part of the storm, anywhere in it; not at its end, where nothing is left to go wrong.
            at = seconds * (number + chance.uniform(0.1, 0.9)) / (times * rounds)
            disasters.append(Disaster(at, what, chance.choice(workers)))
    part = seconds / (len(FAULTS) * rounds)
    disasters += [
        Disaster(part * number, "faults", str(number % len(FAULTS))) for number in range(len(FAULTS) * rounds)
    ]
    return sorted(disasters)
