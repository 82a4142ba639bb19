"""Cut a client's connection, which ASGI has no word for."""

import os
import socket
import stat
import struct
from pathlib import Path


def abort(peer: tuple[str, int]) -> None:
    """Close the TCP connection of this process to ``peer`` with no answer: the client sees EOF, then a reset.

    The server runs in this process, so its socket is among our descriptors and the peer's address names it.
    Raises LookupError when there is no such connection.
    """
    for descriptor in (int(entry.name) for entry in list(Path("/dev/fd").iterdir())):
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            duplicate = socket.socket(fileno=os.dup(descriptor))
        except OSError:  # closed since it was listed
            continue
        with duplicate:
            if _peer_of(duplicate) == peer:
                duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                duplicate.shutdown(socket.SHUT_RDWR)
                return
    raise LookupError(f"no connection to {peer[0]}:{peer[1]}")


def _peer_of(connection: socket.socket) -> tuple[str, int] | None:
    try:
        name = connection.getpeername()
    except OSError:  # a listening socket
        return None
    return (name[0], name[1]) if isinstance(name, tuple) else None
