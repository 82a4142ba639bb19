"""The machine's own failures: a disk that is full, and a clock that jumps."""

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from project.processes import Unavailable

# Bytes that the database's disk has, all in all; only what is written takes room on the real one.
DISK_BYTES: Final = 20 * 1024**3
# Bytes of a file system's smallest piece.
BLOCK: Final = 4096


@dataclass(frozen=True)
class Disk:
    """A file system of its own, mounted at a directory, that can be filled to its last byte."""

    directory: Path

    @property
    def _ballast(self) -> Path:
        return self.directory / "ballast"

    def fill(self) -> None:
        """Leave no byte free."""
        piece, size = DISK_BYTES, 0
        with self._ballast.open("wb") as ballast:
            while piece >= BLOCK:
                try:
                    os.posix_fallocate(ballast.fileno(), size, piece)
                    size += piece
                except OSError:  # that much there is not
                    piece //= 2

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)

    @classmethod
    @contextmanager
    def mounted(cls, directory: Path) -> Iterator["Disk"]:
        """Make one in a file next to a directory, and mount it there. Raises `Unavailable` where we may not."""
        if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
            raise Unavailable("a full disk takes root, who may mount one, and mkfs.ext4")
        image = directory.with_suffix(".image")
        directory.mkdir()
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        for command in (
            ("mkfs.ext4", "-q", "-F", "-m", "0", image),
            ("mount", "-o", "loop", image, directory),
        ):
            subprocess.run(list(map(str, command)), check=True)
        try:
            yield cls(directory)
        finally:
            unmount(directory)
            image.unlink()


def unmount(directory: Path) -> None:
    """Unmount what is mounted at a directory, if anything is: also what a killed run has left."""
    if os.path.ismount(directory):
        subprocess.run(["umount", str(directory)], check=True)


class Clock:
    """A clock of the programs that can be set wrong: `clock.c`, loaded before each. Raises `Unavailable` without cc.

    libfaketime would not do: with it Python's `time.sleep` fails.
    """

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc")
        if not compiler:
            raise Unavailable("a clock that jumps takes a C compiler, cc")
        library = directory / "clock.so"
        source = Path(__file__).with_name("clock.c")
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
        self._file = directory / "clock"
        self._file.write_bytes(_as_long(0))
        self.environ = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(self._file)}

    def jump(self, seconds: int) -> None:
        """Have the clock be wrong by so many seconds from now on."""
        with self._file.open("r+b") as file:  # the same file: the programs have it in their memory
            file.write(_as_long(seconds))


def _as_long(number: int) -> bytes:
    return struct.pack("l", number)
