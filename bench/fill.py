"""Prepare a side's database: its tables, and mails that their provider has accepted."""

import sys
from uuid import UUID

import django
from django.core.management import call_command
from django.db import connection

from bench.webhooks import identifier, numbers

# Rows of one statement.
SLICE = 2000


def ours(mails: int) -> None:
    from django.utils import timezone

    from mailer.models import DeliveryStatus, Message
    from mailer.status import RANKS, Status

    call_command("migrate", verbosity=0)
    Message.objects.bulk_create(
        (
            Message(pk=UUID(int=number + 1), kind="welcome", dedupe_key=f"bench:{number}", state="sent")
            for number in range(mails)
        ),
        batch_size=SLICE,
    )
    DeliveryStatus.objects.bulk_create(
        (
            DeliveryStatus(
                message_id=UUID(int=number + 1),
                kind="welcome",
                recipient=f"{number}@example.com",
                recipient_canonical=f"{number}@example.com",
                provider="postmark" if number in numbers("postmark") else "sendgrid",
                esp_message_id=identifier(number),
                status=Status.QUEUED,
                status_rank=RANKS[Status.QUEUED],
                status_at=timezone.now(),
                status_key="",
            )
            for number in range(mails)
        ),
        batch_size=SLICE,
    )


def plain(mails: int) -> None:
    from bench.plain.models import Mail

    with connection.schema_editor() as editor:
        editor.create_model(Mail)
    Mail.objects.bulk_create(
        (Mail(message_id=identifier(number), recipient=f"{number}@example.com") for number in range(mails)),
        batch_size=SLICE,
    )


if __name__ == "__main__":
    django.setup()
    {"ours": ours, "plain": plain}[sys.argv[1]](int(sys.argv[2]))
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
