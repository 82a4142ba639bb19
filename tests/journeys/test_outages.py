"""What the service needs besides its database dies, each in turn and all together: people notice nothing, and no mail
is lost or doubled. Without its database it says so, and does not hang.

The whole of it runs throughout, as it is deployed but without a relay: no mail leaves in a way that nobody broke.
"""

import os
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from project.postgres import Postgres
from project.valkey import Valkey
from tests.brokers import dead, frozen
from tests.conftest import Simulator, running, wait_until
from tests.journeys.conftest import PASSWORD, Service, deployed, elapsed, journey_environment, kill, link_in, mail_to

# Seconds that an answer may take: a hash, some statements and, of each process once in five seconds, a quarter of a
# second for a Redis that says nothing (`users.limits`); the rest is for a machine that is busy with other tests.
PROMPT = 10.0
# Seconds for mails to leave once all is back: the worker tries the broker again after 2, 4, 6 seconds, and the mail
# after up to 2, 4, 8 seconds; a provider that has failed ten times is left alone for five.
CONVERGED = 60.0


@dataclass
class World:
    """All that runs, each of which may be broken."""

    service: Service
    provider: Simulator
    broker: Valkey
    redis: Valkey
    postgres: Postgres
    worker: Any

    def ask(self, statement: str) -> list[Any]:
        with psycopg.connect(self.postgres.url, autocommit=True) as sql:
            cursor = sql.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def count(self, event: str) -> int:
        """Count an event in the web server's log."""
        return (self.service.directory / "01-web.log").read_text().count(f'"{event}"')


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    directory = tmp_path_factory.mktemp("outages")
    with ExitStack() as stack:
        broker, redis, postgres = (
            Valkey(directory / "broker", volatile=True),
            Valkey(directory / "redis", volatile=True),
            Postgres(directory / "postgres"),  # which loses no commit when it is killed
        )
        for server in (broker, redis, postgres):
            stack.callback(server.stop)
            server.start()
        environment = journey_environment({**os.environ, "DATABASE_URL": postgres.url}, broker)
        environment |= {
            "REDIS_URL": redis.redis_url,
            "MAIL_PROVIDERS": "resend",
            "THROTTLES": "1",
            **{f"THROTTLE_{name}_IP": "1000/h" for name in ("REGISTER", "VERIFY", "MAIL", "LOGIN")},
        }
        service, provider = stack.enter_context(deployed(directory, environment))
        log = directory / "migrate.log"
        with running("manage.py", "migrate", env=service.environment, log=log) as migration:
            assert migration.wait() == 0, log.read_text()
        service.web()
        service.beat()
        yield World(service, provider, broker, redis, postgres, service.worker())


# --- What breaks --------------------------------------------------------------------------------------------


@contextmanager
def hanging(provider):
    """It takes what comes and says nothing for a while, then cuts the connection: was it accepted?"""
    provider.faults(rate_hang=1, hang_ms=1000)
    try:
        yield
    finally:
        provider.faults()


@contextmanager
def killed_worker(world):
    world.provider.faults(latency_ms=3000)  # so that it dies with requests under way
    world.service.register(f"{uuid4()}@example.org")
    wait_until(lambda: world.ask("SELECT 1 FROM mailer_message WHERE state = 'sending'"))
    kill(world.worker)
    world.provider.faults()
    try:
        yield
    finally:
        world.worker = world.service.worker()
        # As if it were a minute later: what it held is anybody's.
        world.ask("UPDATE mailer_message SET lease_until = now() WHERE state IN ('leased', 'sending')")


@contextmanager
def everything(world, struck):
    with killed_worker(world), struck(world.broker), struck(world.redis), dead(world.provider):
        yield


OUTAGES = {
    "broker-dead": lambda world: dead(world.broker),
    "redis-dead": lambda world: dead(world.redis),
    "provider-refuses": lambda world: dead(world.provider),
    "broker-silent": lambda world: frozen(world.broker),
    "redis-silent": lambda world: frozen(world.redis),
    "provider-hangs": lambda world: hanging(world.provider),
    "worker-killed": killed_worker,
    "everything-dead": lambda world: everything(world, dead),
    "everything-silent": lambda world: everything(world, frozen),
}
# What the web server's log says, once, of what is away and of its return.
AWAY = {"broker": "hint_lost", "redis": "limits_not_held"}
BACK = {"broker": "hints_taken_again", "redis": "limits_held_again"}
# Mails to those who registered before, and that follow from `requests_of`. Who registers an address that is not
# verified yet, with a password of their own, has it verified by a mail of their own.
KINDS = {"verification": 3 + 4, "welcome": 1, "password_reset": 1}


# --- What people do -----------------------------------------------------------------------------------------


def people(world, name):
    """Let some register while all is well, and is known to be; return the token of the first one's link."""
    for number in range(3):
        world.service.register(f"before{number}+{name}@example.org")
    wait_until(lambda: is_well(world))
    links = [link_in(mail_to(world.provider, f"before{number}+{name}@example.org")) for number in range(3)]
    # As if it were some minutes later: another mail may be asked for.
    world.ask("UPDATE users_emailchallenge SET created_at = created_at - interval '5 minutes'")
    return links[0].partition("token=")[2]


def is_well(world):
    """Tell whether the web server has found again all that was away, after a request that looks for it."""
    world.service.call("POST", "/api/v1/accounts/verify-email", json={"token": "of nobody"})
    return all(world.count(AWAY[part]) == world.count(BACK[part]) for part in AWAY)


def requests_of(name, token):
    """Return what is asked of the API, each with the status that is expected where it can work."""
    login = {"email": f"before0+{name}@example.org", "password": PASSWORD}
    accounts = "/api/v1/accounts"
    return [
        (f"{accounts}/register", {"email": f"new0+{name}@example.org", "password": PASSWORD}, 202),
        (f"{accounts}/register", {"email": f"new1+{name}@example.org", "password": PASSWORD}, 202),
        (f"{accounts}/register", {**login, "password": PASSWORD[::-1]}, 202),
        (f"{accounts}/verify-email", {"token": token}, 200),
        (f"{accounts}/verify-email/resend", {"email": f"before1+{name}@example.org"}, 202),
        (f"{accounts}/password-reset", {"email": f"before2+{name}@example.org"}, 202),
        ("/api/v1/auth/tokens", login, 201),
    ]


def ask_all(world, asked):
    """Send requests, one after the other; return the answers, and how long the slowest took."""
    answers = [elapsed(lambda: world.service.call("POST", path, json=body)) for path, body, _ in asked]  # noqa: B023
    return [answer for answer, _ in answers], max(seconds for _, seconds in answers)


def settled(world):
    """Tell whether every mail was delivered, by what the service knows; let what was to be tried again be due."""
    world.ask("UPDATE mailer_message SET run_at = now() WHERE state = 'retry'")
    states = world.ask("SELECT DISTINCT state FROM mailer_message")
    statuses = world.ask("SELECT DISTINCT status FROM mailer_deliverystatus")
    return states == [("sent",)] and statuses == [("delivered",)]


def kinds_of(world, name):
    """Count the messages to the people of one outage, by kind."""
    rows = world.ask(f"SELECT kind, count(*) FROM mailer_deliverystatus WHERE recipient LIKE '%+{name}@%' GROUP BY 1")
    return dict(rows)


def said(world):
    """Count what the web server has said is away."""
    return Counter({part: world.count(AWAY[part]) for part in AWAY})


def failed(world):
    """Count the requests to the provider that failed."""
    [[count]] = world.ask("SELECT count(*) FROM mailer_attempt WHERE outcome NOT IN ('', 'accepted')")
    return count


@pytest.mark.parametrize("name", OUTAGES)
def test_outage_is_not_noticed_and_every_mail_leaves_once(world, name):
    asked = requests_of(name, people(world, name))
    failures, said_before = failed(world), said(world)
    away = Counter([part for part in AWAY if part in name or "everything" in name])

    with OUTAGES[name](world):
        answers, slowest = ask_all(world, asked)
        # At least: one that is only slow for a moment is away, too.
        wait_until(lambda: said(world) - said_before >= away)
        wait_until(lambda: "provider" not in name or failed(world) > failures)

    wait_until(lambda: settled(world), CONVERGED)
    assert [answer.status_code for answer in answers] == [expected for _, _, expected in asked]
    assert slowest < PROMPT
    mails = Counter(mail["metadata"]["message_id"] for mail in world.provider.accepted())
    assert mails == {str(message): 1 for [message] in world.ask("SELECT id FROM mailer_message")}
    assert kinds_of(world, name) == KINDS


def test_database_dead_everything_says_so_and_works_again(world):
    asked = requests_of("database", people(world, "database"))

    with dead(world.postgres):
        answers, slowest = ask_all(world, asked)

    assert slowest < PROMPT
    assert {(answer.status_code, answer.headers["Retry-After"]) for answer in answers} == {(503, "5")}
    assert {answer.json()["code"] for answer in answers} == {"unavailable"}
    again, _ = ask_all(world, asked)
    assert [answer.status_code for answer in again] == [expected for _, _, expected in asked]
    wait_until(lambda: settled(world), CONVERGED)
    assert kinds_of(world, "database") == KINDS
