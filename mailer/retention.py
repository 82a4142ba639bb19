"""What is not kept: bodies after some days, histories after more, a person's data when they ask.

What providers reported has an age of its own (`webhooks.retention`).

Mail that may still be sent is never touched by age. Every batch is a transaction of its own, over rows that nobody else
holds, so that it runs beside everything else, in any number, and loses nothing when it is killed. Locks are
taken on messages before deliveries, deliveries before events.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce, Now

from mailer import content, files, ledger, operators
from mailer.ledger import own_fact
from mailer.models import Attempt, Batch, DeliveryEvent, DeliveryStatus, Message, Suppression
from mailer.outbox import WITHHELD
from users.addresses import loosely_canonical
from users.models import EmailChallenge, User

log = structlog.get_logger(__name__)
State = Message.State

# Rows of one transaction.
BATCH: Final = 1000

# What a message ends in. One in doubt has no end, but it ages like the others.
ENDED: Final = (State.SENT, State.DEAD, State.EXPIRED, State.CANCELLED, State.SUPPRESSED)
# What has a worker, and so may be in a provider's hands at this moment.
UNDER_WAY: Final = (State.LEASED, State.SENDING)


# What others said, which may come again; our own words about a mail go with it.
REPORTED: Final = (DeliveryEvent.Source.WEBHOOK, DeliveryEvent.Source.POLL)
# For how long challenges that are over are kept, by which mails to an address are counted, and what was withheld.
SHORTLY: Final = timedelta(days=2)

# As the index `message_with_body` has it.
HAS_BODY: Final = Q(content__isnull=False) | ~Q(context={})


# --- By age ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """What goes: which rows, and what is done to those with some ids. `by` names the column that tells them apart."""

    name: str
    rows: QuerySet[Any]
    forget: Callable[[Sequence[Any]], object]
    by: str = "state"

    def count(self) -> dict[str, int]:
        """Return how many rows there are, by state."""
        return dict(self.rows.order_by(self.by).values_list(self.by).annotate(Count("pk")))

    def apply(self) -> Iterator[int]:
        """Forget batch after batch, and yield the size of each once it is committed."""
        while ids := self._apply_to_some():
            yield len(ids)

    @transaction.atomic
    def _apply_to_some(self) -> list[Any]:
        ids = list(self.rows.select_for_update(skip_locked=True).values_list("pk", flat=True)[:BATCH])
        if ids:
            self.forget(ids)
        return ids


def rules(
    body_days: float | None = None, history_days: float | None = None, states: Collection[str] = ()
) -> list[Rule]:
    """Return what is to go now, by MAIL_BODY_DAYS and MAIL_HISTORY_DAYS or the days given; of some states, or of all.

    A message's days count from its end; those of one in doubt from the beginning of that. By its events a report is
    known that comes again, and reports come when they like, such as an open after a year. So no message goes of which
    one was recorded in the last WEBHOOK_KEY_DAYS: else a repeat, or a replay of its receipt, would find no delivery, be
    news, and suppress an address again that somebody has released.
    """
    body = timedelta(days=settings.MAIL_BODY_DAYS if body_days is None else body_days)
    history = timedelta(days=settings.MAIL_HISTORY_DAYS if history_days is None else history_days)
    chosen = {*(states or (*ENDED, State.UNKNOWN))}
    ended = Message.objects.filter(state__in=chosen & {*ENDED})
    # What is still asked after, alone or with its batch, may have to be sent again.
    kept = Attempt.objects.filter(message=OuterRef("pk"), batch_id__in=Batch.objects.values("pk"))
    doubted = Message.objects.filter(~Exists(kept), state__in=chosen & {State.UNKNOWN}, inquire_at=None).annotate(
        doubted_at=Coalesce("first_ambiguous_at", "created_at")
    )
    return [
        # That of all others went as they ended. Once its link is dead, there is nothing left to send.
        Rule("secrets", doubted.filter(secret=True, expires_at__lt=Now(), content__isnull=False), _forget_bodies),
        Rule("bodies", ended.filter(HAS_BODY, finished_at__lt=Now() - body), _forget_bodies),
        Rule("bodies in doubt", doubted.filter(HAS_BODY, doubted_at__lt=Now() - body), _forget_bodies),
        # What nobody was to get tells nobody anything, and anybody can have such written.
        Rule(
            "withheld",
            ended.filter(state=State.CANCELLED, error_class=WITHHELD, finished_at__lt=Now() - SHORTLY),
            _forget_messages,
        ),
        Rule("messages", _quiet(ended.filter(finished_at__lt=Now() - history)), _forget_messages),
        Rule("messages in doubt", _quiet(doubted.filter(doubted_at__lt=Now() - history)), _forget_messages),
        *([] if states else [_challenges()]),
    ]


def _challenges() -> Rule:
    """Return the rule for challenges that are over, and what renewed them, too."""
    over = EmailChallenge.objects.filter(expires_at__lt=Now() - SHORTLY)
    renewal = EmailChallenge.objects.filter(renews=OuterRef("pk"), expires_at__gte=Now() - SHORTLY)
    return Rule("challenges", over.filter(~Exists(renewal)), _forget_challenges, by="purpose")


def _quiet(messages: QuerySet[Message]) -> QuerySet[Message]:
    """Leave out messages of which a report was recorded lately.

    Asked of each by its deliveries, never of the table of events at once.
    """
    reported = DeliveryEvent.objects.filter(delivery__message=OuterRef("pk"), source__in=REPORTED)
    latest = Subquery(reported.order_by("-recorded_at").values("recorded_at")[:1])
    return messages.alias(reported_at=Coalesce(latest, Value(datetime.min.replace(tzinfo=UTC)))).filter(
        reported_at__lt=Now() - timedelta(days=settings.WEBHOOK_KEY_DAYS)
    )


def cleanup(
    chosen: Sequence[Rule], keep_on: Callable[[], bool] = lambda: True, seen: Callable[[int], object] = lambda _: None
) -> dict[str, int]:
    """Apply rules as `apply_all` does; the files that nothing refers to any more are removed last."""
    taken = apply_all(chosen, keep_on, seen)
    taken["files"] = files.remove_unneeded() if keep_on() else 0
    log.info("mail_cleaned_up", **{name.replace(" ", "_"): count for name, count in taken.items()})
    return taken


def apply_all(chosen: Sequence[Rule], keep_on: Callable[[], bool], seen: Callable[[int], object]) -> dict[str, int]:
    """Apply rules; return how many rows each of them took, in the rules' order.

    Starts no batch once `keep_on()` is false; tells `seen` the size of each.
    """
    taken = dict.fromkeys((rule.name for rule in chosen), 0)
    for rule in chosen:
        if not keep_on():
            break
        for size in rule.apply():
            taken[rule.name] += size
            seen(size)
            if not keep_on():
                break
    return taken


def _forget_bodies(ids: Sequence[UUID]) -> None:
    Message.objects.filter(pk__in=ids).update(content=None, context={})


def _forget_challenges(ids: Sequence[UUID]) -> None:
    EmailChallenge.objects.filter(pk__in=ids).delete()


def _forget_messages(ids: Sequence[UUID]) -> None:
    """Delete messages with all that belongs to them.

    Whoever records a fact holds its delivery, so once these are locked, no event comes that the next
    statement would not see. A fact that waited finds its delivery gone, and is parked; a message whose fact was faster
    stays.
    """
    list(DeliveryStatus.objects.select_for_update().filter(message_id__in=ids).order_by("id").values_list("pk"))
    _quiet(Message.objects.filter(pk__in=ids)).delete()


# --- By address -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Erased:
    """How many rows an erasure changed, and how many of deliveries it left since a worker has them."""

    cancelled: int = 0
    deliveries: int = 0
    events: int = 0
    bodies: int = 0
    suppressions: int = 0
    under_way: int = 0

    def add(self, other: "Erased") -> None:
        """Add what another one counted."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


def holdings(address: str) -> Mapping[str, int]:
    """Return how many rows hold an address, however it is spelled, but for webhooks' receipts."""
    canonical = loosely_canonical(address)
    return {
        "deliveries": _deliveries(canonical).count(),
        "parked events": _parked(canonical).count(),
        "suppressions": Suppression.objects.filter(address=canonical).count(),
    }


def erase(address: str, seen: Callable[[int], object] = lambda _: None) -> Erased:
    """Erase an address, however it is spelled, and what was written to it; return the counts.

    `webhooks.retention.erase` does this, and takes the receipts that name the address before. Messages to it that wait
    are cancelled; those to several people go to the others only. What remains are rows without a person: that there was
    a mail of some kind, and what became of it. What a worker has at this moment is left, and counted as `under_way`:
    erase again once it has ended. What providers report later brings the address back, and so does what others wrote
    about the person in mails of their own. Tells `seen` the deliveries of each batch. Raises `ValueError` for an empty
    address, which is that of everybody who was erased.
    """
    canonical = loosely_canonical(address)
    if not canonical:
        raise ValueError("an address is needed")
    erased = Erased()
    while (batch := _erase_some(canonical)).deliveries:
        erased.add(batch)
        seen(batch.deliveries)
    while events := _erase_parked(canonical):
        erased.events += events
    erased.suppressions = _erase_suppressions(canonical)
    erased.under_way = _deliveries(canonical).count()
    log.info("mail_data_erased", **{each.name: getattr(erased, each.name) for each in fields(erased)})
    return erased


def erase_user(user: User) -> None:
    """Erase a user's address, and those that mails to them went to before, unless these are somebody else's by now."""
    own = DeliveryStatus.objects.filter(user=user).exclude(recipient_canonical="")
    former = {*own.order_by().values_list("recipient_canonical", flat=True).distinct()}
    taken = User.objects.exclude(pk=user.pk).filter(email_canonical__in=former)
    for address in {user.email_canonical, *former} - {*taken.values_list("email_canonical", flat=True)}:
        erase(address)


def _deliveries(canonical: str) -> QuerySet[DeliveryStatus]:
    return DeliveryStatus.objects.filter(recipient_canonical=canonical)


def _parked(canonical: str) -> QuerySet[DeliveryEvent]:
    return DeliveryEvent.objects.filter(delivery=None, recipient_canonical=canonical)


@transaction.atomic
def _erase_some(canonical: str) -> Erased:
    """Erase an address from some messages that no worker has.

    The messages are locked first, so that none is claimed meanwhile, then all deliveries that are written here, in
    the order of their ids: what `operators.stop` and `ledger.record` lock after that is among them.
    """
    locked = Message.objects.select_for_update(of=("self",), no_key=True, skip_locked=True)
    found = locked.filter(deliveries__recipient_canonical=canonical).exclude(state__in=UNDER_WAY).order_by("id")[:BATCH]
    messages = {message.pk: message for message in found.only("state", "first_ambiguous_at")}
    if not messages:
        return Erased()
    own = _deliveries(canonical).filter(message_id__in=messages).select_for_update(no_key=True).order_by("id")
    deliveries = {pk: (message, sent_at) for pk, message, sent_at in own.values_list("pk", "message_id", "sent_at")}
    others = DeliveryStatus.objects.filter(message_id__in=messages).exclude(recipient_canonical__in=("", canonical))
    shared = set(others.values_list("message_id", flat=True))
    stopped = operators.stop({*messages} - shared, (*operators.WAITING, State.UNKNOWN))
    ledger.record(
        [
            own_fact("ambiguous" if messages[message].first_ambiguous_at else "cancelled", delivery, "erased")
            for delivery, (message, sent_at) in deliveries.items()
            if sent_at is None and message in shared and messages[message].state in operators.WAITING
        ]
    )
    for message in Message.objects.filter(pk__in=shared, content__isnull=False):
        message.content = content.without(message.content or {}, canonical)
        message.save(update_fields=["content"])
    # Kept batches hold what was written to them: they are let go at once.
    Batch.objects.filter(message_ids__overlap=[*messages]).update(repeat_at=Now())
    events = DeliveryEvent.objects.filter(delivery_id__in=deliveries)
    bodies = Message.objects.filter(HAS_BODY, pk__in=messages)
    return Erased(
        cancelled=len(stopped),
        events=events.exclude(recipient_canonical="", detail="").update(recipient_canonical="", detail=""),
        # The others' copy is still to be sent, and does not name the person as a recipient any more.
        bodies=bodies.filter(state__in=ENDED).update(content=None, context={}),
        deliveries=DeliveryStatus.objects.filter(pk__in=deliveries).update(recipient="", recipient_canonical=""),
    )


@transaction.atomic
def _erase_parked(canonical: str) -> int:
    ids = list(_parked(canonical).select_for_update(skip_locked=True).values_list("pk", flat=True)[:BATCH])
    return DeliveryEvent.objects.filter(pk__in=ids).update(recipient_canonical="", detail="")


def _erase_suppressions(canonical: str) -> int:
    """Blank and release them: a row without an address holds back nobody."""
    return Suppression.objects.filter(address=canonical).update(
        address="", detail="", released_at=Coalesce(F("released_at"), Now()), released_by="erasure"
    )
