"""The wire to PostgreSQL with a hand on it: what a client asks there may be the last that it asks.

All that a process of ours knows of its database, and the database of it, passes here. So before a question, in the
middle of one, and between what was done and its answer are all the moments at which the one can lose the other. The
last of them at a COMMIT is "stored, and nobody knows".
"""

import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, ClassVar, Final

import psycopg

from project.postgres import Postgres

# Types of messages (www.postgresql.org/docs/current/protocol-message-formats.html): those that end a question (Query,
# Sync, Terminate), and the one that ends its answer (ReadyForQuery).
ASKED: Final = b"QSX"
ANSWERED: Final = b"Z"
GOODBYE: Final = b"X"
# Milliseconds that a session has to end.
ENDS: Final = 10_000


class Moment(StrEnum):
    """When a question is struck: before the server has it, while it works on it, or once it is done."""

    UNASKED = "unasked"
    UNDERWAY = "underway"
    UNANSWERED = "unanswered"


@dataclass(frozen=True, slots=True)
class Blow:
    """What is struck: the n-th question, counted from 1."""

    number: int
    moment: Moment

    def __str__(self) -> str:
        return f"{self.number} {self.moment}"


class Wire:
    """Listens at `port` of 127.0.0.1, and carries what comes there to a server, and what it answers back.

    It speaks no TLS, and knows questions that wait for their answers only: psycopg without its pipelines.
    """

    def __init__(self, server: Postgres, strike: Callable[[], None]) -> None:
        self._path = str(server.sockets / server.socket_name)
        self._strike = strike
        self._lock = threading.Lock()
        self._blow: Blow | None = None
        self._counts = self.struck = False
        self.questions: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._listen, daemon=True).start()

    @contextmanager
    def counting(self, blow: Blow | None) -> Iterator[None]:
        """Keep the questions that are asked in here in `questions`, and strike one of them."""
        with self._lock:
            self._blow, self._counts, self.struck, self.questions = blow, True, False, []
        try:
            yield
        finally:
            with self._lock:
                self._counts = False

    def close(self) -> None:
        self._listener.close()

    def _listen(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=[client], daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):  # either end may be gone
            server.connect(self._path)
            asks, answers = client.makefile("rb"), server.makefile("rb")
            question = _greeting(asks)
            while question and question[:1] != GOODBYE:
                moment = self._moment(question)
                if moment is Moment.UNASKED:
                    self._strike()
                server.sendall(question)
                if moment is Moment.UNDERWAY:
                    self._strike()
                answer, is_whole = _messages(answers, ANSWERED)
                if moment is Moment.UNANSWERED:
                    self._strike()
                    return
                client.sendall(answer)
                if not is_whole:
                    return  # the server is gone
                question, _ = _messages(asks, ASKED)

    def _moment(self, question: bytes) -> Moment | None:
        """Note a question; return when it is struck, if it is."""
        with self._lock:
            if not self._counts:
                return None
            self.questions.append(question)
            if self._blow is None or self._blow.number != len(self.questions):
                return None
            self.struck = True
            return self._blow.moment


def _greeting(asks: BinaryIO) -> bytes:
    """Read a client's first message, which has no type."""
    length = asks.read(4)
    return length + asks.read(struct.unpack("!I", length)[0] - 4) if length else b""


def _messages(stream: BinaryIO, last: bytes) -> tuple[bytes, bool]:
    """Read messages until one of these types, or the end; tell whether there was one."""
    found = b""
    while head := stream.read(5):
        found += head + stream.read(struct.unpack("!I", head[1:])[0] - 4)
        if head[:1] in last:
            return found, True
    return found, False


class Careless(Postgres):
    """PostgreSQL that leaves its files to the system: what is killed loses nothing by that, and is back sooner."""

    settings: ClassVar = {**Postgres.settings, "fsync": "off", "full_page_writes": "off"}


class Forgetful(Careless):
    """PostgreSQL that says it has committed before it has written so. What is shown here has to notice."""

    settings: ClassVar = {**Careless.settings, "synchronous_commit": "off", "wal_writer_delay": "10s"}


class Database:
    """A server of our own, the wire to it, and two ways to lose it: all of it, or our sessions."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self.lose: Callable[[], None] = self.crash
        self.wire = Wire(server, lambda: self.lose())  # noqa: PLW0108  # as it is by then
        self._is_down = False

    @property
    def url(self) -> str:
        """The address of the wire's end."""
        return f"postgresql://postgres@127.0.0.1:{self.wire.port}/postgres?sslmode=disable&gssencmode=disable"

    def crash(self) -> None:
        """Kill all processes of the server: without the first alone, the others would finish what they do."""
        first = self._server.process.pid
        os.kill(first, signal.SIGSTOP)  # so that it starts none meanwhile
        for child in Path(f"/proc/{first}/task/{first}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        self._server.kill()
        self._is_down = True

    def end_sessions(self) -> None:
        """Have the server end all sessions but the one that says so."""
        with psycopg.connect(self._server.url, autocommit=True) as own:
            own.execute(
                "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
                [ENDS],
            )

    def mend(self) -> None:
        """Start what was killed."""
        if self._is_down:
            self._server.start()
            self._is_down = False


@contextmanager
def lost_at_will(directory: Path, *, forgetful: bool = False) -> Iterator[Database]:
    """Run a server of our own behind its wire."""
    server = (Forgetful if forgetful else Careless)(directory, fresh=True)
    server.start()
    database = Database(server)
    try:
        yield database
    finally:
        database.wire.close()
        server.stop()
