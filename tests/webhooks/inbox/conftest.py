"""What a message's webhooks did."""

from mailer.models import DeliveryEvent


def effects(message):
    """Return what each webhook's event did, in order of arrival."""
    events = DeliveryEvent.objects.filter(delivery__message=message.pk, source="webhook").order_by("pk")
    return [(event.event_type, event.effect) for event in events]
