"""The durable log: what was accepted, what was posted, which idempotency keys are taken.

SQLite in WAL mode with ``synchronous=FULL``. One thread writes; whatever waits is committed together, so a
load test pays one fsync for many mails, and nobody is answered before the fsync that holds his mail.
"""

import asyncio
import contextlib
import json
import queue
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from simulator.mail import Mail, rfc3339

SCHEMA = """
CREATE TABLE IF NOT EXISTS mail (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, provider TEXT NOT NULL, sender TEXT NOT NULL,
    recipients TEXT NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL, html TEXT NOT NULL,
    links TEXT NOT NULL, headers TEXT NOT NULL, metadata TEXT NOT NULL, payload TEXT NOT NULL,
    idempotency_key TEXT NOT NULL, accepted_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS webhook (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, mail_id TEXT NOT NULL, provider TEXT NOT NULL,
    event TEXT NOT NULL, recipient TEXT NOT NULL, happened_at REAL NOT NULL, due REAL NOT NULL,
    body TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL, status INTEGER, answer TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS webhook_mail ON webhook (mail_id);
CREATE TABLE IF NOT EXISTS idempotency (
    endpoint TEXT NOT NULL, key TEXT NOT NULL, digest TEXT NOT NULL, answer TEXT NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (endpoint, key));
"""
GROUP = 500
JSON_COLUMNS = ("recipients", "links", "headers", "metadata", "payload")
State = Literal["pending", "delivered", "failed", "withheld"]
Statement = tuple[str, tuple[Any, ...]]
Waiting = tuple[list[Statement], "asyncio.Future[None]"]


@dataclass
class Hook:
    """One webhook to post. ``withheld`` ones happened, but nobody is told. Times are Unix seconds."""

    id: str
    mail_id: str
    provider: str
    event: str
    recipient: str
    happened_at: float
    due: float
    body: str
    state: State = "pending"
    attempts: int = 0
    status: int | None = None
    answer: str = ""


@dataclass(frozen=True)
class Claim:
    """A provider's idempotency key, with the answer to repeat."""

    endpoint: str
    key: str
    digest: str
    answer: str
    at: float


class Log:
    def __init__(self, path: Path) -> None:
        """Open or create the log. Raises sqlite3.Error when the file cannot be used."""
        self._reader = self._connect(path)
        self._reader.executescript(SCHEMA)
        self._reading = threading.Lock()
        self._writer = self._connect(path)
        self._waiting: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_waiting, name="log", daemon=True)
        self._thread.start()

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def close(self) -> None:
        """Write what waits, then close."""
        self._waiting.put(None)
        self._thread.join()
        self._reader.close()
        self._writer.close()

    # Writing

    async def write(self, statements: list[Statement]) -> None:
        """Return once the statements are committed and fsynced. Raises sqlite3.Error when none of them is."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.put((statements, done))
        await done

    def _write_waiting(self) -> None:
        open_ = True
        while open_:
            group = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while len(group) < GROUP:
                    group.append(self._waiting.get_nowait())
            open_ = None not in group
            self._commit([waiting for waiting in group if waiting])

    def _commit(self, group: list[Waiting]) -> None:
        failure: sqlite3.Error | None = None
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for statements, _ in group:
                for sql, values in statements:
                    self._writer.execute(sql, values)
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            failure = error
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        for _, done in group:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                done.get_loop().call_soon_threadsafe(_settle, done, failure)

    async def accept(self, mails: Iterable[Mail], hooks: Iterable[Hook], claim: Claim | None = None) -> None:
        """Log mails with everything that will follow from them, in one transaction."""
        statements = [_insert("mail", _mail_row(mail)) for mail in mails]
        statements += [_insert("webhook", vars(hook)) for hook in hooks]
        if claim:
            statements.append(_insert("idempotency", vars(claim), "OR REPLACE"))
        await self.write(statements)

    async def record_attempt(self, hook: Hook) -> None:
        await self.write(
            [
                (
                    "UPDATE webhook SET due=?, state=?, attempts=?, status=?, answer=? WHERE id=?",
                    (hook.due, hook.state, hook.attempts, hook.status, hook.answer, hook.id),
                )
            ]
        )

    async def empty(self) -> None:
        tables = ("mail", "webhook", "idempotency")
        await self.write([(f"DELETE FROM {table}", ()) for table in tables])  # names from above

    # Reading

    async def read(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """Run a query away from the event loop; JSON columns come back decoded."""
        return await asyncio.to_thread(self.read_now, sql, *values)

    def read_now(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        with self._reading:
            rows = self._reader.execute(sql, values).fetchall()
        return [{name: _value(name, value) for name, value in dict(row).items()} for row in rows]

    async def mails(
        self, *, mail_id: str = "", message_id: str = "", to: str = "", since: str = "", limit: int = -1
    ) -> list[dict[str, Any]]:
        """List mails, newest first. ``message_id`` is any value of the metadata, ``since`` is exclusive."""
        return await self.read(
            "SELECT * FROM mail WHERE (?1 = '' OR id = ?1) AND accepted_at > ?4"
            " AND (?2 = '' OR (instr(metadata, ?2) AND"
            "     EXISTS (SELECT 1 FROM json_each(metadata) WHERE value = ?2)))"
            " AND (?3 = '' OR EXISTS (SELECT 1 FROM json_each(recipients) WHERE lower(value) = lower(?3)))"
            " ORDER BY seq DESC LIMIT ?5",
            *(mail_id, message_id, to, since, limit),
        )

    async def webhooks(self, mail_ids: list[str] | None = None) -> list[dict[str, Any]]:
        """List webhooks in the order they were planned, of some mails or of all."""
        if mail_ids is None:
            return await self.read("SELECT * FROM webhook ORDER BY seq")
        sql = "SELECT * FROM webhook WHERE mail_id IN (SELECT value FROM json_each(?)) ORDER BY seq"
        return await self.read(sql, json.dumps(mail_ids))

    def pending(self) -> list[Hook]:
        rows = self.read_now("SELECT * FROM webhook WHERE state = 'pending'")
        return [Hook(**{name: value for name, value in row.items() if name != "seq"}) for row in rows]

    def claim(self, endpoint: str, key: str, since: float) -> Claim | None:
        """Find what a key answered at or after ``since``."""
        sql = "SELECT * FROM idempotency WHERE endpoint = ? AND key = ? AND at >= ?"
        return next((Claim(**row) for row in self.read_now(sql, endpoint, key, since)), None)


def _settle(done: "asyncio.Future[None]", failure: Exception | None) -> None:
    if done.done():  # its request was cancelled
        return
    if failure:
        done.set_exception(failure)
    else:
        done.set_result(None)


def _insert(table: str, row: dict[str, Any], conflict: str = "") -> Statement:
    marks = ", ".join("?" * len(row))
    sql = f"INSERT {conflict} INTO {table} ({', '.join(row)}) VALUES ({marks})"  # our own names
    return sql, tuple(row.values())


def _mail_row(mail: Mail) -> dict[str, Any]:
    row = {**vars(mail), "links": mail.links, "accepted_at": rfc3339(mail.accepted_at)}
    return {name: json.dumps(value) if name in JSON_COLUMNS else value for name, value in row.items()}


def _value(name: str, value: Any) -> Any:
    return json.loads(value) if name in JSON_COLUMNS else value
