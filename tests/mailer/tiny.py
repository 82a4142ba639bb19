"""A tiny HTTP server that answers as a test says, and counts what reaches it."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message as Headers
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# (status, headers, body) of an answer; a Content-Length among the headers is sent as it is.
Answer = tuple[int, dict[str, str], bytes]


class Tiny:
    """What a server has seen, and what it answers."""

    def __init__(self, answer: Callable[[], Answer]) -> None:
        self.answer = answer
        self.url = ""
        self.connections = 0
        self.requests: list[tuple[Headers, bytes]] = []
        self.lines: list[tuple[str, str]] = []

    def handler(self) -> type[BaseHTTPRequestHandler]:
        tiny = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                tiny.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                tiny.requests.append((self.headers, body))
                tiny.lines.append((self.command, self.path))
                status, headers, content = tiny.answer()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
                self.close_connection = "Content-Length" in headers

            do_GET = do_POST  # noqa: N815  # the names are `BaseHTTPRequestHandler`'s

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@contextmanager
def serving(answer: Callable[[], Answer], certificate: Path | None = None) -> Iterator[Tiny]:
    """Serve until the block ends; over TLS where there is a certificate."""
    tiny = Tiny(answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), tiny.handler())
    server.daemon_threads = True
    scheme = "http"
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        # In each connection's own thread: here, a failed handshake would end the accepting one.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # the client hangs up, as it should
        scheme = "https"
    tiny.url = f"{scheme}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield tiny
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
