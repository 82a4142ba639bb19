"""A provider that holds every request until it is told to answer: what is under way can be counted, not timed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

from mailer import couriers, letters, sender
from tests.conftest import PATIENCE, wait_until
from tests.mailer import tiny


class Held:
    """Requests that wait for their answer. Each may be told by a word in its body, such as an address."""

    def __init__(self, server: tiny.Tiny, free: threading.Event) -> None:
        self._server, self._free = server, free

    def count(self, word: str = "") -> int:
        return sum(word.encode() in body for _, body in self._server.requests)

    def wait_for(self, count: int, word: str = "") -> None:
        wait_until(lambda: self.count(word) >= count)

    def answer(self) -> None:
        """Answer these, and all that follow."""
        self._free.set()


@contextmanager
def held(settings, *providers: str) -> Iterator[Held]:
    """Prefer these providers, all of them at an address that holds its requests."""
    free = threading.Event()

    def answer() -> tiny.Answer:
        free.wait(PATIENCE)
        return 200, {}, b'{"id": "held"}'

    with tiny.serving(answer) as server:
        settings.MAIL_PROVIDERS = list(providers)
        urls = {f"{provider.upper()}_API_URL": f"{server.url}/{provider}/" for provider in providers}
        settings.ANYMAIL = {**settings.ANYMAIL, **urls}
        letters.backend_at.cache_clear()
        try:
            yield Held(server, free)
        finally:
            free.set()
            couriers.close()
            letters.backend_at.cache_clear()


class Drain:
    """A drain under way in a thread, and how often it has been asked whether to claim more."""

    def __init__(self) -> None:
        self.looks = 0
        self.errors: list[BaseException] = []

    def run(self) -> None:
        try:
            sender.drain(self._keep_on)
        except BaseException as error:  # noqa: BLE001  # raised by whoever waits
            self.errors.append(error)
        finally:
            connection.close()

    def _keep_on(self) -> bool:
        self.looks += 1
        return True

    def look(self) -> None:
        """Wait until it has claimed once more all that there is room for."""
        enough = self.looks + 2
        wait_until(lambda: self.looks >= enough)


@contextmanager
def draining(held: Held) -> Iterator[Drain]:
    """Drain in a thread meanwhile; in the end have all answered, and wait until it has sent what is due."""
    drain = Drain()
    thread = threading.Thread(target=drain.run)
    thread.start()
    try:
        yield drain
    finally:
        held.answer()
        thread.join(2 * PATIENCE)
    assert not thread.is_alive()
    assert drain.errors == []
