"""What happened, in figures, for Prometheus."""

from collections.abc import Iterable
from itertools import product
from typing import Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from mailer.exceptions import DATABASE_LOST
from mailer.kinds import KINDS
from mailer.models import RepeatCount
from webhooks import health
from webhooks.health import MANY
from webhooks.models import DeadLetter

LAGS: Final = {
    "receipt": "Seconds from an event to the webhook that reported it",
    "record": "Seconds from the receipt of a webhook to the record of its events",
}


class Mail(Collector):
    """What the database knows of all processes: each web process tells the same."""

    def collect(self) -> Iterable[Metric]:
        """Return the figures: what is read for them has a bound, however many messages there are."""
        repeats = CounterMetricFamily(
            "mail_risky_repeats",
            "Messages sent again though the provider may have accepted them before: mails that may have come twice.",
            labels=["kind", "provider"],
        )
        for labels, count in sorted(_risky_repeats().items()):
            repeats.add_metric(labels, count)
        letters = GaugeMetricFamily(
            "webhook_dead_letters",
            f"Webhooks' events that no delivery claimed within a day; {MANY} are that or more.",
            value=DeadLetter.objects.all()[:MANY].count(),
        )
        receipts = GaugeMetricFamily(
            "webhook_receipts",
            f"Webhooks that wait to be read or tried again, and that could not be read; {MANY} are that or more.",
            labels=["state"],
        )
        for state, count in health.left().items():
            receipts.add_metric([state], count)
        waiting = GaugeMetricFamily(
            "webhook_oldest_waiting_seconds",
            "For how long the webhook that waits longest has waited to be read; 0 where none waits.",
            value=health.oldest_waiting() or 0,
        )
        return [repeats, letters, receipts, waiting, *_webhooks(), *_inquiries()]


def _webhooks() -> Iterable[Metric]:
    """Return how the webhooks of each provider are doing."""
    refused = CounterMetricFamily(
        "webhook_refused",
        "Requests refused, by provider and reason: 401 for a bad signature.",
        labels=["provider", "code", "reason"],
    )
    last = GaugeMetricFamily(
        "webhook_last_event_timestamp_seconds", "When the provider last reported an event.", labels=["provider"]
    )
    silent = GaugeMetricFamily(
        "webhook_silent_seconds",
        "For how long nothing was reported though mail was sent; 0 where all is well.",
        labels=["provider"],
    )
    lags = [
        (
            GaugeMetricFamily(
                f"webhook_{name}_lag_seconds", f"{text}, of the latest.", labels=["provider", "quantile"]
            ),
            name,
        )
        for name, text in LAGS.items()
    ]
    for provider, known in health.report().items():
        for refusal in known.refusals:
            refused.add_metric([provider, str(refusal.code), refusal.reason], refusal.count)
        if known.life.last_event_at:
            last.add_metric([provider], known.life.last_event_at.timestamp())
        silent.add_metric([provider], known.life.silent_seconds or 0)
        for family, name in lags:
            for quantile, seconds in getattr(known.lag, f"to_{name}").items():
                family.add_metric([provider, str(quantile)], seconds)
    return [refused, last, silent, *(family for family, _ in lags)]


def _inquiries() -> Iterable[Metric]:
    """Return what asking each provider came to."""
    families = [
        (family(f"inquiry_{name}", text, labels=["provider"]), name)
        for family, name, text in (
            (CounterMetricFamily, "asked", "Mails that the provider was asked about."),
            (CounterMetricFamily, "told", "Events it told that no webhook had."),
            (CounterMetricFamily, "failed", "Mails that it did not answer about."),
            (GaugeMetricFamily, "tokens", "Requests that may go to it now."),
            (GaugeMetricFamily, "silent_seconds", "For how long it is asked nothing; 0 where it is."),
        )
    ]
    for provider, asking in health.asking().items():
        for family, name in families:
            if (figure := getattr(asking, name)) is not None:
                family.add_metric([provider], figure)
    return [family for family, _ in families]


def _risky_repeats() -> dict[tuple[str, str], int]:
    """Return the counts by kind and provider; 0 where there may be some: else Prometheus would not see the first."""
    repeated = [kind for kind, rules in KINDS.items() if rules.at_least_once]
    counted = RepeatCount.objects.values_list("kind", "provider", "count")
    return dict.fromkeys(product(repeated, settings.MAIL_PROVIDERS), 0) | {
        (kind, provider): count for kind, provider, count in counted
    }


REGISTRY = CollectorRegistry(auto_describe=False)
REGISTRY.register(Mail())


@require_safe
@never_cache
def metrics(_: HttpRequest) -> HttpResponse:
    """Show all figures, in Prometheus's text format; 503 without the database."""
    try:
        return HttpResponse(generate_latest(REGISTRY), content_type=CONTENT_TYPE_PLAIN_0_0_4)
    except DATABASE_LOST:
        return HttpResponse(status=503, headers={"Retry-After": "5"})
