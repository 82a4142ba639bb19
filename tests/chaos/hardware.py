"""The machine's own failures: a disk that is full, and a clock that jumps."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from project.processes import Unavailable

# Bytes that the database's disk has, all in all; only what is written takes room on the real one.
DISK_BYTES: Final = 20 * 1024**3
FAKETIME: Final = "/usr/lib/*/faketime/libfaketimeMT.so.1"


@dataclass(frozen=True)
class Disk:
    """A file system of its own, mounted at a directory, that can be filled to its last byte."""

    directory: Path

    @property
    def _ballast(self) -> Path:
        return self.directory / "ballast"

    def fill(self) -> None:
        """Leave no byte free."""
        left = os.statvfs(self.directory)
        with self._ballast.open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, left.f_bavail * left.f_frsize)

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
    """A clock of the programs that jumps, by libfaketime. What measures how long something takes stays true."""

    def __init__(self, directory: Path) -> None:
        found = sorted(Path("/").glob(FAKETIME.lstrip("/")))
        if not found:
            raise Unavailable("libfaketime is not installed: apt-get install libfaketime")
        self._file = directory / "clock"
        self.environ = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """Have the clock be wrong by so many seconds from now on."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._file)
