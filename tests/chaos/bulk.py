"""Enqueue many mails at a steady pace, whatever happens meanwhile.

    python -m tests.chaos.bulk COUNT SECONDS

It may be killed and started again at any time: it goes on where it was. Ends once all are there.
"""

import sys
import time
from typing import Final

import django
from django.db import connection, transaction

from mailer.exceptions import DATABASE_LOST

# Mails of one transaction.
TOGETHER: Final = 50
KIND: Final = "account_exists"


def enqueue(start: int, end: int) -> None:
    from mailer import outbox  # wants Django to be set up

    with transaction.atomic():
        for number in range(start, end):
            outbox.enqueue(KIND, f"delivered+bulk-{number}@example.org", dedupe_key=f"bulk:{number}", priority=30)


def count() -> int:
    """Return how many are there: the first so many, since they are enqueued in turn."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM mailer_message WHERE dedupe_key LIKE 'bulk:%%'")
        return int(cursor.fetchone()[0])


def main() -> int:
    wanted, seconds = int(sys.argv[1]), float(sys.argv[2])
    django.setup()
    done: int | None = None
    while done is None or done < wanted:
        try:
            start = count() if done is None else done
            done = min(start + TOGETHER, wanted)
            enqueue(start, done)
        except DATABASE_LOST:
            connection.close()
            done = None
        time.sleep(TOGETHER * seconds / wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
