"""The shape of how a provider is asked what became of a mail."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

# Yields requests (`method`, `url`, and what else `requests` takes), is sent the decoded answer to each, and returns
# events as the provider's webhooks would have told of them.
Story = Generator[dict[str, Any], Any, list[Any]]


@dataclass(frozen=True, slots=True)
class Poll:
    """How a provider is asked what became of a mail.

    `ask` takes Anymail's backend, which holds address and credentials, and the provider's id of the mail. What it
    returns goes through the same tables as the webhooks (`webhooks.providers`), so that it is read alike, and is the
    same event where the provider gives it the same identity. It tells of statuses alone: who opened a mail, and how
    often, is not counted twice. `unknown` are codes of errors (`Provider.error_codes`) that say that there is no such
    mail, as status 404 does.

    `rate` is how many requests a second may go to it in the long run, `burst` how many at once: together they stay
    below what its pages allow, and leave some of that to others. A question takes `most` requests at most.
    """

    ask: Callable[[Any, str], Story]
    rate: float
    burst: int
    most: int = 1
    unknown: frozenset[str] = frozenset()
