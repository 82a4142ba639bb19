"""What becomes of a mail: decided by the recipient's local part, so that a test picks it by the address."""

from dataclasses import dataclass

# What may befall a mail. Of a provider that tells of a thing its table of events has the word; none has them all.
WORDS = (
    "sent",
    "delivered",
    "deferred",
    "soft_bounced",
    "bounced",
    "suppressed",
    "complained",
    "rejected",
    "failed",
    "opened",
    "clicked",
    "unsubscribed",
)


@dataclass(frozen=True)
class Step:
    """One thing that happens, ``after`` seconds from acceptance (before the time scale)."""

    word: str
    after: float


_DELIVERED = (Step("sent", 0.1), Step("delivered", 0.5))

BEHAVIOURS: dict[str, tuple[Step, ...]] = {
    "delivered": _DELIVERED,
    "bounce": (Step("sent", 0.1), Step("bounced", 0.8)),
    "soft": (Step("sent", 0.1), Step("soft_bounced", 0.8)),
    "complain": (*_DELIVERED, Step("complained", 3)),
    "slow": (Step("sent", 0.1), Step("delivered", 30)),
    "defer": (Step("sent", 0.1), Step("deferred", 1), Step("delivered", 20)),
    "open": (*_DELIVERED, Step("opened", 2)),
    "click": (*_DELIVERED, Step("opened", 2), Step("clicked", 3)),
    "silent": _DELIVERED,
    "reject": (Step("suppressed", 0.5),),
}
UNTOLD = "silent"
REJECTED = "reject"


def behaviour_of(address: str) -> str:
    """Name what ``bounce@x``, ``bounce+7@x`` or ``anyone+bounce@x`` do; anything unknown is delivered."""
    parts = address.rpartition("@")[0].lower().split("+")
    return next((part for part in reversed(parts) if part in BEHAVIOURS), "delivered")
