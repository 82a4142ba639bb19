"""What a process remembers of a server that is away: not to wait for it again and again, and to say so once."""

import threading
import time

import structlog

log = structlog.get_logger(__name__)


class Outage:
    """Whether a server is away, as far as this process knows; safe to ask from any thread.

    `begins` and `ends` are the log's events; `pause` is for how many seconds the server is left alone, in which one
    caller tries it again.
    """

    def __init__(self, begins: str, ends: str, pause: float) -> None:
        self._begins, self._ends, self._pause = begins, ends, pause
        self._lock = threading.Lock()
        self._is_down = False
        self._until = 0.0

    def may_ask(self) -> bool:
        """Tell whether to ask the server. Whoever does has to tell how that went, by `begin` or `end`."""
        with self._lock:
            now = time.monotonic()
            if self._is_down and now < self._until:
                return False
            self._until = now + self._pause
            return True

    def begin(self, error: Exception) -> None:
        """Remember that the server failed; say so where it had not. What the error says is not logged."""
        with self._lock:
            known, self._is_down, self._until = self._is_down, True, time.monotonic() + self._pause
        if not known:
            log.warning(self._begins, error_class=type(error).__name__)

    def end(self) -> None:
        """Remember that the server answered; say so where it had failed."""
        with self._lock:
            known, self._is_down = self._is_down, False
        if known:
            log.info(self._ends)
