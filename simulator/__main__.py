"""Start the simulator: ``python -m simulator``; or drive a running one, ``python -m simulator report``, ``check``."""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from simulator.app import build
from simulator.commands import COMMANDS
from simulator.log import Log
from simulator.settings import Settings, SettingsError, read_settings

WRONG_SETTINGS, CANNOT_START = 2, 1
GRACE = 2.0


class StartError(Exception):
    """The settings are right, but the machine says no; the message says what to do."""


def main() -> int:
    """Run until SIGTERM or SIGINT, or do what the first word says. Returns the exit code."""
    if command := COMMANDS.get(next(iter(sys.argv[1:]), "")):
        return command(sys.argv[2:])
    try:
        settings = read_settings(sys.argv[1:], os.environ)
    except SettingsError as error:
        return _say(error, WRONG_SETTINGS)
    try:
        _require_free_port(settings.host, settings.port)
        with _only_user_of(settings.data):
            log = _open(settings.data / "log.sqlite3", sync=settings.sync)
            try:
                asyncio.run(_serve(settings, log))
            finally:
                log.close()
    except StartError as error:
        return _say(error, CANNOT_START)
    return 0


def _say(error: Exception, code: int) -> int:
    sys.stderr.write(f"simulator: {error}\n")
    return code


def _require_free_port(host: str, port: int) -> None:
    """Try the port: the server itself listens with SO_REUSEPORT and would share a taken one silently."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error


@contextlib.contextmanager
def _only_user_of(data: Path) -> Iterator[None]:
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = (data / "lock").open("w")
    except OSError as error:
        raise StartError(f"cannot use the data directory {data}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StartError(f"another simulator uses the data directory {data}") from error
        yield


def _open(path: Path, *, sync: bool) -> Log:
    try:
        return Log(path, sync=sync)
    except sqlite3.Error as error:
        raise StartError(f"cannot use the log {path}: {error}") from error


async def _serve(settings: Settings, log: Log) -> None:
    server = Server(
        build(settings, log),
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=1024,
        log_enabled=False,
        ssl_cert=settings.tls.certificate if settings.tls else None,
        ssl_key=settings.tls.key if settings.tls else None,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_, stop.set)
    serving = asyncio.create_task(server.serve())
    sys.stdout.write(f"simulator: inbox at {'https' if settings.tls else 'http'}://{settings.host}:{settings.port}/\n")
    sys.stdout.flush()
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not stop.is_set():
        raise StartError(f"the server stopped by itself: {serving.exception() or 'no reason given'}")
    server.stop()  # type: ignore[no-untyped-call]  # granian's own gap
    await asyncio.wait({serving}, timeout=GRACE)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The server's own threads outlive it and may call into an interpreter that is being taken down.
    os._exit(code)
