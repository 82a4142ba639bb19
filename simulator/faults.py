"""What goes wrong on purpose. Set as a whole by ``PUT /faults`` or ``SIMULATOR_FAULTS``."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any


class FaultsError(ValueError):
    """Faults that do not exist or make no sense; the message says which."""


@dataclass(frozen=True)
class Faults:
    """``rate_*``, ``webhook_duplicate`` and ``webhook_forged`` are chances from 0 to 1, ``*_ms`` milliseconds.

    *before* means nothing was accepted, *after* that the mail was; each is decided once a request, also for a batch.
    ``rate_429_bare`` says 429 without Retry-After. ``rate_hang`` accepts, says nothing for ``hang_ms``, then cuts the
    connection. A search finds a mail only ``search_lag_ms`` after it was accepted. A webhook comes ``webhook_delay_ms``
    late, and up to ``webhook_late_ms`` more; a doubled one twice in each attempt, a forged one with a signature or
    credentials by another secret. With ``webhook_early`` a mail's webhooks are posted and answered before
    the send API answers. The same ``seed`` makes the same choices for the same requests.
    """

    latency_ms: float = 0.0
    hang_ms: float = 60_000.0
    search_lag_ms: float = 0.0
    rate_429: float = 0.0
    rate_429_bare: float = 0.0
    rate_5xx_before: float = 0.0
    rate_5xx_after: float = 0.0
    rate_reset_before: float = 0.0
    rate_reset_after: float = 0.0
    rate_unreadable: float = 0.0
    rate_hang: float = 0.0
    rate_search_5xx: float = 0.0
    webhook_duplicate: float = 0.0
    webhook_forged: float = 0.0
    webhook_shuffle: bool = False
    webhook_delay_ms: float = 0.0
    webhook_late_ms: float = 0.0
    webhook_early: bool = False
    seed: int | None = None

    @classmethod
    def read(cls, data: Any) -> "Faults":
        """Check a JSON object. Raises FaultsError on an unknown name, a wrong type or a wrong value."""
        if not isinstance(data, dict):
            raise FaultsError("faults must be a JSON object")
        kinds = {field.name: field.type for field in fields(cls)}
        for name, value in data.items():
            if name not in kinds:
                raise FaultsError(f"unknown fault {name!r}; known: {', '.join(kinds)}")
            _check(name, value, kinds[name])
        return cls(**data)


def _check(name: str, value: Any, kind: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is bool and not isinstance(value, bool):
        raise FaultsError(f"{name} must be true or false")
    if kind is float and not (number and 0 <= value <= (float("inf") if name.endswith("_ms") else 1)):
        raise FaultsError(f"{name} must be a number of at least 0{'' if name.endswith('_ms') else ' and at most 1'}")
    if name == "seed" and value is not None and (not number or value != int(value)):
        raise FaultsError("seed must be a whole number or null")


class Dice:
    """The faults in force, and the chance that decides each time."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.random = random.Random(faults.seed)  # noqa: S311  # chance, not secrets

    def hit(self, name: str) -> bool:
        """Decide one chance; draws nothing where it is 0, so that no fault disturbs another's sequence."""
        chance: float = getattr(self.faults, name)
        return chance > 0 and self.random.random() < chance

    def first(self, names: Iterable[str]) -> str:
        """Name the first of some chances that comes true; empty when none does."""
        return next((name for name in names if self.hit(name)), "")
