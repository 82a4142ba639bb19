"""A mail server of this process: a real one that takes mails or refuses them as a test says, or one by a script."""
# ruff: noqa: N802  # aiosmtpd calls its hooks by the names of the commands

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from tests.conftest import PATIENCE, free_port

LOGIN = ("accounts", "opensesame")


@dataclass
class Taken:
    """A mail as it came: its envelope and its content."""

    sender: str
    recipients: list[str]
    options: list[str]
    content: bytes

    @property
    def message(self) -> Message:
        return message_from_bytes(self.content)


@dataclass
class MailServer:
    """What a server says to a command, or to a recipient's address, instead of 250; CUT hangs up. What it has taken."""

    port: int
    replies: dict[str, str] = field(default_factory=dict)
    mails: list[Taken] = field(default_factory=list)
    connections: list = field(default_factory=list)
    resets: int = 0
    logins: int = 0
    controller: Controller | None = None

    async def handle_MAIL(self, server, session, envelope, address, options):
        if said := self._said(server, "MAIL"):
            return said
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        if said := self._said(server, "RCPT") or self._said(server, address):
            return said
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        said = self._said(server, "DATA")
        if not said or said == "CUT":
            self.mails.append(Taken(envelope.mail_from, envelope.rcpt_tos, envelope.mail_options, envelope.content))
        return said or "250 2.0.0 OK"

    async def handle_RSET(self, server, session, envelope):
        self.resets += 1
        return self._said(server, "RSET") or "250 OK"

    def login(self, server, session, envelope, mechanism, data) -> AuthResult:
        self.logins += 1
        known = isinstance(data, LoginPassword) and (data.login.decode(), data.password.decode()) == LOGIN
        return AuthResult(success=known, handled=False)

    def _said(self, server, to: str) -> str:
        said = self.replies.get(to, "")
        if said == "CUT":
            server.transport.abort()
        return said

    def cut(self) -> None:
        """Hang up on everybody."""

        async def hang_up() -> None:
            for connection in self.connections:
                if connection.transport:
                    connection.transport.abort()
            await asyncio.sleep(0)  # has them closed

        asyncio.run_coroutine_threadsafe(hang_up(), self.controller.loop).result(PATIENCE)


class Counting(Controller):
    """Runs a server, which keeps its connections."""

    def factory(self):
        connection = super().factory()
        self.handler.connections.append(connection)
        return connection


@contextmanager
def taking(**options) -> Iterator[MailServer]:
    """Run a server until the block ends; the options are those of aiosmtpd's controller."""
    server = MailServer(free_port())
    if options.pop("login", False):
        options |= {"authenticator": server.login, "auth_required": True}
    server.controller = Counting(server, hostname="127.0.0.1", port=server.port, **options)
    server.controller.start()
    server.connections.clear()  # it has called itself, to see whether it runs
    try:
        yield server
    finally:
        server.cut()
        server.controller.stop()


@contextmanager
def talking(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Have each connection to a port talked to by a function, then closed."""
    open_now: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                open_now.append(connection)
                with connection, suppress(OSError):  # the client hangs up, as it may
                    talk(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            for connection in open_now:
                with suppress(OSError):  # it is closed
                    connection.shutdown(socket.SHUT_RDWR)
            thread.join()


def certified(certificate) -> ssl.SSLContext:
    """Return the context of a server with trustme's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context
