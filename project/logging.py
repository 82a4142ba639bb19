"""One formatter for structlog and the standard library: JSON lines, or colours on a terminal."""

import functools
import json
import logging
import re
from typing import Any, Final, Literal

import orjson
import structlog
from django.http import HttpRequest
from django_structlog.middlewares import RequestMiddleware
from structlog.typing import EventDict, Processor, WrappedLogger

# Anything that looks like an address, so that no driver's error text or traceback carries one into a log, is a word
# with an @ in it, however long. One repeat, with nothing after it that could fail: so each character is read once, also
# of a text that somebody has made to take time.
WORD = re.compile(r"[^\s\"'<>()\[\]{}=,;:|/\\]+")
# An @ within a word, as it is or as it stands in an URL.
SIGN = re.compile(r".(?:@|%(?:25)*40)[^@]")
# What follows the name of a secret (in a query, a header, a dictionary), or the name of an authentication scheme.
TOKEN = re.compile(
    r"""((?:token|password|passwd|secret|api[_-]?key)["']?(?:\s*[=:]\s*|%3D)["']?|\b(?:token|bearer|basic)\s+(?=\S{8}))"""
    r"""[^\s"',;&<>()\[\]{}]+""",
    re.IGNORECASE,
)
# Tokens by their shape, wherever they stand: an API token, and a link's (a challenge's id and its signature).
SHAPES = re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{32}\.[\w-]{43}")
# Most values are names and ids. Such a short text has no sign in it that an address, a token or its name needs.
HARMLESS = re.compile(r"[\w.-]{0,63}")
# Characters of a value that are shown: a traceback of some hundred lines; of more, its begin and its end.
LONGEST: Final = 16_000
# Values under these names are never shown, whatever they look like.
SECRET_NAMES = frozenset({"password", "token", "secret", "authorization", "cookie", "set-cookie", "api_key"})


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Replace addresses and tokens in every value: the last guard, after not logging them at all."""
    return _redacted(event)  # type: ignore[no-any-return]  # a dictionary gives one


@functools.lru_cache(1024)
def _name(key: Any) -> tuple[Any, bool]:
    """Return a key as it is shown, and whether what stands under it is not."""
    return _redacted(key), str(key).casefold() in SECRET_NAMES


def _redacted(value: Any) -> Any:
    match value:
        case str() if HARMLESS.fullmatch(value):
            return value
        case str():
            value = WORD.sub(_unless_address, value) if "@" in value or "%" in value else value
            return _shortened(TOKEN.sub(r"\1<token>", SHAPES.sub("<token>", value)))
        case dict():
            return {
                shown: "<secret>" if is_secret else _redacted(item)
                for (shown, is_secret), item in zip(map(_name, value), value.values(), strict=True)
            }
        case list() | tuple():
            return [_redacted(item) for item in value]
        case bool() | int() | float() | None:
            return value
        case _:
            return _redacted(str(value))


def _unless_address(found: re.Match[str]) -> str:
    word = found[0]
    return "<address>" if SIGN.search(word) else word


def _shortened(text: str) -> str:
    """Return a text whose length is bounded. Done last: what is cut off cannot be half of an address or a token."""
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST // 2]}<{len(text) - LONGEST} more>{text[-LONGEST // 2 :]}"


SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.StackInfoRenderer(),
]


def _json(value: Any, **_: Any) -> str:
    try:
        line = orjson.dumps(value)
    except TypeError:  # it holds what is no UTF-8, or a number of more than 64 bits
        return json.dumps(value)
    # Beyond ASCII are characters that end a line, or that a terminal obeys.
    return line.decode() if line.isascii() else json.dumps(value)


RENDERERS: Final[dict[str, Processor]] = {
    "json": structlog.processors.JSONRenderer(_json),
    "console": structlog.dev.ConsoleRenderer(),
}


class Formatter(structlog.stdlib.ProcessorFormatter):
    """Makes lines of events; those of our own loggers need nothing of what makes an event of another one's record."""

    def __init__(self, style: str) -> None:
        # The time comes last: there is nothing in it to look for.
        stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
        self._rest = (structlog.processors.format_exc_info, redact, stamp, RENDERERS[style])
        super().__init__(foreign_pre_chain=SHARED, processors=[self.remove_processors_meta, *self._rest])

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        if not hasattr(record, "_logger"):  # which structlog gives it
            return super().format(record)
        event: Any = dict(record.msg)  # type: ignore[arg-type]  # a copy: another handler may see it, too
        for processor in self._rest:
            event = processor(None, record.levelname, event)
        return str(event)


def configure(*, level: str, style: Literal["json", "console"]) -> dict[str, Any]:
    """Configure structlog and return the `LOGGING` dictionary that sends the standard library the same way."""
    logging.captureWarnings(capture=True)
    # What no line of ours shows is not looked up, for other handlers neither (Logging HOWTO, "Optimization").
    logging._srcfile = None  # noqa: SLF001
    for name in ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks"):
        setattr(logging, name, False)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"structured": {"()": Formatter, "style": style}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "structured"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            # Their own lines repeat what the request and task lines say.
            "django.server": {"level": "WARNING"},
            "django.security.DisallowedHost": {"level": "CRITICAL"},
            "celery.app.trace": {"level": "WARNING"},
            "celery.worker.strategy": {"level": "WARNING"},
            "urllib3": {"level": "WARNING"},
        },
    }


class RequestLogMiddleware(RequestMiddleware):
    """django-structlog's request lines without the query: it may hold a link's token or an address."""

    @staticmethod
    def format_request(request: HttpRequest) -> str:
        """Name the request by method and path alone."""
        return f"{request.method} {request.path}"
