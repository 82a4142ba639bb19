"""What the environment says about accounts. Whatever is wrong with it raises `ImproperlyConfigured`, in one line."""

import re
from typing import Any, Final

import idna
from django.core.exceptions import ImproperlyConfigured

from project.environment import Environment, is_origin
from users.passwords import service_words

# How many, in how many seconds.
Rate = tuple[int, float]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_RATE: Final = re.compile(r"([1-9]\d{0,5})/([1-9]\d{0,3})?([smhd])")

# What may be done how often, by whom: the defaults of `THROTTLE_<NAME>`. `_ip`: by a client's address, of IPv6 its /64.
THROTTLES: Final = {
    "register_ip": "10/h",
    "verify_ip": "30/m",
    "mail_ip": "30/m",
    "login_ip": "10/m",
    "status_ip": "120/m",
    "login_account": "5/5m",
    "user": "600/m",
}


def read_throttles(env: Environment) -> dict[str, tuple[Rate, ...]]:
    """Read what may be done how often: THROTTLE_REGISTER_IP and so on, `off` for no limit; none with THROTTLES=0."""
    if not env.bool("THROTTLES", default=True):
        return {}
    return {name: _rates(env, f"THROTTLE_{name.upper()}", default) for name, default in THROTTLES.items()}


def _rates(env: Environment, variable: str, default: str) -> tuple[Rate, ...]:
    text = env.str(variable, default=default)
    if text == "off":
        return ()
    found = [_RATE.fullmatch(part.strip()) for part in text.split(",")]
    if not all(found):
        raise ImproperlyConfigured(f"{variable} must look like 10/h, or 5/5m,20/d, or be off")
    return tuple((int(rate[1]), float(int(rate[2] or 1) * _UNITS[rate[3]])) for rate in found if rate)


def read_password_validators(env: Environment, name: str, url: str) -> list[dict[str, Any]]:
    """Return Django's AUTH_PASSWORD_VALIDATORS, for a service of this name at this address."""
    django = "django.contrib.auth.password_validation"
    validators: list[dict[str, Any]] = [
        {"NAME": f"{django}.UserAttributeSimilarityValidator"},
        {"NAME": f"{django}.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
        {"NAME": f"{django}.CommonPasswordValidator"},
        {"NAME": "users.passwords.ServiceWordValidator", "OPTIONS": {"words": service_words(name, url)}},
    ]
    if env.bool("PASSWORD_BREACH_CHECK", default=False):
        origin = env.str("PASSWORD_BREACH_URL", default="https://api.pwnedpasswords.com").rstrip("/")
        if not is_origin(origin):
            raise ImproperlyConfigured("PASSWORD_BREACH_URL must look like https://api.pwnedpasswords.com")
        validators.append({"NAME": "users.passwords.BreachedPasswordValidator", "OPTIONS": {"url": origin}})
    return validators


def read_blocked_domains(env: Environment) -> frozenset[str]:
    """Read of which domains nobody may register: BLOCKED_DOMAINS, and with BLOCK_DISPOSABLE a list of throw-away ones.

    They are parted by blanks, commas or lines; what follows # in a line is a remark.
    """
    text = re.sub(r"#.*", "", env.str("BLOCKED_DOMAINS", default=""))
    try:
        named = {idna.encode(word.strip("."), uts46=True).decode() for word in re.split(r"[\s,]+", text) if word}
    except UnicodeError:
        raise ImproperlyConfigured("BLOCKED_DOMAINS must be domains, such as mail.example, without @ or *") from None
    if env.bool("BLOCK_DISPOSABLE", default=False):
        from disposable_email_domains import blocklist  # thousands: only where they are wanted

        named |= blocklist
    return frozenset(named)
