"""What every private server is: a child in a directory of its own, with a socket there, that ends with us."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, ClassVar, Never

from project.processes import Unavailable, claim, tethered, wipe

START_SECONDS = 60  # the recovery of a large database after a crash takes a while
STOP_SECONDS = 10

# Bytes of a socket's path that every system takes: macOS has room for 103 and a NUL, Linux for 107 and one.
SOCKET_PATH_BYTES = 103


@dataclass(frozen=True, slots=True)
class Account:
    """The user and group a server runs as, and the command, if any, that changes to them in a better way."""

    user: int
    group: int
    prefix: tuple[str, ...] = ()

    def command(self, command: list[str], stop_signal: signal.Signals) -> list[str]:
        """Give the command line that runs a command under this account, tethered."""
        return [*self.prefix, *tethered(command, stop_signal, self.user, self.group)]


class Server(ABC):
    """A server in a directory of its own. `volatile` is faster and not durable, `fresh` forgets earlier data.

    A server lives no longer than the thread that started it.
    """

    title: ClassVar[str]
    variable: ClassVar[str]  # naming a server in it makes the private one needless
    socket_name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]

    def __init__(self, directory: Path, *, volatile: bool = False, fresh: bool = False) -> None:
        self.directory = directory.absolute()
        self.volatile = volatile
        self.log = self.directory / "log"
        self._fresh = fresh
        self._sockets: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The address as the variable wants it."""

    @abstractmethod
    def answers(self) -> bool:
        """Tell whether a client gets an answer now."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    def _account(self) -> Account:
        return Account(os.geteuid(), os.getegid())

    def _make_data(self, account: Account, lock: IO[str]) -> None:  # noqa: B027 - most servers need nothing
        """Make what the server needs besides its directory."""

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.title} is not started")
        return self._process

    @property
    def sockets(self) -> Path:
        """The directory the socket is in, known from the start of the server to `stop()`."""
        if self._sockets is None:
            raise RuntimeError(f"{self.title} is not started")
        return self._sockets

    def start(self) -> str:
        """Start the server and return its URL once it answers. Raises `Unavailable` with the reason."""
        account = self._account()
        with claim(self.directory) as lock:
            self._make_directory(account)
            self._make_sockets(account)
            self._make_data(account, lock)
            begin = self._log_size()
            self._process = self._popen(self._command(), account, lock)
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self._ended_within(0.02) or time.monotonic() > deadline:
                self.kill()
                self._fail(begin)
        return self.url

    def stop(self) -> None:
        """Stop the server in order and wait until nothing of it is left. Harmless when it does not run."""
        self._end(self.stop_signal)
        self._remove_sockets()

    def kill(self) -> None:
        """Kill the server as a crash would; `start()` brings it back under the same URL."""
        self._end(signal.SIGKILL)

    def restart(self) -> str:
        """Stop the server in order and start it under the same URL."""
        self._end(self.stop_signal)
        return self.start()

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        claim(self.directory).close()  # its own children hold the lock as long as they live

    def _popen(self, command: list[str], account: Account, lock: IO[str]) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own, where a Ctrl-C at the terminal does not reach it."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                account.command(command, self.stop_signal),
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(lock.fileno(),),
            )

    def _ended_within(self, seconds: float) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is not None

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _fail(self, begin: int) -> Never:
        """Raise `Unavailable` with what the log tells after `begin`."""
        with self.log.open(errors="replace") as log:
            log.seek(begin)
            lines = log.read().splitlines() or ["it said nothing"]
        # The first complaint names the cause; what follows it are consequences and hints.
        reason = next((line for line in lines if "FATAL" in line or "rror:" in line), lines[-1])
        raise Unavailable(f"{self.title} did not start: {reason.strip()} (its log: {self.log})")

    def _make_directory(self, account: Account) -> None:
        if self._fresh:
            self._remove_sockets()
            wipe(self.directory)
            self._fresh = False
        os.chown(self.directory, account.user, account.group)
        self.directory.chmod(0o700)

    def _make_sockets(self, account: Account) -> None:
        if self._sockets is None:
            self._remove_sockets()
            fits = _fits(self.directory / self.socket_name)
            self._sockets = self.directory if fits else self._short_directory()
            os.chown(self._sockets, account.user, account.group)
        # Leftovers of a crash: nobody uses them, since we hold the lock.
        for leftover in self._sockets.glob(f"{self.socket_name}*"):
            leftover.unlink()

    def _short_directory(self) -> Path:
        """Make a private directory with a short path, and a link by which a later start can remove it."""
        made = Path(tempfile.mkdtemp(prefix="sockets-", dir="/tmp"))
        (self.directory / "sockets").symlink_to(made)
        return made

    def _remove_sockets(self) -> None:
        """Remove the directory outside our own, ours or the one that a killed process left."""
        self._sockets = None
        link = self.directory / "sockets"
        if link.is_symlink():
            shutil.rmtree(link.readlink(), ignore_errors=True)  # gone after a reboot
            link.unlink()


def _fits(socket: Path) -> bool:
    """Tell whether a socket may have this path. A comma parts two of them, to PostgreSQL and to libpq."""
    return len(os.fsencode(socket)) <= SOCKET_PATH_BYTES and not set(str(socket)) & set(',"')


def program_in(package: str, pattern: str, server: Server) -> str:
    """Find a program in a wheel, without importing it: its Python code is not needed. Raises `Unavailable`."""
    spec = find_spec(package)
    folders = (spec and spec.submodule_search_locations) or []
    found = [program for folder in folders for program in Path(folder).glob(pattern)]
    if not found:
        wheel = package.replace("_", "-")
        raise Unavailable(f"{wheel} is not installed: run `make install`, or set {server.variable}")
    return str(found[0])
