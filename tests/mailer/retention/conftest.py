"""Mail of the past."""

from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now

from mailer import retention
from mailer.models import Message
from tests.mailer.conftest import change, enqueue, read

DAY = timedelta(days=1)
BODY = {"subject": "Dear Ada", "text": "t", "html": "h", "from_email": "f"}


@pytest.fixture(autouse=True)
def ages(settings) -> None:
    settings.MAIL_BODY_DAYS, settings.MAIL_HISTORY_DAYS = 30, 400


def aged(state: str, days: float, **fields: Any) -> Message:
    """Write a message with a body that ended, or was written, so many days ago."""
    message = enqueue(context={"name": "Ada"}, content=BODY)
    ended = {"finished_at": Now() - days * DAY} if state in retention.ENDED else {}
    change(message, state=state, created_at=Now() - days * DAY, **{**ended, **fields})
    return read(message)


def cleanup(**chosen: Any) -> dict[str, int]:
    """Clean up; return what was taken, without the zeros."""
    taken = retention.cleanup(retention.rules(**chosen))
    return {name: count for name, count in taken.items() if count}
