"""What running other programs takes: locked directories, signals, children that do not outlive us.

For `project.servers` (private PostgreSQL and Valkey) and `project.stack` (the service's own processes).
"""

import fcntl
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Never

CLAIM_SECONDS = 10  # what the servers of a killed process have to end
COMMAND_SECONDS = 30  # what an interrupted command has for its own cleaning up
STOP_SECONDS = 10

COLOUR = re.compile(r"\x1b\[[\d;]*m")

# Runs in the child before the program itself; not as `preexec_fn`, which is not safe once threads exist. The
# change of user comes first: at one the kernel forgets the wish. 1 is PR_SET_PDEATHSIG of <sys/prctl.h>.
TETHER = """
import ctypes, os, sys
number, parent, user, group, *command = sys.argv[1:]
if int(user) != os.geteuid():
    os.setgroups([])
    os.setgid(int(group))
    os.setuid(int(user))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(number), 0, 0, 0)
if os.getppid() != int(parent):
    sys.exit("its parent is gone")
os.execv(command[0], command)
"""


class Unavailable(Exception):
    """A server, directory or port cannot be had. The text is one line that says what to do."""


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def interrupt_once() -> None:
    """Raise `Interrupted` in the main thread at the first SIGINT, SIGTERM or SIGHUP; ignore all later.

    So the cleaning up that the first one begins cannot be cut short by an impatient second.
    """
    wanted = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup wants it
        wanted.append(signal.SIGHUP)

    def interrupt(number: int, _frame: FrameType | None) -> Never:
        for each in wanted:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    for each in wanted:
        signal.signal(each, interrupt)


def tethered(
    command: list[str], number: signal.Signals, user: int | None = None, group: int | None = None
) -> list[str]:
    """Give the command line that runs `command`, and sends it `number` once the thread that starts it ends.

    That covers a `kill -9` of this process, on Linux; elsewhere the command runs untethered. The program has
    to be an absolute path. Its user and group, by number, are ours unless given.
    """
    python = [sys.executable, "-I", "-S", "-B", "-c", TETHER, str(number.value), str(os.getpid())]
    account = [os.geteuid() if user is None else user, os.getegid() if group is None else group]
    return [*python, *map(str, account), *command]


def run_command(command: list[str], environ: Mapping[str, str]) -> int:
    """Run a command to its end and return its exit code, 128 + n for signal n as a shell does.

    An `Interrupted` here is passed on to the command, which then has COMMAND_SECONDS to end.
    """
    program = shutil.which(command[0])
    if program is None:
        raise Unavailable(f"{command[0]} is not a command")
    process = subprocess.Popen(tethered([program, *command[1:]], signal.SIGTERM), env=environ)
    try:
        code = process.wait()
    except Interrupted as interruption:
        if not (interruption.number == signal.SIGINT and _in_foreground()):
            process.send_signal(interruption.number)
        code = _wait_or_kill(process)
    return code if code >= 0 else 128 - code


def _in_foreground() -> bool:
    """Tell whether a Ctrl-C at the terminal reaches us, and so our children as well."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:  # there is none
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)


def _wait_or_kill(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def claim(directory: Path) -> IO[str]:
    """Make a directory and lock it until the returned file, and every copy that a child inherits, is closed.

    Raises `Unavailable` at once when a living process has it. Waits for the servers of a dead one to end.
    """
    try:
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)  # other users' servers pass through
        lock = (directory / "lock").open("a+")
    except OSError as error:
        raise Unavailable(f"{directory} cannot be used: {error.strerror}") from error
    try:
        _lock(lock, directory)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
    except BaseException:
        lock.close()
        raise
    return lock


def is_claimed(directory: Path) -> bool:
    """Tell whether a living process has claimed a directory."""
    try:
        with (directory / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _lock(lock: IO[str], directory: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = int(lock.read() or 0)
        ours = holder == os.getpid()
        if (is_alive(holder) and not ours) or not _lock_in_time(lock):
            raise Unavailable(f"{directory} is in use by process {holder}: stop that one first") from None


def _lock_in_time(lock: IO[str]) -> bool:
    """Wait up to CLAIM_SECONDS; in a thread, since flock has no limit and an alarm needs the main thread."""
    waiting = threading.Thread(target=fcntl.flock, args=(lock, fcntl.LOCK_EX), daemon=True)
    waiting.start()
    waiting.join(CLAIM_SECONDS)
    return not waiting.is_alive()


def is_alive(pid: int) -> bool:
    """Tell whether a process has this number, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def wipe(directory: Path, keep: Collection[str] = ()) -> None:
    """Remove what a claimed directory holds, but for its lock and the entries to keep."""
    for entry in directory.iterdir():
        if entry.name == "lock" or entry.name in keep:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


# --- Programs that belong together ---------------------------------------------------------------------


class Supervisor:
    """Programs that live and end together. Their output goes to a file each under `logs`, or to the terminal.

    Each is in a session of its own, so that a Ctrl-C at the terminal reaches only us, who stop them in order.
    """

    def __init__(self, logs: Path | None = None) -> None:
        self._logs = logs
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._readers: list[threading.Thread] = []
        self._ended: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()

    def start(self, name: str, command: list[str], environ: Mapping[str, str], directory: Path) -> None:
        """Start a program in a directory; the command's first word is an absolute path."""
        with self._output(name) as output:
            process = subprocess.Popen(
                tethered(command, signal.SIGTERM),
                cwd=directory,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output or subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes[name] = process
        if process.stdout is not None:
            reader = threading.Thread(target=_show, args=(name, len(self.processes), process.stdout), daemon=True)
            reader.start()
            self._readers.append(reader)
        self.watch(name, process)

    def watch(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Count a process that somebody else started, and will stop, as one of the programs."""
        waiter = threading.Thread(target=lambda: self._ended.put((name, process.wait())), daemon=True)
        waiter.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait this long, or for ever. Raises `Unavailable` as soon as one of the programs has ended."""
        with suppress(queue.Empty):
            name, code = self._ended.get(timeout=seconds)
            raise Unavailable(f"{name} ended by itself, with exit code {code}{self._last_words(name)}")

    def stop(self) -> None:
        """End the programs: all at once, in order, and by force those that take longer than STOP_SECONDS."""
        for process in self.processes.values():
            process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0, deadline - time.monotonic()))
            # Nobody else will end what a program that was killed had started itself.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for reader in self._readers:
            reader.join(STOP_SECONDS)

    @contextmanager
    def _output(self, name: str) -> Iterator[IO[bytes] | None]:
        if self._logs is None:
            yield None
        else:
            with self._log(name).open("wb") as log:
                yield log

    def _log(self, name: str) -> Path:
        return (self._logs or Path()) / f"{name}.log"

    def _last_words(self, name: str) -> str:
        if self._logs is None or not self._log(name).exists():
            return ""
        lines = [line.strip() for line in self._log(name).read_text(errors="replace").splitlines() if line.strip()]
        return f": {lines[-1] if lines else 'it said nothing'} (its log: {self._log(name)})"


def _show(name: str, number: int, output: IO[bytes]) -> None:
    """Copy a program's lines to the terminal, each with the program's name in a colour of its own."""
    is_terminal = sys.stdout.isatty()
    prefix = f"{name:<9} | "
    if is_terminal:
        prefix = f"\x1b[{31 + number % 6}m{prefix}\x1b[0m"
    with output:
        for raw in output:
            line = raw.decode(errors="replace")
            sys.stdout.write(prefix + (line if is_terminal else COLOUR.sub("", line)))
            sys.stdout.flush()
