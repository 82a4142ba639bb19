"""The operations that are killed, each the service's real code on real servers.

Importing this wants Django to be set up.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from django.test import Client

from mailer import doubts, outbox, sender, sweeping
from tests.chaos.hooks import signed
from tests.chaos.modes import Mode
from users import challenges
from users.models import EmailChallenge, User

# Not in the password list, and found in no other text.
PASSWORD: Final = "a-violet-Zeppelin-over-Lisbon"


class Left(StrEnum):
    """How far the message of a point has come when the operation begins."""

    NONE = "none"
    WAITING = "waiting"
    SENDING = "sending"  # by a worker that was killed meanwhile; its lease is over
    DOUBTED = "doubted"  # the same, once that was noticed and the grace is over
    SENT = "sent"


@dataclass(frozen=True)
class Point:
    """One run of an operation, about these addresses. What happens inside `traced()` counts, and may be its last."""

    addresses: list[str]
    traced: Callable[[], AbstractContextManager[None]]
    hook: dict[str, Any] | None = None

    @property
    def address(self) -> str:
        """The only one, of an operation that is about a single mail."""
        [address] = self.addresses
        return address


@dataclass(frozen=True)
class Operation:
    """Something the service does, once a point; `faults` are the provider's meanwhile.

    `left` says where the point's own messages stand before; other points' messages are out of its sight. With a
    `stride`, only every n-th of its lines is a point: it differs from another operation in a few of them.
    """

    name: str
    act: Callable[[Mode, Point], None]
    left: Left = Left.NONE
    stride: int = 1
    faults: dict[str, Any] = field(default_factory=dict, hash=False)


def cause(mode: Mode, addresses: Sequence[str]) -> None:
    """Cause a message of the mode's kind to each address, as the service does."""
    for address in addresses:
        if mode.kind == "verification":
            User(email=address, password="!").save()
        else:
            outbox.enqueue(mode.kind, address, dedupe_key=f"chaos:{address}")


def client() -> Client:
    return Client(SERVER_NAME="127.0.0.1")


def register(_mode: Mode, point: Point) -> None:
    visitor = client()
    with point.traced():
        answer = visitor.post(
            "/api/v1/accounts/register",
            {"email": point.address, "password": PASSWORD},
            content_type="application/json",
        )
    _expect(answer.status_code, 202)


def enqueue(mode: Mode, point: Point) -> None:
    with point.traced():
        cause(mode, point.addresses)


def verify(_mode: Mode, point: Point) -> None:
    """Press the link: the address is verified and the welcome mail promised, or neither."""
    visitor = client()
    User(email=point.address, password="!").save()
    token = challenges.link_token(EmailChallenge.objects.get(user__email=point.address))
    with point.traced():
        answer = visitor.post("/verify-email", {"token": token})
    _expect(answer.status_code, 200)


def drain(_mode: Mode, point: Point) -> None:
    with point.traced():
        sender.drain()


def sweep(_mode: Mode, point: Point) -> None:
    with point.traced():
        sweeping.sweep()


def resolve(_mode: Mode, point: Point) -> None:
    with point.traced():
        doubts.resolve()


def ingest(_mode: Mode, point: Point) -> None:
    assert point.hook is not None
    visitor = client()
    with point.traced():
        status = post(visitor, point.hook)
    _expect(status, 200)


def post(visitor: Client, hook: dict[str, Any]) -> int:
    """Post a webhook as its provider does; return the answer's status."""
    path, body, headers = signed(hook)
    return int(visitor.post(path, body, content_type="application/json", headers=headers).status_code)


def _expect(status: int, wanted: int) -> None:
    if status != wanted:
        raise RuntimeError(f"answered {status} instead of {wanted}")


# Of a drain that ends in another way than the plain one, which is killed at every line.
VARIANT: Final = 8

OPERATIONS: Final = (
    Operation("register", register),
    Operation("enqueue", enqueue),
    Operation("verify", verify),
    Operation("drain", drain, Left.WAITING),
    Operation("drain_answer_lost", drain, Left.WAITING, VARIANT, {"rate_reset_after": 1}),
    Operation("drain_fails_after", drain, Left.WAITING, VARIANT, {"rate_5xx_after": 1}),
    Operation("drain_fails_before", drain, Left.WAITING, VARIANT, {"rate_5xx_before": 1}),
    Operation("drain_throttled", drain, Left.WAITING, VARIANT, {"rate_429": 1}),
    Operation("drain_unreadable", drain, Left.WAITING, VARIANT, {"rate_unreadable": 1}),
    Operation("sweep", sweep, Left.SENDING),
    Operation("resolve", resolve, Left.DOUBTED),
    Operation("ingest", ingest, Left.SENT),
)
