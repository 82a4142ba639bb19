"""What the environment says about mail. Whatever is wrong with it raises `ImproperlyConfigured`, in one line."""

import re
from collections.abc import Collection, Iterator
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured

from mailer.providers import PROVIDERS
from project.environment import Environment
from users.networks import Network, read_network
from webhooks.providers import WEBHOOKS

# A provider's name, as it stands in the database and, in capitals, in the names of variables.
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
# Whom PUBLIC_URL names where nobody else reaches the service.
OWN_MACHINE: Final = ("127.0.0.1", "localhost", "::1")
_PATH: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def read_backends(env: Environment) -> dict[str, str]:
    """Read which backends of Django's are providers: archive=path.of.a.Backend, by a name that is none yet."""
    backends: dict[str, str] = {}
    for entry in env.list("MAIL_BACKENDS", default=[]):
        name, _, path = entry.partition("=")
        if not (_NAME.fullmatch(name) and _PATH.fullmatch(path)) or name in backends:
            raise ImproperlyConfigured(
                "MAIL_BACKENDS must look like console=django.core.mail.backends.console.EmailBackend,archive=..., "
                "each name once, of at most 32 lower-case letters, digits and underscores"
            )
        if name in PROVIDERS:
            raise ImproperlyConfigured(f"MAIL_BACKENDS: {name} is a provider already; choose another name")
        backends[name] = path
    return backends


def read_providers(env: Environment, backends: Collection[str]) -> list[str]:
    """Read which providers there are, in order of preference; `backends` are those that MAIL_BACKENDS adds."""
    known = [*PROVIDERS, *backends]
    names: list[str] = env.list("MAIL_PROVIDERS")
    if not names:
        raise ImproperlyConfigured("MAIL_PROVIDERS names no provider, e.g. MAIL_PROVIDERS=postmark,resend")
    for name in names:
        if name not in known:
            raise ImproperlyConfigured(f"MAIL_PROVIDERS: {name!r} is not one of {', '.join(known)}")
        if names.count(name) > 1:
            raise ImproperlyConfigured(f"MAIL_PROVIDERS names {name} twice")
    return names


def read_anymail(env: Environment, names: Collection[str]) -> dict[str, Any]:
    """Read Anymail's settings: ANYMAIL_POSTMARK_SERVER_TOKEN=... is its POSTMARK_SERVER_TOKEN.

    Required are those of the named providers; of others they are read, too, since only the one that may have accepted
    a message can tell a repeat from a second mail. Raises `ImproperlyConfigured`.
    """
    found: dict[str, Any] = {}
    for provider in PROVIDERS.values():
        values = {key: env.str(f"ANYMAIL_{key}", default="") for key in (*provider.needs, *provider.takes)}
        for key in provider.needs:
            if not values[key] and provider.name in names:
                raise ImproperlyConfigured(f"Set ANYMAIL_{key}: MAIL_PROVIDERS names {provider.name}")
        given = {key: value for key, value in values.items() if value}
        if given or provider.name in names:
            found |= {**provider.fixed, **given}
    return found


def read_by_provider(env: Environment, prefix: str, backends: Collection[str], minimum: float) -> dict[str, float]:
    """Read numbers that differ by provider: with the prefix MAIL_RATE_, from MAIL_RATE_POSTMARK and so on."""
    return {
        name: env.at_least(minimum, variable, default=minimum)
        for variable in _variables(env, prefix)
        for name in [_provider_of(variable, prefix, [*PROVIDERS, *backends])]
    }


def _variables(env: Environment, prefix: str) -> Iterator[str]:
    return (name for name in env.ENVIRON if name.startswith(prefix) and not name.endswith("_FILE"))


def _provider_of(variable: str, prefix: str, known: Collection[str]) -> str:
    name = variable.removeprefix(prefix).lower()
    if name not in known:
        raise ImproperlyConfigured(f"{variable}: {name!r} is not one of {', '.join(known)}")
    return name


def read_routes(env: Environment, names: Collection[str]) -> dict[str, list[str]]:
    """Read which providers a kind of mail goes through, in order: welcome=postmark,digest=resend+postmark."""
    routes: dict[str, list[str]] = {}
    for route in env.list("MAIL_ROUTES", default=[]):
        kind, equals, providers = route.partition("=")
        if not (kind and equals and providers) or kind in routes:
            raise ImproperlyConfigured(
                "MAIL_ROUTES must look like welcome=postmark,digest=resend+postmark, each kind once"
            )
        routes[kind] = providers.split("+")
        for name in routes[kind]:
            if name not in names:
                raise ImproperlyConfigured(
                    f"MAIL_ROUTES sends {kind} through {name!r}, which MAIL_PROVIDERS does not name"
                )
    return routes


def read_webhook_secrets(env: Environment, names: Collection[str]) -> dict[str, list[str]]:
    """Read what proves that a webhook is a provider's; two, comma-separated, while one replaces the other.

    Each provider that may send needs one; of another one, which has sent before, it is taken where it is given.
    """
    secrets: dict[str, list[str]] = {}
    for name, webhook in WEBHOOKS.items():
        given = env.list(webhook.variable, default=[])
        if (given or name in names) and not (given and all(map(webhook.is_secret, given))):
            raise ImproperlyConfigured(f"Set {webhook.variable} ({webhook.looks}): its webhooks need it")
        if given:
            secrets[name] = given
    return secrets


def read_simulated_certificate(env: Environment, host: str | None, *, debug: bool) -> bytes:
    """Read the certificate that stands in for Amazon's: base64 of its DER form, as the simulator prints it; PEM.

    It makes whoever has its key Amazon. So it is for a machine of one's own alone: `host` is that of PUBLIC_URL.
    """
    variable = "WEBHOOK_SIMULATED_CERTIFICATE"
    given = env.str(variable, default="")
    if given and not (debug and host in OWN_MACHINE):
        raise ImproperlyConfigured(
            f"Remove {variable}: it is for the simulator, where DEBUG is on and PUBLIC_URL is of this machine"
        )
    return f"-----BEGIN CERTIFICATE-----\n{given}\n-----END CERTIFICATE-----\n".encode() if given else b""


def read_webhook_networks(env: Environment) -> dict[str, list[Network]]:
    """Read from where webhooks are taken: from WEBHOOK_NETWORKS_POSTMARK and so on; from anywhere of one not named."""
    prefix, networks = "WEBHOOK_NETWORKS_", {}
    for variable in _variables(env, prefix):
        try:
            given = [read_network(each) for each in env.list(variable)]
        except ValueError:
            raise ImproperlyConfigured(f"{variable} must be addresses and networks, such as 192.0.2.0/24") from None
        networks[_provider_of(variable, prefix, [*WEBHOOKS])] = given
    return networks
