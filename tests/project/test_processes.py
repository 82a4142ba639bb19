"""Children that end with their parent, locks, and programs that belong together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from project import processes
from project.processes import (
    Interrupted,
    Supervisor,
    Unavailable,
    claim,
    interrupt_once,
    is_claimed,
    run_command,
    tethered,
    wipe,
)

CHECKOUT = Path(__file__).parents[2]

# Starts a tethered program, tells its pid, and waits to be killed.
PARENT = """
import signal, subprocess, sys
from project.processes import tethered
child = subprocess.Popen(tethered([sys.executable, "-c", "import signal; signal.pause()"], signal.SIGTERM))
print(child.pid, flush=True)
child.wait()
"""

UNTIL_A_SIGNAL = "import signal; signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); signal.pause()"
# Starts a child of its own and ends at SIGTERM without it.
CARELESS = f"""
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "{UNTIL_A_SIGNAL}"])
print(child.pid, flush=True)
signal.pause()
"""


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def first_line(log: Path) -> str:
    deadline = time.monotonic() + 20
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < deadline
    return log.read_text().splitlines()[0]


@pytest.fixture
def signals():
    """Put back the handlers that a test replaces."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def test_tethered_ends_with_a_killed_parent():
    with subprocess.Popen(python(PARENT), cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))

        parent.kill()

        assert child.wait(20) is None  # it was not our child, so its exit code is not ours to know


def test_tethered_does_not_start_without_its_parent():
    command = tethered(python("print('started')"), signal.SIGTERM)
    command[command.index(str(os.getpid()))] = "1"

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stdout == ""


def test_claim_waits_for_the_children_of_a_dead_holder(tmp_path):
    lock = claim(tmp_path)
    gone = subprocess.run(["/bin/sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "lock").write_text(gone)
    child = subprocess.Popen(["/bin/sh", "-c", "read line"], stdin=subprocess.PIPE, pass_fds=[lock.fileno()])
    lock.close()
    child.stdin.close()

    claim(tmp_path).close()

    assert child.wait(0) == 1


def test_claim_gives_up_on_children_that_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "CLAIM_SECONDS", 0.1)

    with claim(tmp_path), pytest.raises(Unavailable, match="in use"):
        claim(tmp_path)


def test_directory_is_claimed_until_it_is_given_back(tmp_path):
    nothing = is_claimed(tmp_path / "none")

    with claim(tmp_path):
        meanwhile = is_claimed(tmp_path)

    assert (nothing, meanwhile, is_claimed(tmp_path)) == (False, True, False)


def test_claim_of_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(Unavailable, match="cannot be used"):
        claim(tmp_path / "file")


def test_wipe_keeps_the_lock_and_what_it_is_told(tmp_path):
    for name in ("kept", "gone"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")

    with claim(tmp_path):
        wipe(tmp_path, keep={"kept"})

    assert {entry.name for entry in tmp_path.iterdir()} == {"kept", "lock"}


def test_interrupt_once_raises_at_the_first_signal_only(signals):
    interrupt_once()

    with pytest.raises(Interrupted) as caught:
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)

    assert caught.value.number == signal.SIGTERM


def test_run_command_returns_the_exit_code():
    assert run_command(python("raise SystemExit(7)"), os.environ) == 7


def test_run_command_returns_128_and_the_signal_as_shells_do():
    assert run_command(python("import os; os.kill(os.getpid(), 9)"), os.environ) == 128 + 9


def test_run_command_that_does_not_exist():
    with pytest.raises(Unavailable, match="no-such-program"):
        run_command(["no-such-program"], os.environ)


def test_run_command_passes_an_interruption_on(signals):
    interrupt_once()
    script = "import os, signal; os.kill(os.getppid(), signal.SIGTERM); signal.pause()"

    assert run_command(python(script), os.environ) == 128 + signal.SIGTERM


def test_run_command_kills_what_does_not_end_when_interrupted(signals, monkeypatch):
    monkeypatch.setattr(processes, "COMMAND_SECONDS", 0.1)
    interrupt_once()
    script = (
        "import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "os.kill(os.getppid(), signal.SIGTERM); [signal.pause() for _ in range(9)]"
    )

    assert run_command(python(script), os.environ) == 128 + signal.SIGKILL


def test_supervisor_tells_who_ended_and_what_it_said_last(tmp_path):
    supervisor = Supervisor(tmp_path)
    supervisor.start("steady", python(UNTIL_A_SIGNAL), os.environ, CHECKOUT)
    supervisor.start("frail", python("print('no more'); raise SystemExit(3)"), os.environ, CHECKOUT)

    with pytest.raises(Unavailable) as caught:
        supervisor.wait(20)
    supervisor.stop()

    assert str(caught.value).startswith("frail ended by itself, with exit code 3: no more (its log: ")


def test_supervisor_waits_while_all_is_well(tmp_path):
    supervisor = Supervisor(tmp_path)
    supervisor.start("steady", python(UNTIL_A_SIGNAL), os.environ, CHECKOUT)

    supervisor.wait(0.01)

    supervisor.stop()


def test_supervisor_stop_leaves_no_grandchild(tmp_path):
    supervisor = Supervisor(tmp_path)
    supervisor.start("careless", python(CARELESS), os.environ, CHECKOUT)
    grandchild = psutil.Process(int(first_line(tmp_path / "careless.log")))

    supervisor.stop()

    assert grandchild.wait(20) is None


def test_supervisor_stop_kills_what_does_not_heed(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.1)
    supervisor = Supervisor(tmp_path)
    supervisor.start("deaf", python(DEAF), os.environ, CHECKOUT)
    first_line(tmp_path / "deaf.log")
    process = supervisor.processes["deaf"]

    supervisor.stop()

    assert process.returncode == -signal.SIGKILL


def test_supervisor_shows_lines_with_the_name_before_them(capfd):
    supervisor = Supervisor()
    supervisor.start("teller", python(r"print('one\n\x1b[31mtwo\x1b[0m')"), os.environ, CHECKOUT)

    with pytest.raises(Unavailable, match=r"^teller ended by itself, with exit code 0$"):
        supervisor.wait(20)
    supervisor.stop()

    assert capfd.readouterr().out == "teller    | one\nteller    | two\n"
