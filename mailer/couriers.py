"""Carry requests to providers and bring back what they answer: bytes, and nothing about mail.

One thread of a process runs an asyncio loop with one session, whose connections are kept; a drain hands it requests
and takes the answers from a queue. What is not HTTP is done by threads of a pool. Neither touches the database.
"""

import asyncio
import atexit
import functools
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeVar

import aiohttp
import certifi
from django.core.exceptions import ImproperlyConfigured

T = TypeVar("T")

# Seconds: to connect, TLS included; the same with finding the address; to wait for each part of the answer; for all.
CONNECT: Final = 3.0
REACH: Final = 5.0
READ: Final = 10.0
TOTAL: Final = 20.0
# Bytes that an answer's body may have: providers send some hundred, for a batch some thousand.
LARGEST: Final = 4 * 1024 * 1024
# Seconds for which an idle connection is kept: less than servers keep theirs, so that none is closed as it is used.
KEPT: Final = 4.0


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, ready to leave."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """What came back. `body` is None where it was cut off, dripped or too long; headers' names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None


# What came of a request that got no answer. Every other error is nobody's fault but ours.
Unanswered = aiohttp.ClientError | TimeoutError | OSError
UNANSWERED: Final = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Ended(Generic[T]):
    """A request that has ended, with what it was about: its result, or the error."""

    about: T
    result: Any = None
    error: BaseException | None = None


class LeftTooLate(aiohttp.ConnectionTimeoutError):
    """A request that could not leave in time, as after a process was frozen, and therefore has not."""


class Courier:
    """Carries requests. Its threads start at the first one, and last until `close()`."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: aiohttp.ClientSession | None = None
        self._pool: ThreadPoolExecutor | None = None

    def send(self, request: Request, about: T, ended: "SimpleQueue[Ended[T]]", latest: float = float("inf")) -> None:
        """Make a request and return at once; its `Response`, or why there is none, goes into the queue.

        It does not leave after `latest`, by the steady clock. Raises `ImproperlyConfigured` where nobody can be
        trusted.
        """
        trusted()  # raises here what would else look like a request that failed
        loop = self._running()

        async def carry() -> None:
            try:
                _heed(latest)
                ended.put(Ended(about, result=await self._carry(request)))
            except BaseException as error:  # noqa: BLE001  # whoever waits must hear of it
                ended.put(Ended(about, error=error))

        loop.call_soon_threadsafe(lambda: _keep(loop.create_task(carry())))

    def ask(self, request: Request) -> Response:
        """Make a request and wait for its answer. Raises one of `UNANSWERED`, and `ImproperlyConfigured`."""
        trusted()
        return asyncio.run_coroutine_threadsafe(self._carry(request), self._running()).result()

    def work(
        self,
        function: Callable[[], Any],
        about: T,
        ended: "SimpleQueue[Ended[T]]",
        threads: int,
        latest: float = float("inf"),
    ) -> Future[Any]:
        """Call a function in one of `threads` threads; what it returns or raises goes into the queue.

        It is not called after `latest`, by the steady clock.
        """
        with self._starting:
            self._pool = self._pool or ThreadPoolExecutor(threads, thread_name_prefix="courier")
        pool = self._pool

        def call() -> None:
            try:
                _heed(latest)
                ended.put(Ended(about, result=function()))
            except BaseException as error:  # noqa: BLE001  # whoever waits must hear of it
                ended.put(Ended(about, error=error))

        return pool.submit(call)

    def close(self) -> None:
        """Close all connections and end the threads."""
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        if self._loop:
            loop, self._loop = self._loop, None
            asyncio.run_coroutine_threadsafe(self._end(), loop).result(TOTAL)
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(TOTAL)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(self._loop,), name="courier", daemon=True)
                self._thread.start()
            return self._loop

    async def _end(self) -> None:
        if self._session:
            await self._session.close()
            await asyncio.sleep(0)  # lets the transports close
            self._session = None

    async def _carry(self, request: Request) -> Response:
        if self._session is None:
            self._session = _session()
        # A redirect is never followed: it would be a GET, which sends nothing, and takes the token elsewhere.
        async with self._session.request(
            request.method, request.url, headers=request.headers, data=request.body, allow_redirects=False
        ) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Response(response.status, headers, await _whole(response))


def _heed(latest: float) -> None:
    if time.monotonic() > latest:
        raise LeftTooLate


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.close()


# The loop itself holds its tasks weakly only.
_tasks: set[asyncio.Task[None]] = set()


def _keep(task: asyncio.Task[None]) -> None:
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def authorities() -> str:
    """Return the file, or directory, of those whom `requests` trusts: REQUESTS_CA_BUNDLE, or else certifi's."""
    return os.environ.get("REQUESTS_CA_BUNDLE") or certifi.where()


def trusted() -> ssl.SSLContext:
    """Return a TLS context that trusts these authorities; all who ask share it."""
    return _trusting(authorities())


@functools.cache  # to read some hundred authorities takes 20 ms of CPU
def _trusting(path: str) -> ssl.SSLContext:
    if os.path.isdir(path):  # noqa: PTH112  # what `requests` asks, too
        return ssl.create_default_context(capath=path)
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ImproperlyConfigured(f"REQUESTS_CA_BUNDLE: {path} cannot be read: {type(error).__name__}") from error


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trusted(), limit=0, keepalive_timeout=KEPT),
        timeout=aiohttp.ClientTimeout(total=TOTAL, connect=REACH, sock_connect=CONNECT, sock_read=READ),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=True,
    )


async def _whole(response: aiohttp.ClientResponse) -> bytes | None:
    """Read the body, which frees the connection for the next request; None where not all of it came."""
    body = bytearray()
    try:
        async for part in response.content.iter_any():
            body += part
            if len(body) > LARGEST:
                response.close()
                return None
    except UNANSWERED:
        response.close()
        return None
    return bytes(body)


@functools.cache
def _courier(_pid: int) -> Courier:
    return Courier()


def of_this_process() -> Courier:
    """Return this process's courier. A forked child gets its own: threads and connections stay with the parent."""
    return _courier(os.getpid())


def close() -> None:
    """Close this process's courier; the next request opens another."""
    of_this_process().close()


atexit.register(close)
