"""Fuzz one provider's verifier and parser: run by `tests.fuzz`, with libFuzzer's own arguments after the name."""

import json
import os
import random
import sys
from typing import Any

import atheris
import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
django.setup()

with atheris.instrument_imports(include=["webhooks", "anymail", "mailer.ledger", "users.addresses"]):
    from tests.fuzz.requests import WEBHOOKS, check, fetch_nothing
    from webhooks.providers import sns

SCALARS = (
    None,
    True,
    False,
    0,
    -1,
    2**70,
    1e308,
    10**400,
    "",
    "\0",
    "\ud800",
    "9" * 300,
    "5.1.1",
    [],
    {},
    [[]],
    "x" * 3000,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to everything within decoded JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for name, inner in items for found in ((*path, name), *places(inner, (*path, name)))]


def mutated(data: bytes, most: int, seed: int) -> bytes:
    """Put another value into the JSON of a body, or take one out; where there is none, and at times, mutate bytes."""
    draw = random.Random(seed)
    head, empty, body = data.rpartition(b"\n\n") if b"\n\n" in data else (b"", b"", data)
    try:
        payload = json.loads(body)
        way = draw.choice(places(payload))
    except (ValueError, IndexError, RecursionError):
        return atheris.Mutate(data, most)
    if draw.random() < 0.3:
        return atheris.Mutate(data, most)
    inner = payload
    for step in way[:-1]:
        inner = inner[step]
    if draw.random() < 0.3:
        del inner[way[-1]]
    else:
        inner[way[-1]] = draw.choice((*SCALARS, payload if draw.random() < 0.1 else "x"))
    try:
        return (head + empty + json.dumps(payload).encode())[:most]
    except (ValueError, RecursionError):  # it holds itself, or a number that is too long to write
        return atheris.Mutate(data, most)


def main() -> None:
    provider = sys.argv.pop(1)
    if provider not in WEBHOOKS:
        sys.exit(f"{provider} is none of {', '.join(WEBHOOKS)}")
    sns.CERTIFICATES.fetch = fetch_nothing
    atheris.Setup(sys.argv, lambda data: check(provider, data), custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
