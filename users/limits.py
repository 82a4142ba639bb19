"""How often something may be done: limits that hold for all processes together, kept in Redis.

A key has the times at which it was last let through, as many as its limit. It is let through once more where fewer than
that lie within the period: in no period of that length, wherever it begins, are there more. One script reads and
writes, by Redis' own clock, so that of any number of requests at once no more pass than may.

Redis may be away. Then nothing is limited, the log says so once, and nobody waits for it again for a while.
"""

import functools
import ipaddress
from typing import Final

import redis
from django.conf import settings
from django.utils.crypto import salted_hmac
from redis.backoff import NoBackoff
from redis.retry import Retry

from users.networks import read_address
from users.outages import Outage

# Seconds that a request waits for Redis, and for which it is then left alone.
TIMEOUT: Final = 0.25
DOWN: Final = 5.0

PREFIX: Final = "limit"

# KEYS: one for each rate; ARGV: limit and period of each, the period in microseconds. Returns for how many microseconds
# there is to wait, 0 where it was let through. All rates or none are charged.
_SCRIPT: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local wait = 0
for i, key in ipairs(KEYS) do
  local limit, period = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local oldest = redis.call('LINDEX', key, -limit)
  if oldest then
    -- Where the clock was set back, nobody waits for longer than a period.
    wait = math.max(wait, math.min(oldest + period - now, period))
  end
end
if wait > 0 then
  return wait
end
for i, key in ipairs(KEYS) do
  redis.call('RPUSH', key, string.format('%.0f', now))
  redis.call('LTRIM', key, -ARGV[2 * i - 1], -1)
  redis.call('PEXPIRE', key, math.ceil(ARGV[2 * i] / 1000))
end
return 0
"""


_outage: Final = Outage("limits_not_held", "limits_held_again", DOWN)


def wait(name: str, key: str) -> float:
    """Charge a key to a limit of `settings.THROTTLES`; return for how many seconds it has to wait, 0 if it may go on.

    Who has to wait is not charged. A limit that is not there lets everything through, and so does a Redis that is away.
    """
    rates = settings.THROTTLES.get(name, ())
    if not rates or not _outage.may_ask():
        return 0.0
    # Of an address, and of a client, Redis learns nothing that could be read back.
    secret = salted_hmac("users.limits", key, algorithm="sha256").hexdigest()[:32]
    keys = [f"{PREFIX}:{name}:{seconds:g}:{secret}" for _, seconds in rates]
    arguments = [number for limit, seconds in rates for number in (limit, int(seconds * 1_000_000))]
    client = _client(settings.REDIS_URL)
    try:
        microseconds = client.register_script(_SCRIPT)(keys, arguments)
    except redis.RedisError as error:
        _outage.begin(error)
        return 0.0
    _outage.end()
    return int(microseconds) / 1_000_000


def permits(name: str, key: str) -> bool:
    """Charge a key to a limit, as `wait` does; tell whether it may go on."""
    return wait(name, key) == 0


@functools.cache
def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=Retry(NoBackoff(), 0)
    )


def client_key(address: str) -> str:
    """Return what a client is limited by: its IPv4 address, or the /64 that an IPv6 address is one of.

    A host is free to choose any address of its /64 (RFC 8981).
    """
    parsed = read_address(address)
    if parsed is None:
        return address  # a Unix socket has no address: whoever comes through it shares one limit
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))
