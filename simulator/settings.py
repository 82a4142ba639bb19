"""What the simulator is told: flags first, then the environment."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from simulator.faults import Faults, FaultsError
from simulator.webhooks import Endpoint, postmark_endpoint, resend_endpoint

HELP = """\
environment (a flag wins over its variable):
  SIMULATOR_HOST, SIMULATOR_PORT, SIMULATOR_DATA   as the flags
  SIMULATOR_POSTMARK_TOKEN     the X-Postmark-Server-Token that is accepted
  SIMULATOR_RESEND_KEY         the Bearer key that is accepted
                               (one of the two at least; a provider without one refuses everybody)
  SIMULATOR_POSTMARK_WEBHOOK   where Postmark's events go: http://user:password@host:port/path
  SIMULATOR_RESEND_WEBHOOK     where Resend's events go (a provider without an address posts none)
  SIMULATOR_RESEND_SECRET      whsec_<base64>, signs Resend's webhooks
  SIMULATOR_TIME_SCALE         factor on event delays and webhook retries, default 1.0
  SIMULATOR_FAULTS             faults from the start, JSON as for PUT /faults

send API: http://HOST:PORT/postmark/ and http://HOST:PORT/resend/; inbox: http://HOST:PORT/
the local part of an address decides what happens to it: delivered@, bounce@, soft@, complain@, slow@, defer@,
open@, click@, silent@, reject@; anyone+bounce@ and bounce+anything@ work too
"""


class SettingsError(ValueError):
    """A missing or contradictory setting; the message says which and what to do."""


@dataclass(frozen=True)
class Settings:
    host: str
    port: int
    data: Path
    postmark_token: str
    resend_key: str
    endpoints: dict[str, Endpoint]
    time_scale: float
    faults: Faults


def read_settings(arguments: list[str], env: Mapping[str, str]) -> Settings:
    """Read flags and environment. Raises SettingsError; exits 2 on a wrong flag, as argparse does."""
    flags = _parser(env).parse_args(arguments)
    token, key = env.get("SIMULATOR_POSTMARK_TOKEN", ""), env.get("SIMULATOR_RESEND_KEY", "")
    if not token and not key:
        raise SettingsError(
            "set SIMULATOR_POSTMARK_TOKEN or SIMULATOR_RESEND_KEY, or both: there is nothing to simulate"
        )
    if not flags.data:
        raise SettingsError("set --data or SIMULATOR_DATA to the directory of the log")
    return Settings(
        host=flags.host,
        port=_port(flags.port),
        data=Path(flags.data),
        postmark_token=token,
        resend_key=key,
        endpoints=_endpoints(env, token, key),
        time_scale=_number("SIMULATOR_TIME_SCALE", env.get("SIMULATOR_TIME_SCALE") or "1"),
        faults=_faults(env.get("SIMULATOR_FAULTS") or "{}"),
    )


def _parser(env: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator",
        description="A stand-in for Postmark and Resend: it takes mails and posts webhooks as they do.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = env.get("SIMULATOR_HOST") or "127.0.0.1"
    parser.add_argument("--host", default=default, help="address to listen on (default: 127.0.0.1)")
    default = env.get("SIMULATOR_PORT") or "8025"
    parser.add_argument("--port", default=default, help="port to listen on (default: 8025)")
    parser.add_argument(
        "--data", default=env.get("SIMULATOR_DATA"), help="directory of the durable log; made if absent"
    )
    return parser


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < float("inf"):
        raise SettingsError(f"{name} must be a number of at least 0, not {text!r}")
    return number


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) not in range(1, 2**16):
        raise SettingsError(f"--port or SIMULATOR_PORT must be a number from 1 to 65535, not {text!r}")
    return int(text)


def _endpoints(env: Mapping[str, str], token: str, key: str) -> dict[str, Endpoint]:
    endpoints: dict[str, Endpoint] = {}
    if url := env.get("SIMULATOR_POSTMARK_WEBHOOK"):
        if not token:
            raise SettingsError("SIMULATOR_POSTMARK_WEBHOOK is set, but SIMULATOR_POSTMARK_TOKEN is not")
        endpoints["postmark"] = postmark_endpoint(_url("SIMULATOR_POSTMARK_WEBHOOK", url))
    if url := env.get("SIMULATOR_RESEND_WEBHOOK"):
        secret = env.get("SIMULATOR_RESEND_SECRET", "")
        if not key or not secret:
            raise SettingsError("SIMULATOR_RESEND_WEBHOOK needs SIMULATOR_RESEND_KEY and SIMULATOR_RESEND_SECRET")
        try:
            endpoints["resend"] = resend_endpoint(_url("SIMULATOR_RESEND_WEBHOOK", url), secret)
        except ValueError as error:
            raise SettingsError(f"SIMULATOR_RESEND_SECRET must be whsec_<base64>: {error}") from error
    return endpoints


def _url(name: str, text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{name} must be an http(s) address, such as http://127.0.0.1:8000/webhooks/...")
    return text


def _faults(text: str) -> Faults:
    try:
        return Faults.read(json.loads(text))
    except (json.JSONDecodeError, FaultsError) as error:
        raise SettingsError(f"SIMULATOR_FAULTS: {error}") from error
