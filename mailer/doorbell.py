"""Ring for a worker, by the task's name: "there is work".

A ring is a hint and may be lost. It must never cost the caller anything, also not while the broker hangs: the
caller only sets a flag, and one thread of the process publishes. Rings that come while one is on its way, or closely
after it, become one; and where enough hints wait already, another would tell nobody anything.
"""

import contextvars
import functools
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import Task, current_app
from celery.result import AsyncResult
from django.conf import settings
from kombu import Connection

from users.outages import Outage

DELIVER = "mailer.tasks.deliver"

# Seconds between two rings of one process: the first is at once, and a worker that is awake claims all there is.
QUIET = 0.1
# Seconds for which a connection is kept after a ring. A burst costs one, and none gets so old that it wants heartbeats.
IDLE = 10.0
# Seconds until the next try where the broker could not be reached, and for each answer of it.
DOWN = 5.0
TIMEOUT = 1.0

# Hints that may wait. Whoever takes one claims all that is due by then, so that the next ones find less and less.
CROWD = 100


def impatient(seconds: float) -> dict[str, Any]:
    """Return transport options with which each answer of a broker is waited for this long, and asked for once.

    Redis, AMQP and SQS each read their own words of it.
    """
    return {
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "max_retries": 0,
        "read_timeout": seconds,
        "write_timeout": seconds,
        "confirm_publish": True,
        "client-config": {"connect_timeout": seconds, "read_timeout": seconds, "retries": {"total_max_attempts": 1}},
    }


class Ringer:
    """Publishes one task, from a thread that starts at the first ring; hangs up where there was no ring for a while.

    Safe to call from any thread, and in a forked child. A thread that an error ended is started again by the next ring.
    """

    def __init__(self, publish: Callable[[], None], hang_up: Callable[[], None] = lambda: None) -> None:
        self._publish = publish
        self._hang_up = hang_up
        self._context = contextvars.copy_context()
        self._begin()
        os.register_at_fork(after_in_child=self._begin)  # a child has no thread, and locks as they just were

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._thread: threading.Thread | None = None
        self._outage = Outage("hint_lost", "hints_taken_again", DOWN)

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
            if not self._wanted.wait(IDLE):
                self._hang_up()
                self._wanted.wait()
            context = self._context
            self._wanted.clear()
            pause.wait(QUIET if context.run(self._attempt) else DOWN)

    def _attempt(self) -> bool:
        try:
            self._publish()
        except Exception as error:  # noqa: BLE001  # each transport raises its own kinds, and all mean the same
            self._outage.begin(error)
            return False
        self._outage.end()
        return True


class Line:
    """The connection that one process publishes its hints of one task over, kept until it fails or is hung up."""

    def __init__(self, task: str = DELIVER) -> None:
        self._task = task
        self._connection: Connection | None = None

    def publish(self) -> None:
        """Publish a hint, and wait for the broker's word that it has it. Raises what the transport raises."""
        if self._connection is not None:
            with suppress(Exception):  # closed since, as a restart of the broker does: so once more, on a new one
                self._publish(self._connection)
                return
        self._connection = current_app.connection_for_write(
            connect_timeout=TIMEOUT, transport_options=impatient(TIMEOUT)
        )
        self._publish(self._connection)

    def _publish(self, connection: Connection) -> None:
        try:
            queue = queue_of(self._task)
            if not is_crowded(connection, queue):
                # Mandatory, so that RabbitMQ complains of a hint that fits into no queue.
                current_app.send_task(
                    self._task,
                    connection=connection,
                    queue=queue,
                    retry=False,
                    mandatory=True,
                    timeout=TIMEOUT,
                    confirm_timeout=TIMEOUT,
                )
        except BaseException:
            self._connection = None
            connection.collect()  # which, unlike closing it in order, waits for no answer
            raise

    def hang_up(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # it is gone, one way or the other
                connection.release()


def queue_of(task: str) -> str:
    """Return the name of the queue that the hints of a task wait in."""
    return str(settings.CELERY_TASK_ROUTES[task]["queue"])


def is_crowded(connection: Connection, name: str) -> bool:
    """Tell whether so many hints wait that one more is of no use; declares their queue where it is missing.

    So the queue has an end while no worker runs, at every broker, and with any number of processes that ring.
    """
    queue = current_app.amqp.queues[name]
    declared: Any = queue(connection.default_channel).queue_declare()  # which the types take for a text
    return int(declared.message_count) >= CROWD


class Hint(Task[Any, Any]):
    """A task that is only a hint: published at most as long as not too many wait. Returns None where it was not."""

    def apply_async(  # type: ignore[override]  # Celery's own has no result either where it is called with a crowd
        self, args: Any = None, kwargs: Any = None, producer: Any = None, **options: Any
    ) -> "AsyncResult[Any] | None":
        """Publish it, unless the queue is crowded."""
        with self.app.producer_or_acquire(producer) as ours:
            if is_crowded(ours.connection, queue_of(self.name)):
                return None
            # A queue without a leader takes a hint and never confirms it; beat, for one, has to go on.
            return super().apply_async(args, kwargs, producer=ours, **{"confirm_timeout": DOWN, **options})


@functools.cache
def _line(_pid: int, task: str) -> Line:
    """Return this process's line. A forked child leaves its parent's alone: to close it would close it for both."""
    return Line(task)


class Bell:
    """Rings for a worker to run one task."""

    def __init__(self, task: str) -> None:
        self.task = task
        self._ringer = Ringer(lambda: _line(os.getpid(), task).publish(), lambda: _line(os.getpid(), task).hang_up())

    def ring(self) -> None:
        """Ring, for `transaction.on_commit(bell.ring, robust=True)`."""
        self._ringer.ring()


_delivery = Bell(DELIVER)


def ring() -> None:
    """Ring for a worker to send. A named function, for `transaction.on_commit(ring, robust=True)`."""
    _delivery.ring()
