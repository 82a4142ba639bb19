"""The inbox: every SQL that moves a `WebhookReceipt`."""

from dataclasses import replace

import structlog
from django.db import transaction

from mailer import doubts, ledger
from mailer.status import ACCEPTED_RANK, RANKS
from webhooks import normal
from webhooks.models import WebhookReceipt
from webhooks.providers import WEBHOOKS, Incoming

log = structlog.get_logger(__name__)


@transaction.atomic
def process(provider: str, incoming: Incoming) -> WebhookReceipt:
    """Store a genuine request and record what it reports, in one transaction: all of it, or nothing.

    A request of which nothing can be read is stored as `poison`. Messages are locked before deliveries, as in
    `mailer.outbox`.
    """
    kept = {name: incoming.headers[name][:255] for name in WEBHOOKS[provider].headers if name in incoming.headers}
    context = structlog.contextvars.get_contextvars()
    receipt = WebhookReceipt(
        provider=provider,
        headers=kept,
        body=incoming.body,
        state=WebhookReceipt.State.PROCESSED,
        request_id=str(context.get("request_id", ""))[:64],
    )
    contents = normal.read(provider, replace(incoming, headers=kept), receipt.pk)
    facts = contents.facts
    receipt.unreadable = len(contents.unreadable)
    if contents.unreadable:
        receipt.error = ", ".join(sorted(set(contents.unreadable)))[:200]
        log.warning("receipt_unreadable", receipt_id=str(receipt.pk), provider=provider, error_class=receipt.error)
    if contents.unreadable and not facts:
        receipt.state = WebhookReceipt.State.POISON
    doubts.confirm(
        fact.message_id for fact in facts if fact.message_id and fact.status and RANKS[fact.status] >= ACCEPTED_RANK
    )
    recorded = ledger.record(facts)
    receipt.events, receipt.new_events = len(facts), len(recorded)
    receipt.save(force_insert=True)
    transaction.on_commit(lambda: _log(receipt, recorded))
    return receipt


def _log(receipt: WebhookReceipt, recorded: list[ledger.Recorded]) -> None:
    for event in recorded:
        log.info(
            "event_parked" if event.effect == ledger.Effect.PARKED else "event_recorded",
            receipt_id=str(receipt.pk),
            provider=receipt.provider,
            event_type=event.event_type,
            effect=event.effect.value,
            delivery_id=event.delivery_id and str(event.delivery_id),
            message_id=event.message_id and str(event.message_id),
            correlation_id=event.correlation_id,
            status=event.new_status,
        )
