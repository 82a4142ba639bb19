"""The shape of a provider's facts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from mailer.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Provider:
    """What we must know of a provider to send through it.

    `idempotency_header` and `key_lifetime` say how a repeat is made not to be a second mail, and for how
    long; a provider without them gets no request a second time once it may have accepted one. `refusals` says what an
    HTTP status means where it means something else than at most providers (`verdicts.BY_STATUS`).
    """

    name: str
    backend: str
    idempotency_header: str | None = None
    key_lifetime: timedelta = timedelta(0)
    refusals: Mapping[int, Verdict] = field(default_factory=dict)
