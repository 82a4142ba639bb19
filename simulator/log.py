"""The durable log: what was accepted and refused, what was posted, which idempotency keys are taken.

SQLite in WAL mode, by default with ``synchronous=FULL``. One thread writes; whatever waits is committed together, so
a load test pays one fsync for many mails, and nobody is answered before the fsync that holds what was done.
"""

import asyncio
import contextlib
import itertools
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import orjson

from simulator.mail import Mail

# To be raised when the tables change: a log of another layout is begun anew.
LAYOUT = 3
SCHEMA = f"""
BEGIN;
CREATE TABLE mail (
    seq INTEGER PRIMARY KEY, request INTEGER NOT NULL, provider TEXT NOT NULL, message_id TEXT NOT NULL,
    done TEXT NOT NULL, at REAL NOT NULL, id TEXT NOT NULL UNIQUE, idempotency_key TEXT NOT NULL,
    sender TEXT NOT NULL, recipients TEXT NOT NULL, subject TEXT NOT NULL, metadata TEXT NOT NULL,
    payload TEXT NOT NULL);
CREATE INDEX mail_message ON mail (message_id, provider);
CREATE TABLE refusal (
    seq INTEGER PRIMARY KEY, request INTEGER NOT NULL, provider TEXT NOT NULL, message_id TEXT NOT NULL,
    done TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE webhook (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL, mail INTEGER NOT NULL, provider TEXT NOT NULL, event TEXT NOT NULL,
    recipient TEXT NOT NULL, happened_at REAL NOT NULL, due REAL NOT NULL, body TEXT NOT NULL, times INTEGER NOT NULL,
    forged INTEGER NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL, status INTEGER, answer TEXT NOT NULL);
CREATE INDEX webhook_mail ON webhook (mail);
CREATE TABLE idempotency (
    key TEXT PRIMARY KEY, digest TEXT NOT NULL, answer TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {LAYOUT};
COMMIT;
"""
TABLES = ("mail", "refusal", "webhook", "idempotency")
# Messages and webhooks are numbered by us, so that a row is known by its number before it is written.
NUMBERED = ("mail", "refusal", "webhook")
MAIL = "INSERT INTO mail VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
REFUSAL = "INSERT INTO refusal VALUES (?, ?, ?, ?, ?, ?)"
WEBHOOK = "INSERT INTO webhook VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
CLAIM = "INSERT OR REPLACE INTO idempotency VALUES (?, ?, ?, ?)"
# What narrows a list of mails: a name, and what must hold for its value or values.
FILTERS = {
    "id": "id = ?",
    "provider": "provider = ?",
    "message_id": "message_id = ?",
    "metadata": "EXISTS (SELECT 1 FROM json_each(metadata) WHERE key = ? AND value = ?)",
    "to": "EXISTS (SELECT 1 FROM json_each(recipients) WHERE lower(value) = lower(?))",
    "sender": "instr(lower(sender), lower(?))",
    "subject": "subject = ?",
    "tag": "json_extract(payload, '$.Tag') = ?",
    "since": "at > ?",
    "until": "at <= ?",
    "after": "seq > ?",
}
ATTEMPT = "UPDATE webhook SET due = ?, state = ?, attempts = ?, status = ?, answer = ? WHERE seq = ?"

COUNTS = {
    "by_provider": "SELECT provider AS name, count(*) AS number FROM mail GROUP BY provider",
    "not_once": "SELECT message_id AS name, count(*) AS number FROM mail WHERE message_id <> '' GROUP BY message_id"
    " HAVING count(*) <> 1 UNION ALL SELECT DISTINCT message_id, 0 FROM refusal WHERE message_id <> ''"
    " AND NOT EXISTS (SELECT 1 FROM mail WHERE mail.message_id = refusal.message_id)",
}
REQUESTS = (
    "SELECT seq, request, provider, message_id, done, at FROM mail WHERE seq > ?1"
    " UNION ALL SELECT seq, request, provider, message_id, done, at FROM refusal WHERE seq > ?1 ORDER BY seq LIMIT ?2"
)
UNLIMITED = -1

GROUP = 500
# Seconds that a group of writes waits for company where there was some a moment ago.
COMPANY = 0.002
State = Literal["pending", "delivered", "failed", "withheld"]
Writes = dict[str, list[tuple[Any, ...]]]
Waiting = tuple[Writes, "asyncio.Future[None]"]


@dataclass(slots=True)
class Hook:
    """One webhook to post, of the mail with that number, or 0 where this simulator took none. Times are Unix seconds.

    ``body`` is what it says, before it is signed. Each attempt posts it so many ``times``. ``withheld`` ones happened,
    but nobody is told.
    """

    seq: int
    id: str
    mail: int
    provider: str
    event: str
    recipient: str
    happened_at: float
    due: float
    body: str
    times: int = 1
    forged: bool = False
    state: State = "pending"
    attempts: int = 0
    status: int | None = None
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A provider's idempotency key, with the answer to repeat."""

    key: str
    digest: str
    answer: bytes
    at: float


class Log:
    def __init__(self, path: Path, *, sync: bool = True) -> None:
        """Open or create the log. Raises sqlite3.Error when the file cannot be used.

        Without ``sync`` nothing is lost when this process is killed, but what the machine has not yet written is
        lost with its power.
        """
        self._reader = self._connect(path, sync=sync)
        self._lay_out()
        self._reading = threading.Lock()
        self._writer = self._connect(path, sync=sync)
        self._writing = threading.Lock()
        self._numbers = itertools.count(1 + self._last_number())
        self._keys = {row["key"] for row in self.read_now("SELECT key FROM idempotency")}
        self._waiting: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_waiting, name="log", daemon=True)
        self._thread.start()

    @staticmethod
    def _connect(path: Path, *, sync: bool) -> sqlite3.Connection:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={'FULL' if sync else 'OFF'}")
        return connection

    def _lay_out(self) -> None:
        if self._reader.execute("PRAGMA user_version").fetchone()[0] != LAYOUT:
            for table in TABLES:
                self._reader.execute(f"DROP TABLE IF EXISTS {table}")
            self._reader.executescript(SCHEMA)

    def _last_number(self) -> int:
        last = [self._reader.execute(f"SELECT max(seq) FROM {table}").fetchone()[0] for table in NUMBERED]
        return max(number or 0 for number in last)

    def close(self) -> None:
        """Write what waits, then close."""
        self._waiting.put(None)
        self._thread.join()
        self._reader.close()
        self._writer.close()

    # Writing

    def number(self) -> int:
        """Return the next number of a message or a webhook."""
        return next(self._numbers)

    async def write(self, writes: Writes) -> None:
        """Return once the rows are committed and fsynced. Raises sqlite3.Error when none of them is."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.put((writes, done))
        await done

    def _write_waiting(self) -> None:
        open_, crowded = True, False
        while open_:
            group = [self._waiting.get()]
            if crowded:
                time.sleep(COMPANY)
            with contextlib.suppress(queue.Empty):
                while len(group) < GROUP:
                    group.append(self._waiting.get_nowait())
            open_, crowded = None not in group, len(group) > 1
            self._commit([waiting for waiting in group if waiting])

    def _commit(self, group: list[Waiting]) -> None:
        failure: sqlite3.Error | None = None
        try:
            self._write_now(lambda: [self._writer.executemany(*write) for write in _merged(group).items()])
        except sqlite3.Error as error:
            failure = error
        if group:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                group[0][1].get_loop().call_soon_threadsafe(_settle, [done for _, done in group], failure)

    def _write_now(self, work: Callable[[], object]) -> None:
        with self._writing:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                work()
                self._writer.execute("COMMIT")
            except sqlite3.Error:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    async def accept(
        self,
        mails: Sequence[Mail],
        hooks: Iterable[Hook],
        *,
        done: str,
        refused: Iterable[tuple[Any, ...]] = (),
        claim: Claim | None = None,
    ) -> None:
        """Log mails with everything that follows from them, and what was refused beside them, in one transaction."""
        await self.write(
            {
                MAIL: [_mail_row(mail, done) for mail in mails],
                REFUSAL: list(refused),
                WEBHOOK: [_hook_row(hook) for hook in hooks],
                CLAIM: [(claim.key, claim.digest, claim.answer.decode(), claim.at)] if claim else [],
            }
        )
        if claim:
            self._keys.add(claim.key)

    async def plan(self, hooks: Iterable[Hook]) -> None:
        """Log webhooks that follow from no mail of ours."""
        await self.write({WEBHOOK: [_hook_row(hook) for hook in hooks]})

    async def refuse(self, rows: Iterable[tuple[Any, ...]]) -> None:
        await self.write({REFUSAL: list(rows)})

    async def record_attempt(self, hook: Hook) -> None:
        await self.write({ATTEMPT: [(hook.due, hook.state, hook.attempts, hook.status, hook.answer, hook.seq)]})

    async def empty(self) -> None:
        def delete() -> None:
            for table in TABLES:
                self._writer.execute(f"DELETE FROM {table}")

        await asyncio.to_thread(self._write_now, delete)
        self._keys.clear()

    # Reading

    async def read(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """Run a query away from the event loop."""
        return await asyncio.to_thread(self.read_now, sql, *values)

    def read_now(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        with self._reading:
            return [dict(row) for row in self._reader.execute(sql, values).fetchall()]

    async def mails(
        self, *, oldest_first: bool = False, limit: int = UNLIMITED, offset: int = 0, **filters: Any
    ) -> list[dict[str, Any]]:
        """List mails, newest first unless told otherwise. Filters are those of FILTERS; one of None filters nothing."""
        where, values = _where(filters)
        order = "ASC" if oldest_first else "DESC"
        sql = f"SELECT * FROM mail WHERE {where} ORDER BY seq {order} LIMIT ? OFFSET ?"
        return await self.read(sql, *values, limit, offset)

    async def count(self, **filters: Any) -> int:
        where, values = _where(filters)
        (row,) = await self.read(f"SELECT count(*) AS number FROM mail WHERE {where}", *values)
        return int(row["number"])

    async def counts(self) -> dict[str, dict[str, int]]:
        """Count mails by provider, and acceptances by message where they are not one; 0 is a message only refused."""
        return {name: {row["name"]: row["number"] for row in await self.read(sql)} for name, sql in COUNTS.items()}

    async def requests(self, *, after: int, limit: int) -> list[dict[str, Any]]:
        """List what was done to each message of each request, in that order; ``after`` is exclusive."""
        return await self.read(REQUESTS, after, limit)

    async def webhooks(
        self, mails: Sequence[int] | None = None, *, after: int = 0, limit: int = UNLIMITED
    ) -> list[dict[str, Any]]:
        """List webhooks in the order they were planned, of some mails by their numbers, or pages of all."""
        if mails is None:
            return await self.read("SELECT * FROM webhook WHERE seq > ? ORDER BY seq LIMIT ?", after, limit)
        sql = "SELECT * FROM webhook WHERE mail IN (SELECT value FROM json_each(?)) ORDER BY seq"
        return await self.read(sql, orjson.dumps(mails).decode())

    def pending(self) -> list[Hook]:
        return [Hook(**row) for row in self.read_now("SELECT * FROM webhook WHERE state = 'pending' ORDER BY seq")]

    def states(self) -> dict[str, int]:
        """Count webhooks by state."""
        rows = self.read_now("SELECT state, count(*) AS number FROM webhook GROUP BY state")
        return {row["state"]: row["number"] for row in rows}

    def claim(self, key: str, since: float) -> Claim | None:
        """Find what a key answered at or after ``since``."""
        if key not in self._keys:  # nearly always: no need to ask the database
            return None
        rows = self.read_now("SELECT * FROM idempotency WHERE key = ? AND at >= ?", key, since)
        return next((Claim(**{**row, "answer": row["answer"].encode()}) for row in rows), None)


_hook_row = attrgetter(*(field.name for field in fields(Hook)))


def _merged(group: list[Waiting]) -> Writes:
    """Put the rows of the same statement together, which is much cheaper to run.

    They may change places: nobody writes about a row before he was told that it is written.
    """
    merged: Writes = {}
    for writes, _ in group:
        for sql, rows in writes.items():
            merged.setdefault(sql, []).extend(rows)
    return merged


def _settle(waiting: list["asyncio.Future[None]"], failure: Exception | None) -> None:
    for done in waiting:
        if done.done():  # its request was cancelled
            continue
        if failure:
            done.set_exception(failure)
        else:
            done.set_result(None)


def _mail_row(mail: Mail, done: str) -> tuple[Any, ...]:
    return (
        mail.seq,
        mail.request,
        mail.provider,
        mail.metadata.get("message_id", ""),
        done,
        mail.accepted_at.timestamp(),
        mail.id,
        mail.idempotency_key,
        mail.sender,
        orjson.dumps(mail.recipients).decode(),
        mail.subject,
        orjson.dumps(mail.metadata).decode(),
        orjson.dumps(mail.payload).decode(),
    )


def _where(filters: dict[str, Any]) -> tuple[str, list[Any]]:
    given = {name: value for name, value in filters.items() if value is not None}
    values = [each for value in given.values() for each in (value if isinstance(value, tuple) else (value,))]
    return " AND ".join(FILTERS[name] for name in given) or "TRUE", values
