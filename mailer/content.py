"""What a message says, from its frozen form to the mail that Anymail sends."""

from collections.abc import Sequence

from anymail.message import AnymailMessage

from mailer.models import Message


def thaw(message: Message, recipients: Sequence[str]) -> AnymailMessage:
    """Return the mail to those of its recipients who may get it, with our ids in its metadata."""
    content = message.content or {}
    email = AnymailMessage(
        subject=content["subject"],
        body=content["text"],
        from_email=content["from_email"],
        to=list(recipients),
        tags=[message.kind],
        metadata={"message_id": str(message.pk), "correlation_id": message.correlation_id},
    )
    email.attach_alternative(content["html"], "text/html")
    return email
