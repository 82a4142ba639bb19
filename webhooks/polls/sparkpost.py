"""SparkPost.

https://developers.sparkpost.com/api/events/#events-get-search-for-message-events: the events of a transmission, kept
for ten days. They are those of the webhooks, and have the same ids; only their times are written another way. Unless
it is told from when on, it looks at one day.
https://developers.sparkpost.com/api/: there is a limit, answered 429; no figure.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urljoin

from webhooks.polls.base import Poll, Story
from webhooks.providers.times import of_iso

EVENTS: Final = (
    "bounce,delivery,delay,out_of_band,policy_rejection,generation_failure,generation_rejection,spam_complaint"
)
# For longer than anybody is asked about a mail.
BACK: Final = timedelta(days=3)


def _ask(backend: Any, esp_message_id: str) -> Story:
    subaccount = {"X-MSYS-SUBACCOUNT": str(backend.subaccount)} if backend.subaccount else {}
    answer = yield {
        "method": "GET",
        "url": urljoin(backend.api_url, "events/message"),
        "params": {
            "transmissions": esp_message_id,
            "events": EVENTS,
            "from": f"{datetime.now(UTC) - BACK:%Y-%m-%dT%H:%M:%SZ}",
            "per_page": 1000,
        },
        "headers": {"Authorization": backend.api_key, **subaccount},
    }
    return [_event(event) for event in answer["results"]]


def _event(event: Any) -> dict[str, Any]:
    time = of_iso(event.get("timestamp"))
    timed = {**event, "timestamp": str(int(time.timestamp()))} if time else event
    return {"msys": {"message_event": timed}}


POLL = Poll(ask=_ask, rate=0.5, burst=2)
