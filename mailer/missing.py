"""Users that miss a mail: `bulk_create` and `update` send no signal, in Django as here, so nobody enqueued it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.db.models.functions import Now

from mailer import receivers
from mailer.models import Message
from users.models import User

# Users of one transaction.
BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class Gap:
    """Users that miss a mail of one kind, and what enqueues it."""

    kind: str
    users: QuerySet[User]
    enqueue: Callable[[User], Message | None]

    def fill(self) -> Iterator[tuple[int, int]]:
        """Enqueue the mails batch after batch; yield how many users were seen to, and how many mails that made.

        Safe beside registrations and a second run: each user's row is locked while it is looked at, and the dedupe key
        is the one that the receiver uses.
        """
        last = 0
        while batch := self._fill_some(last):
            last = max(batch)
            yield len(batch), sum(batch.values())

    @transaction.atomic
    def _fill_some(self, after: int) -> dict[int, bool]:
        users = self.users.filter(pk__gt=after).order_by("pk").select_for_update(no_key=True, skip_locked=True)
        return {user.pk: self.enqueue(user) is not None for user in users[:BATCH]}


def gaps(days: float) -> list[Gap]:
    """Return who misses what: active users alone, and only what happened in the last days.

    A verification mail is missed by who joined then, is not verified, and never got one; a welcome by who was
    verified then and never got one. So nobody who came from an older system long ago is greeted now. Raises
    `ValueError` for more days than histories are kept, since what was sent before is not known any more.
    """
    if not 0 < days <= settings.MAIL_HISTORY_DAYS:
        raise ValueError(f"days must be more than 0, and at most MAIL_HISTORY_DAYS ({settings.MAIL_HISTORY_DAYS:g})")
    active, lately = User.objects.filter(is_active=True, is_service=False), Now() - timedelta(days=days)
    return [
        Gap(
            "verification",
            active.filter(~_has("verification"), email_verified_at=None, date_joined__gte=lately),
            receivers.ask_to_verify,
        ),
        Gap("welcome", active.filter(~_has("welcome"), email_verified_at__gte=lately), receivers.welcome),
    ]


def _has(kind: str) -> Exists:
    return Exists(Message.objects.filter(user=OuterRef("pk"), kind=kind))
