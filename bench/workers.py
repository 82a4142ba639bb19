"""Workers beside a web server, which may be held still while that is measured, as if they were on another machine."""

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil


@contextmanager
def still(workers: Iterable[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Stop some processes and all that they have started, for a while."""
    parents = [psutil.Process(process.pid) for process in workers]
    stopped = [each for parent in parents for each in (parent, *parent.children(recursive=True))]
    for process in stopped:
        process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            process.resume()
