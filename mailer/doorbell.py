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

    Safe to call from any thread, and after a fork: the thread belongs to the process that rang.
    """

    def __init__(self, publish: Callable[[], None]) -> None:
        self._publish = publish
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._context = contextvars.copy_context()
        self._pid = 0

    def ring(self) -> None:
        """Ask for a publication; returns at once."""
        if self._pid != os.getpid():
            self._start()
        if not self._wanted.is_set():
            self._context = contextvars.copy_context()  # so that the task carries the request's id
            self._wanted.set()

    def _start(self) -> None:
        with self._lock:
            if self._pid != os.getpid():
                self._wanted = threading.Event()
                threading.Thread(target=self._run, name="doorbell", daemon=True).start()
                self._pid = os.getpid()

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
