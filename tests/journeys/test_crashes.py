"""Workers, brokers and databases that die in the middle of it."""

import os
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from django.db import connection, transaction

from mailer import outbox
from mailer.models import DeliveryStatus, Message
from project.postgres import Postgres
from tests.conftest import running, wait_until
from tests.journeys.conftest import deployed, elapsed, journey_environment, kill, mail_to
from users.models import User

ADA = "delivered+ada@example.org"
FIVE = [f"silent+{number}@example.org" for number in range(5)]
# Seconds that five registrations may take: they do take a tenth of it, and would take longer if each waited for a
# broker's timeout.
PROMPT = 4.0
# A lease that is over soon after a crash, though it be shorter than a request may take.
HASTY = {"MAIL_LEASE_SECONDS": "1", "SILENCED_SYSTEM_CHECKS": "mailer.E002"}


def by_message(provider):
    return Counter(mail["metadata"]["message_id"] for mail in provider.accepted())


def test_worker_killed_again_and_again_sends_each_message_once(service, provider):
    service.environment |= {**HASTY, "MAIL_CONCURRENCY": "8"}
    # Some answers never come back, and no webhook tells of what was accepted until all has been tried again.
    provider.faults(latency_ms=100, rate_reset_after=0.1, webhook_delay_ms=6000, seed=7)
    service.web()
    service.beat()
    messages = [
        outbox.enqueue("welcome", f"delivered+{number}@example.org", dedupe_key=f"test:{number}")
        for number in range(200)
    ]

    killed = 0
    while killed < 4:
        worker = service.worker()
        goal = len(provider.accepted()) + 15
        wait_until(lambda: len(provider.accepted()) >= goal)  # noqa: B023  # called at once
        kill(worker)
        killed += 1
    in_doubt = Message.objects.filter(state="sending").count()
    service.worker()

    wait_until(lambda: not Message.objects.exclude(state="sent").exists(), 60)
    wait_until(lambda: not DeliveryStatus.objects.exclude(status="delivered").exists())
    assert in_doubt > 0
    assert by_message(provider) == {str(message.pk): 1 for message in messages}
    assert {mail["idempotency_key"] for mail in provider.accepted()} == {str(message.pk) for message in messages}


def test_workers_relay_and_beat_at_once_send_each_mail_once(service, provider):
    service.web()
    service.worker()
    service.worker()
    service.relay()
    service.beat()
    addresses = [f"silent+{number}@example.org" for number in range(300)]

    with ThreadPoolExecutor(8) as people:
        statuses = Counter(people.map(lambda address: service.register(address).status_code, addresses))

    assert statuses == {202: 300}
    wait_until(lambda: len(provider.accepted()) >= 300, 60)
    wait_until(lambda: not Message.objects.exclude(state="sent").exists())
    assert Counter(mail["to"][0] for mail in provider.accepted()) == dict.fromkeys(addresses, 1)


@pytest.mark.parametrize("happens", ["killed", "frozen"])
def test_broker_away_registration_answers_and_the_mail_leaves(service, provider, broker, happens):
    service.environment |= {"THROTTLES": "1"}  # which are kept by the same server
    service.web()
    service.relay()
    {"killed": broker.kill, "frozen": lambda: broker.process.send_signal(signal.SIGSTOP)}[happens]()

    statuses, seconds = elapsed(lambda: [service.register(address).status_code for address in FIVE])

    assert statuses == [202] * 5
    assert seconds < PROMPT
    assert [entry["level"] for entry in service.entries() if entry["event"] == "limits_not_held"] == ["warning"]
    wait_until(lambda: len(provider.accepted()) == 5)


def test_broker_wiped_and_back_the_worker_goes_on(service, provider, broker):
    service.web()
    service.worker()
    service.beat()
    service.register("silent+before@example.org")
    mail_to(provider, "silent+before@example.org")
    broker.kill()
    service.register("silent+meanwhile@example.org")

    broker.start()

    mail_to(provider, "silent+meanwhile@example.org")
    service.register("silent+after@example.org")
    mail_to(provider, "silent+after@example.org")


def test_registration_rolled_back_sends_no_mail(service, provider):
    service.relay()
    with transaction.atomic():
        User.objects.create_user("silent+rolled-back@example.org", "x")
        transaction.set_rollback(True)
    User.objects.create_user("silent+committed@example.org", "x")

    mail_to(provider, "silent+committed@example.org")

    assert len(provider.accepted()) == 1
    assert Message.objects.count() == 1


def test_registration_whose_commit_fails_sends_no_mail(service, provider):
    service.web()
    service.relay()
    with refusing_commits():
        refused = service.register("silent+refused@example.org")
    accepted = service.register("silent+accepted@example.org")

    assert refused.status_code >= 500
    assert accepted.status_code == 202
    mail_to(provider, "silent+accepted@example.org")
    assert len(provider.accepted()) == 1
    assert User.objects.get().email == "silent+accepted@example.org"


@pytest.mark.parametrize("pool", ["0", "4"])
def test_database_killed_no_event_is_lost(tmp_path, broker, pool):
    postgres = Postgres(tmp_path / "postgres")
    base = {**os.environ, "DATABASE_URL": postgres.start()}
    try:
        with deployed(tmp_path, journey_environment(base, broker), time_scale="0.002") as (service, provider):
            with running("manage.py", "migrate", env=service.environment, log=tmp_path / "migrate.log") as migration:
                assert migration.wait() == 0, (tmp_path / "migrate.log").read_text()
            provider.faults(webhook_delay_ms=1500)
            service.web(DATABASE_POOL_SIZE=pool)
            service.relay()
            service.register(ADA)
            mail_to(provider, ADA)
            postgres.kill()
            wait_until(lambda: [hook for hook in webhooks(provider) if hook["status"] == 503])

            postgres.start()

            wait_until(lambda: {hook["status"] for hook in webhooks(provider)} == {200})
            token = service.token(ADA)
            wait_until(lambda: service.deliveries(token)["verification"]["status"] == "delivered")
            assert len(provider.accepted()) == 1
    finally:
        postgres.stop()


def webhooks(provider):
    return provider.ask("GET", "/webhooks.json")["webhooks"]


@contextmanager
def refusing_commits():
    """Let the server refuse to commit a transaction that writes a user."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'the disk is full' USING ERRCODE = 'disk_full'; END $$"""
        )
        cursor.execute(
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON users_user"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
        try:
            yield
        finally:
            cursor.execute("DROP FUNCTION refuse() CASCADE")
