"""Ring for a worker, by the task's name: "there is work".

A ring is a hint and may be lost. It must never cost the caller anything, also not while the broker hangs: the
caller only sets a flag, and one thread of the process publishes. Rings that come while one is on its way, or closely
after it, become one.
"""

import contextvars
import os
import threading
from collections.abc import Callable

import structlog
from celery import current_app
from kombu.exceptions import OperationalError

log = structlog.get_logger(__name__)

DELIVER = "mailer.tasks.deliver"

# Seconds between two rings of one process: a worker that is awake claims all there is.
QUIET = 0.02
# Seconds until the next try where the broker could not be reached, and for one publication.
DOWN = 5.0
TIMEOUT = 1.0
# Seconds after which a hint is not worth a worker's time: the sweep has long seen to what it was about.
STALE = 60

# The same patience in Redis' words and in AMQP's: each transport reads its own.
IMPATIENT = {
    "socket_timeout": TIMEOUT,
    "socket_connect_timeout": TIMEOUT,
    "max_retries": 0,
    "read_timeout": TIMEOUT,
    "write_timeout": TIMEOUT,
    "confirm_publish": True,
}


class Ringer:
    """Publishes one task, from a thread that starts at the first ring.

    Safe to call from any thread, and in a forked child. A thread that an error ended is started again by the next ring.
    """

    def __init__(self, publish: Callable[[], None]) -> None:
        self._publish = publish
        self._context = contextvars.copy_context()
        self._begin()
        os.register_at_fork(after_in_child=self._begin)  # a child has no thread, and locks as they just were

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None

    def ring(self) -> None:
        """Ask for a publication; returns at once."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
                self._thread.start()
        if not self._wanted.is_set():
            self._context = contextvars.copy_context()  # so that the task carries the request's id
            self._wanted.set()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._wanted.wait()
            context = self._context
            self._wanted.clear()
            pause.wait(QUIET if context.run(self._attempt) else DOWN)

    def _attempt(self) -> bool:
        try:
            self._publish()
        except (OperationalError, OSError) as error:
            log.warning("hint_lost", error_class=type(error).__name__)
            return False
        return True


def _publish_deliver() -> None:
    with current_app.connection_for_write(connect_timeout=TIMEOUT, transport_options=IMPATIENT) as connection:
        current_app.send_task(DELIVER, connection=connection, retry=False, expires=STALE)


_ringer = Ringer(_publish_deliver)


def ring() -> None:
    """Ring for a worker. A named function, for `transaction.on_commit(ring, robust=True)`."""
    _ringer.ring()
