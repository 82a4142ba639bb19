"""Commands as somebody at a terminal runs them."""

import os
import subprocess
import sys
import termios

from tests.conftest import PATIENCE, ROOT


def in_terminal(*command: str, env: dict[str, str]) -> tuple[int, str, str]:
    """Run a command with stderr at a terminal; return its exit code, its output, and what the terminal showed."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with subprocess.Popen(
        [sys.executable, "manage.py", *command], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=theirs, text=True
    ) as process:
        os.close(theirs)
        shown = read_all(ours)
        output, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, output, shown


def read_all(terminal: int) -> str:
    shown = b""
    with os.fdopen(terminal, "rb", buffering=0) as stream:
        while True:
            try:
                part = stream.read(4096)
            except OSError:  # so Linux says that the other side is closed
                break
            if not part:
                break
            shown += part
    return shown.decode()
