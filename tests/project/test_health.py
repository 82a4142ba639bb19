"""The probes, against servers that are there and servers that are not."""

import contextlib
import signal
import socket
import time
from datetime import timedelta

import pytest
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection
from django.db.models.functions import Now

from mailer import ledger, outbox
from mailer.models import DeliveryEvent
from project.valkey import Valkey
from tests.conftest import free_port
from tests.mailer.conftest import fact
from tests.webhooks.test_health import sent_hours_ago
from webhooks.models import RefusalCount, WebhookReceipt


@contextlib.contextmanager
def broker_at(url):
    """Let this process's Celery speak to another broker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELERY_BROKER_URL", url)
        yield


@pytest.fixture
def frozen_broker():
    """The address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def test_healthz_is_ok_whatever_else_is_down(client, no_database):
    with broker_at("redis://127.0.0.1:1/0"):
        response = client.get("/healthz")

    assert response.status_code == 200
    assert response.json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probe_is_never_cached_and_only_read(client, db, path):
    assert "no-store" in client.get(path)["Cache-Control"]
    assert client.head(path).status_code == 200
    assert client.post(path).status_code == 405


def test_readyz_all_up(client, db):
    response = client.get("/readyz")

    assert response.status_code == 200
    assert response.json() == {"status": "ok", "database": "ok", "broker": "ok", "oldest_due_seconds": None}


def test_readyz_without_the_database_is_503(client, no_database):
    response = client.get("/readyz")

    assert response.status_code == 503
    assert response["Retry-After"] == "5"
    answer = response.json()
    assert (answer["status"], answer["database"], answer["broker"]) == ("unavailable", "OperationalError", "ok")
    assert answer["oldest_due_seconds"] is None


def test_readyz_comes_back_with_the_database(client, transactional_db):
    connection.ensure_connection()
    connection.connection.close()

    lost = client.get("/readyz").status_code
    connection.close()

    assert lost == 503
    assert client.get("/readyz").status_code == 200


def test_readyz_without_the_broker_is_200_and_says_so(client, db):
    with broker_at(f"redis://127.0.0.1:{free_port()}/0"):
        response = client.get("/readyz")

    assert response.status_code == 200
    assert response.json()["broker"] == "OperationalError"


def test_readyz_with_a_frozen_broker_is_soon_200_and_says_so(client, db, frozen_broker):
    begin = time.monotonic()
    with broker_at(frozen_broker):
        response = client.get("/readyz")

    assert response.status_code == 200
    assert response.json()["broker"] != "ok"
    assert time.monotonic() - begin < 5


def test_readyz_sees_the_broker_die_freeze_and_come_back(client, db, tmp_path):
    valkey = Valkey(tmp_path / "valkey", volatile=True)
    with contextlib.ExitStack() as stack:
        stack.callback(valkey.stop)
        stack.enter_context(broker_at(valkey.start()))
        seen = {"up": client.get("/readyz").json()["broker"]}
        valkey.process.send_signal(signal.SIGSTOP)
        seen["frozen"] = client.get("/readyz").json()["broker"]
        valkey.process.send_signal(signal.SIGCONT)
        seen["thawed"] = client.get("/readyz").json()["broker"]
        valkey.kill()
        seen["dead"] = client.get("/readyz").json()["broker"]
        valkey.start()
        seen["back"] = client.get("/readyz").json()["broker"]

    assert {name for name, state in seen.items() if state == "ok"} == {"up", "thawed", "back"}


def test_readyz_names_the_age_of_the_oldest_due_message(client, transactional_db):
    outbox.enqueue("welcome", "ada@example.org", dedupe_key="test")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE mailer_message SET run_at = now() - interval '90 seconds'")

    assert 90 <= client.get("/readyz").json()["oldest_due_seconds"] < 120


def test_readyz_leaves_out_what_is_not_due_yet(client, transactional_db):
    outbox.enqueue("welcome", "ada@example.org", dedupe_key="test")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE mailer_message SET run_at = now() + interval '90 seconds'")

    assert client.get("/readyz").json()["oldest_due_seconds"] is None


def test_readyz_verbose_tells_of_each_provider_and_warns_of_one_that_is_silent(client, db, settings):
    settings.WEBHOOK_SECRETS = {"resend": ["a secret"], "postmark": ["a secret"]}
    sent_hours_ago(7.5, "resend")
    receipt = WebhookReceipt.objects.create(provider="postmark", body=b"", state="processed")
    ledger.record([fact("delivered", esp_message_id="nobody's", provider="postmark", receipt_id=receipt.pk)])
    recorded_at = DeliveryEvent.objects.get().recorded_at
    DeliveryEvent.objects.update(occurred_at=recorded_at - timedelta(seconds=3))
    WebhookReceipt.objects.update(received_at=recorded_at - timedelta(seconds=1))
    refusal = RefusalCount.objects.create(provider="resend", reason="the signature is missing", code=401, count=7)

    response = client.get("/readyz?verbose")

    assert response.status_code == 200
    answer = response.json()
    assert answer["status"] == "ok"
    assert answer["webhooks"] == {
        "postmark": {
            "last_event_seconds": 0,
            "silent": False,
            "lag_seconds": {
                "receipt": dict.fromkeys(("0.5", "0.95", "0.99"), 2.0),
                "record": dict.fromkeys(("0.5", "0.95", "0.99"), 1.0),
            },
            "refusals": [],
        },
        "resend": {
            "last_event_seconds": None,
            "silent": True,
            "lag_seconds": {"receipt": {}, "record": {}},
            "refusals": [
                {
                    "reason": "the signature is missing",
                    "code": 401,
                    "count": 7,
                    "last_at": DjangoJSONEncoder().default(refusal.last_at),
                }
            ],
        },
    }
    assert answer["warnings"] == ["resend: mail was sent, and no webhook has come for 7.5 hours"]
    assert "example" not in response.content.decode()


def test_readyz_verbose_tells_for_how_long_nobody_has_read_what_waits(client, db):
    none = client.get("/readyz?verbose").json()["oldest_waiting_seconds"]
    WebhookReceipt.objects.create(
        provider="postmark", body=b"", state="waiting", received_at=Now() - timedelta(minutes=5)
    )

    assert none is None
    assert client.get("/readyz?verbose").json()["oldest_waiting_seconds"] == pytest.approx(300, abs=60)


def test_readyz_verbose_without_the_database_is_503(client, no_database):
    response = client.get("/readyz?verbose=1")

    assert (response.status_code, "webhooks" in response.json()) == (503, False)


def test_readyz_tells_no_address_of_a_server(client, no_database):
    with broker_at("redis://:broker-password@127.0.0.1:1/0"):
        text = client.get("/readyz").content.decode()

    assert "127.0.0.1" not in text
    assert "password" not in text
