"""What the simulator is told: flags first, then the environment."""

import argparse
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from simulator.faults import Faults, FaultsError
from simulator.webhooks import Endpoint, postmark_endpoint, resend_endpoint

# What a provider's clients must show, and the variable that says it. One without refuses everybody.
SECRETS = {
    "postmark": "SIMULATOR_POSTMARK_TOKEN",
    "resend": "SIMULATOR_RESEND_KEY",
    "mailjet": "SIMULATOR_MAILJET_KEY",
    "sendgrid": "SIMULATOR_SENDGRID_KEY",
}
SWITCH = {"": True, "on": True, "off": False}

HELP = """\
environment (a flag wins over its variable):
  SIMULATOR_HOST, SIMULATOR_PORT, SIMULATOR_DATA, SIMULATOR_CERTFILE, SIMULATOR_KEYFILE   as the flags
  SIMULATOR_POSTMARK_TOKEN     the X-Postmark-Server-Token that is accepted
  SIMULATOR_RESEND_KEY         the Bearer key that is accepted
  SIMULATOR_SENDGRID_KEY       the Bearer key that is accepted
  SIMULATOR_MAILJET_KEY        the key:secret that is accepted
                               (one of the four at least; a provider without one refuses everybody)
  SIMULATOR_POSTMARK_WEBHOOK   where Postmark's events go: http://user:password@host:port/path
  SIMULATOR_RESEND_WEBHOOK     where Resend's events go (a provider without an address posts none)
  SIMULATOR_RESEND_SECRET      whsec_<base64>, signs Resend's webhooks
  SIMULATOR_WEBHOOKS           off: a mail is accepted and nothing follows from it, as --no-webhooks
  SIMULATOR_SYNC               off: no fsync, so that a power cut may lose what was accepted; for benchmarks
  SIMULATOR_TIME_SCALE         factor on event delays and webhook retries, default 1.0
  SIMULATOR_FAULTS             faults from the start, JSON as for PUT /faults

send APIs: http://HOST:PORT/postmark/, /resend/, /mailjet/ and /sendgrid/; inbox: http://HOST:PORT/
the local part of an address decides what happens to it: delivered@, bounce@, soft@, complain@, slow@, defer@,
open@, click@, silent@, reject@; anyone+bounce@ and bounce+anything@ work too
"""


class SettingsError(ValueError):
    """A missing or contradictory setting; the message says which and what to do."""


@dataclass(frozen=True)
class Tls:
    """A certificate chain and its key, both PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Settings:
    host: str
    port: int
    data: Path
    tls: Tls | None
    secrets: dict[str, str]
    endpoints: dict[str, Endpoint]
    webhooks: bool
    sync: bool
    time_scale: float
    faults: Faults


def read_settings(arguments: list[str], env: Mapping[str, str]) -> Settings:
    """Read flags and environment. Raises SettingsError; exits 2 on a wrong flag, as argparse does."""
    flags = _parser(env).parse_args(arguments)
    secrets = {provider: env[name] for provider, name in SECRETS.items() if env.get(name)}
    if not secrets:
        raise SettingsError(f"set at least one of {', '.join(SECRETS.values())}: there is nothing to simulate")
    if not flags.data:
        raise SettingsError("set --data or SIMULATOR_DATA to the directory of the log")
    return Settings(
        host=flags.host,
        port=_port(flags.port),
        data=Path(flags.data),
        tls=_tls(flags.certfile, flags.keyfile),
        secrets=secrets,
        endpoints=_endpoints(env, secrets),
        webhooks=_switch("SIMULATOR_WEBHOOKS", env) and not flags.no_webhooks,
        sync=_switch("SIMULATOR_SYNC", env),
        time_scale=_number("SIMULATOR_TIME_SCALE", env.get("SIMULATOR_TIME_SCALE") or "1"),
        faults=_faults(env.get("SIMULATOR_FAULTS") or "{}"),
    )


def _parser(env: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator",
        description="A stand-in for Postmark, Resend, Mailjet and SendGrid: it takes mails as they do, and posts the"
        " webhooks of the first two.",
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
    parser.add_argument(
        "--certfile", default=env.get("SIMULATOR_CERTFILE"), help="PEM file of the certificate chain: speak TLS"
    )
    parser.add_argument("--keyfile", default=env.get("SIMULATOR_KEYFILE"), help="PEM file of its private key")
    parser.add_argument("--no-webhooks", action="store_true", help="accept mails, and let nothing follow from them")
    return parser


def _tls(certificate: str | None, key: str | None) -> Tls | None:
    if not certificate and not key:
        return None
    if not certificate or not key:
        raise SettingsError("--certfile and --keyfile (SIMULATOR_CERTFILE, SIMULATOR_KEYFILE) go together")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:  # also what is wrong with the contents
        raise SettingsError(f"cannot use SIMULATOR_CERTFILE with SIMULATOR_KEYFILE: {error}") from error
    return Tls(Path(certificate), Path(key))


def _switch(name: str, env: Mapping[str, str]) -> bool:
    value = env.get(name, "")
    if value not in SWITCH:
        raise SettingsError(f"{name} must be on or off, not {value!r}")
    return SWITCH[value]


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


def _endpoints(env: Mapping[str, str], secrets: Mapping[str, str]) -> dict[str, Endpoint]:
    endpoints: dict[str, Endpoint] = {}
    if url := env.get("SIMULATOR_POSTMARK_WEBHOOK"):
        if "postmark" not in secrets:
            raise SettingsError("SIMULATOR_POSTMARK_WEBHOOK is set, but SIMULATOR_POSTMARK_TOKEN is not")
        endpoints["postmark"] = postmark_endpoint(_url("SIMULATOR_POSTMARK_WEBHOOK", url))
    if url := env.get("SIMULATOR_RESEND_WEBHOOK"):
        secret = env.get("SIMULATOR_RESEND_SECRET", "")
        if "resend" not in secrets or not secret:
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
