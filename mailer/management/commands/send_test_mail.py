"""Send a test mail the way all mail goes."""

import time
from argparse import ArgumentParser
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import translation

from mailer import operators, outbox
from mailer.models import DeliveryStatus, Message
from mailer.status import ACCEPTED_RANK
from users.addresses import canonical

# Seconds between two looks at the delivery.
LOOK = 0.2
# Seconds that --wait waits where it is not told.
PATIENCE = 30.0


def language(text: str) -> str:
    """Read a language that some mail is in, also as a country speaks it. Raises `ValueError` for any other."""
    try:
        translation.get_supported_language_variant(translation.to_language(text))
    except LookupError:
        raise ValueError from None
    return text


class Command(BaseCommand):
    """Enqueue a test mail, and watch what becomes of it."""

    help = (
        "Send a test mail through the outbox, as all mail goes: a worker, the relay or send_queued_mail sends it. "
        "With --wait, show its status until a provider has it; fails where none has in time."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the address, and by which way in which language."""
        parser.add_argument("address", help="who gets it")
        parser.add_argument("--provider", choices=settings.MAIL_PROVIDERS, help="through this one only")
        parser.add_argument(
            "--locale",
            type=language,
            default=settings.LANGUAGE_CODE,
            metavar="LANGUAGE",
            help="in this language, such as de-AT",
        )
        parser.add_argument(
            "--wait",
            type=float,
            nargs="?",
            const=PATIENCE,
            metavar="SECONDS",
            help=f"show what becomes of it, for so long at most ({PATIENCE:g})",
        )

    def handle(self, *, address: str, provider: str | None, locale: str, wait: float | None, **_: Any) -> None:
        """Enqueue it, and wait where that is asked for."""
        try:
            canonical(address)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        with transaction.atomic():
            message = outbox.enqueue("test", address.strip(), dedupe_key=f"test:{uuid4()}", locale=locale)
            if message and provider:
                operators.pin(message.pk, provider)
        delivery = DeliveryStatus.objects.get(message=message)
        self._say(f"message {delivery.message_id}, delivery {delivery.pk}")
        if wait is not None:
            self._watch(delivery, wait)

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()  # a pipe would keep it until the end

    def _watch(self, delivery: DeliveryStatus, seconds: float) -> None:
        """Show each status. Raises `CommandError` where it ends badly, or not in time."""
        end, shown, message = time.monotonic() + seconds, "", delivery.message
        while time.monotonic() < end:
            # In this order: what has stopped the message, its delivery was told with it, and that is shown.
            message.refresh_from_db(fields=["state", "error_class"])
            delivery.refresh_from_db(fields=["status", "status_rank", "provider", "esp_message_id", "sent_at"])
            if delivery.status != shown:
                shown = delivery.status
                self._say(" ".join(filter(None, (shown, delivery.provider, delivery.esp_message_id))))
            if delivery.status_rank >= ACCEPTED_RANK or message.state in operators.STOPPED:
                break
            time.sleep(LOOK)
        if delivery.sent_at is None:
            raise CommandError(self._reason(message, seconds))

    @staticmethod
    def _reason(message: Message, seconds: float) -> str:
        if message.state == Message.State.PENDING:
            return f"Nobody took it in {seconds:g} s: does a worker or the relay run? send_queued_mail sends it now."
        return f"Not sent: {message.get_state_display()} {message.error_class}".rstrip()
