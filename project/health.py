"""Whether the service lives, and whether it can do its work."""

from collections.abc import Callable, Mapping
from typing import Any

from celery import current_app
from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from mailer import outbox
from mailer.doorbell import impatient
from webhooks import health as webhooks

# Seconds that a probe gives the broker.
PATIENCE = 1.0


@require_safe
@never_cache
def healthz(_: HttpRequest) -> JsonResponse:
    """Say that the process answers: 200, whatever else is down."""
    return JsonResponse({"status": "ok"})


@require_safe
@never_cache
def readyz(request: HttpRequest) -> JsonResponse:
    """Say what works: 503 only without the database, since without the broker mail is merely slower.

    `oldest_due_seconds` is how long the message that is due longest has waited; null where none waits. With `?verbose`
    also how the webhooks of each provider are doing: when the last event came, whether it is silent, how late events
    are, and what was refused; and `oldest_waiting_seconds`, how long the webhook that waits longest has waited to be
    read by a worker. Anyone may ask, so there is nothing else: no address, no number of mails.
    """
    checks: dict[str, Any] = {"database": _works(_ask_database), "broker": _works(_ask_broker)}
    ready = checks["database"] == "ok"
    checks["oldest_due_seconds"] = outbox.oldest_due() if ready else None
    checks["status"] = "ok" if ready else "unavailable"
    if ready and "verbose" in request.GET:
        checks |= _webhooks()
    return JsonResponse(checks, status=200 if ready else 503, headers={} if ready else {"Retry-After": "5"})


def _webhooks() -> dict[str, Any]:
    report = webhooks.report()
    return {
        "oldest_waiting_seconds": _whole(webhooks.oldest_waiting()),
        "webhooks": {name: _told(known) for name, known in report.items()},
        "warnings": [
            f"{name}: mail was sent, and no webhook has come for {known.life.silent_seconds / 3600:.1f} hours"
            for name, known in report.items()
            if known.life.silent_seconds is not None
        ],
    }


def _told(known: webhooks.Health) -> dict[str, Any]:
    return {
        "last_event_seconds": _whole(known.life.last_event_seconds),
        "silent": known.life.silent_seconds is not None,
        "lag_seconds": {"receipt": _rounded(known.lag.to_receipt), "record": _rounded(known.lag.to_record)},
        "refusals": [
            {"reason": each.reason, "code": each.code, "count": each.count, "last_at": each.last_at}
            for each in known.refusals
        ],
    }


def _rounded(percentiles: Mapping[float, float]) -> dict[str, float]:
    return {str(quantile): round(seconds, 3) for quantile, seconds in percentiles.items()}


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def _works(ask: Callable[[], object]) -> str:
    try:
        ask()
    except Exception as error:  # noqa: BLE001  # each transport raises its own kinds, and the probe names any
        return type(error).__name__
    return "ok"


def _ask_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _ask_broker() -> None:
    with current_app.connection_for_read(connect_timeout=PATIENCE, transport_options=impatient(PATIENCE)) as broker:
        broker.ensure_connection(max_retries=1, interval_start=0, timeout=1)
        if broker.transport.driver_type == "redis":
            broker.default_channel.client.ping()  # type: ignore[attr-defined]  # of kombu's Redis channel
