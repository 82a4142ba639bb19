"""What is promised about a message: it follows from what its provider can do, and from its kind."""

from dataclasses import dataclass
from typing import Final

# The kinds that are sent again when nobody can tell whether they were accepted: a second link does less harm than none.
AT_LEAST_ONCE: Final = frozenset({"verification", "account_exists"})


@dataclass(frozen=True)
class Mode:
    """A provider and a kind, and why the two are looked at.

    `together` is how many messages a point has, in one batch; `share` how many points it gets, beside the others' 1.
    """

    name: str
    provider: str
    kind: str
    together: int = 1
    share: float = 1.0


MODES: Final = (
    Mode("key", "resend", "verification"),
    Mode("batch", "resend", "verification", together=10, share=0.2),
    Mode("search", "postmark", "verification"),
    Mode("at_least_once", "sendgrid", "verification"),
    Mode("at_most_once", "sendgrid", "welcome"),
)
