"""What the simulator is told: flags first, then the environment."""

import argparse
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from simulator.faults import Faults, FaultsError
from simulator.reports import REPORTS
from simulator.webhooks import Endpoint

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
                               (a provider without one refuses everybody)
  SIMULATOR_<PROVIDER>_WEBHOOK where a provider's events go (one without an address posts none); of those that sign
                               nothing (BREVO, MAILJET, POSTMARK, SPARKPOST) as http://user:password@host:port/path.
                               The others are AMAZON_SES, MAILERSEND, MAILGUN, MAILTRAP, MANDRILL, POSTAL, RESEND,
                               SENDGRID and UNISENDER_GO
  SIMULATOR_<PROVIDER>_SECRET  what the others sign by; `python -m simulator secrets` makes new ones
  SIMULATOR_WEBHOOKS           off: a mail is accepted and nothing follows from it, as --no-webhooks
  SIMULATOR_SYNC               off: no fsync, so that a power cut may lose what was accepted; for benchmarks
  SIMULATOR_TIME_SCALE         factor on event delays and webhook retries, default 1.0
  SIMULATOR_FAULTS             faults from the start, JSON as for PUT /faults

send APIs: http://HOST:PORT/postmark/, /resend/, /mailjet/ and /sendgrid/; inbox: http://HOST:PORT/
the local part of an address decides what happens to it: delivered@, bounce@, soft@, complain@, slow@, defer@,
open@, click@, silent@, reject@; anyone+bounce@ and bounce+anything@ work too
`python -m simulator report --help`: have a running simulator report of any mail, by any provider's webhook
`python -m simulator check --help`: have it try the service's address, as some providers do first
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
    endpoints = _endpoints(env)
    if not secrets and not endpoints:
        names = [*SECRETS.values(), *map(webhook_variable, REPORTS)]
        raise SettingsError(f"set at least one of {', '.join(names)}: there is nothing to simulate")
    if not flags.data:
        raise SettingsError("set --data or SIMULATOR_DATA to the directory of the log")
    return Settings(
        host=flags.host,
        port=_port(flags.port),
        data=Path(flags.data),
        tls=_tls(flags.certfile, flags.keyfile),
        secrets=secrets,
        endpoints=endpoints,
        webhooks=_switch("SIMULATOR_WEBHOOKS", env) and not flags.no_webhooks,
        sync=_switch("SIMULATOR_SYNC", env),
        time_scale=_number("SIMULATOR_TIME_SCALE", env.get("SIMULATOR_TIME_SCALE") or "1"),
        faults=_faults(env.get("SIMULATOR_FAULTS") or "{}"),
    )


def _parser(env: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m simulator",
        description="A stand-in for the providers: it takes mails as Postmark, Resend, Mailjet and SendGrid do, and"
        " posts webhooks as these and nine others do.",
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


def _endpoints(env: Mapping[str, str]) -> dict[str, Endpoint]:
    return {name: _endpoint(name, env) for name in REPORTS if env.get(webhook_variable(name))}


def _endpoint(name: str, env: Mapping[str, str]) -> Endpoint:
    reports, secret = REPORTS[name], secret_variable(name)
    url = _url(webhook_variable(name), env[webhook_variable(name)])
    if not reports.scheme.in_url and not env.get(secret):
        raise SettingsError(f"{webhook_variable(name)} needs {secret}, {reports.scheme.looks}")
    try:
        return Endpoint.at(reports, url, env.get(secret, ""))
    except ValueError as error:
        raise SettingsError(f"{secret} must be {reports.scheme.looks}: {error}") from error


def webhook_variable(name: str) -> str:
    return f"SIMULATOR_{name.upper()}_WEBHOOK"


def secret_variable(name: str) -> str:
    return f"SIMULATOR_{name.upper()}_SECRET"


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
