"""Requests over kept-alive connections, as fast as they are answered."""

import itertools
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

PATIENCE = 120.0


def request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Return the bytes of a POST of JSON."""
    given = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def send_all(port: int, requests: Sequence[bytes], connections: int, expected: int = 200) -> float:
    """Send requests over some connections at once; return the seconds it took. Raises where one is not as expected."""
    begin = time.perf_counter()
    time_all(port, requests, connections, expected)
    return time.perf_counter() - begin


def time_all(port: int, requests: Sequence[bytes], connections: int, expected: int = 200) -> list[float]:
    """Do the same; return the seconds that each request took, in the order of the requests."""
    turns = itertools.count()
    times = [0.0] * len(requests)

    def send() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (turn := next(turns)) < len(requests):
                begin = time.perf_counter()
                connection.sendall(requests[turn])
                status = _answer(connection)
                times[turn] = time.perf_counter() - begin
                if status != expected:
                    raise RuntimeError(f"answered with {status}, not {expected}")

    with ThreadPoolExecutor(connections) as pool:
        for done in [pool.submit(send) for _ in range(connections)]:
            done.result()
    return times


def _answer(connection: socket.socket) -> int:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += _more(connection)
    return int(lines[0].split(b" ")[1])


def _more(connection: socket.socket) -> bytes:
    if not (data := connection.recv(65536)):
        raise RuntimeError("the server closed the connection")
    return data
