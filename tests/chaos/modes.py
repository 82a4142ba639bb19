"""What is promised about a message: it follows from what its provider can do, and from its kind."""

from dataclasses import dataclass
from typing import Final

# The kinds that are sent again when nobody can tell whether they were accepted: a second link does less harm than none.
AT_LEAST_ONCE: Final = frozenset({"verification", "account_exists"})


@dataclass(frozen=True)
class Mode:
    """A provider and a kind, and why the two are looked at."""

    name: str
    provider: str
    kind: str


MODES: Final = (
    Mode("key", "resend", "verification"),
    Mode("search", "postmark", "verification"),
    Mode("at_least_once", "sendgrid", "verification"),
    Mode("at_most_once", "sendgrid", "welcome"),
)
