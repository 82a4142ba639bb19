"""Postmark.

https://postmarkapp.com/developer/api/overview: no idempotency mechanism; 401 for a bad token, 422 with an `ErrorCode`
for a message, 429 over the rate limit, 500 and 503 for trouble of its own; 10 MB.
https://postmarkapp.com/developer/api/email-api: 50 recipients; text or HTML. A batch is answered with 200 and, in
order, with what became of each of up to 500 messages; 50 MB.
https://postmarkapp.com/support/article/1125-custom-metadata-faq: messages are found by one field of their metadata.
"""

from datetime import timedelta
from typing import Any
from urllib.parse import urljoin

from mailer.providers.base import Batch, Provider, Search, as_list, get
from mailer.verdicts import Verdict


def _split(answer: Any) -> list[tuple[int, Any]] | None:
    if not isinstance(answer, list):
        return None
    # Without a code it was accepted, too, and "delivery may be delayed".
    return [(422 if isinstance(one, dict) and one.get("ErrorCode") else 200, one) for one in answer]


def _search(backend: Any, message_id: str) -> dict[str, Any]:
    stream = {"messagestream": backend.message_stream} if backend.message_stream else {}
    return {
        "method": "GET",
        "url": urljoin(backend.api_url, "messages/outbound"),
        "params": {"count": 10, "offset": 0, "metadata_message_id": message_id, **stream},
        "headers": {"Accept": "application/json", "X-Postmark-Server-Token": backend.server_token},
    }


def _found(answer: Any) -> list[str] | None:
    messages = get(answer, ("Messages",))
    return [str(message["MessageID"]) for message in messages] if isinstance(messages, list) else None


PROVIDER = Provider(
    name="postmark",
    backend="anymail.backends.postmark.EmailBackend",
    needs=("POSTMARK_SERVER_TOKEN",),
    takes=("POSTMARK_API_URL", "POSTMARK_MESSAGE_STREAM"),
    requires=frozenset({"body"}),
    # The page promises no time by which a message can be found; these minutes are ours.
    search=Search(request=_search, found=_found, complete_after=timedelta(minutes=10)),
    batch=Batch(endpoint="email", path="email/batch", most=500, join=as_list, split=_split, largest=50_000_000),
    error_codes=(("ErrorCode",),),
    errors={
        "10": Verdict.CONFIGURATION,  # bad or missing API token
        "100": Verdict.NOT_SENT,  # maintenance
        "400": Verdict.CONFIGURATION,  # sender signature not found
        "401": Verdict.CONFIGURATION,  # sender signature not confirmed
        "405": Verdict.CONFIGURATION,  # not allowed to send: no credits
        "412": Verdict.CONFIGURATION,  # account pending
        "413": Verdict.CONFIGURATION,  # account may not send
        "429": Verdict.THROTTLED,
    },
    tells=True,
)
