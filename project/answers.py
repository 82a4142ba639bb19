"""Whether the server that a URL names answers, and if not, why, in the words of its client library."""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import kombu
import psycopg
import redis

from project.processes import Unavailable

CONNECT_SECONDS = 3
REDIS_LIMITS = {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": CONNECT_SECONDS}


def ask_postgres(url: str) -> str | None:
    """Connect, and tell why that failed or None. Django's own options in the query are left out."""
    parts = urlsplit(url)
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    given = {
        "host": unquote(parts.hostname or ""),
        "port": str(parts.port or ""),
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "dbname": unquote(parts.path[1:]),
    }
    given |= {name: value for name, value in parse_qsl(parts.query) if name in known}
    options: dict[str, Any] = {name: value for name, value in given.items() if value}
    try:
        psycopg.connect(**options | {"connect_timeout": CONNECT_SECONDS}).close()
    except psycopg.Error as error:
        return str(error)
    return None


def ask_broker(url: str) -> str | None:
    """Connect as Celery would, and tell why that failed or None."""
    connection = kombu.Connection(url, connect_timeout=CONNECT_SECONDS)
    try:
        connection.ensure_connection(max_retries=1, timeout=CONNECT_SECONDS)
    except (kombu.exceptions.KombuError, OSError) as error:
        return str(error)
    finally:
        connection.release()
    return None


def ask_redis(url: str) -> str | None:
    """Ping, and tell why that failed or None."""
    with redis.Redis.from_url(url, **REDIS_LIMITS) as client:
        try:
            client.ping()
        except redis.RedisError as error:
            return str(error)
    return None


QUESTIONS: dict[str, Callable[[str], str | None]] = {
    "DATABASE_URL": ask_postgres,
    "CELERY_BROKER_URL": ask_broker,
    "REDIS_URL": ask_redis,
}


def check_given(urls: Mapping[str, str]) -> None:
    """Ask each server that the environment names. Raises `Unavailable`, with no password in the text."""
    for variable, url in urls.items():
        try:
            secret = urlsplit(url).password or ""
            reason = QUESTIONS[variable](url)
        except (ValueError, LookupError, ImportError):  # as the client libraries complain of a URL
            raise Unavailable(f"{variable} is not the URL of such a server") from None
        if reason is not None:
            for spelling in filter(None, {secret, unquote(secret)}):
                reason = reason.replace(spelling, "***")
            raise Unavailable(f"The server that {variable} names does not answer: {' '.join(reason.split())}")


def spelled_for_redis_py(broker: str) -> str:
    """Rewrite a Redis broker's URL from Celery's spelling to redis-py's; they differ for a Unix socket."""
    return broker.replace("redis+socket://", "unix://", 1).replace("virtual_host=", "db=", 1)
