"""Mailjet, Send API v3.1.

https://dev.mailjet.com/email/reference/send-emails/: 50 messages a call; one that is refused does not stop the others,
and the status of the whole is then 400. No idempotency: a repeated `CustomID` is a second mail.
https://dev.mailjet.com/email/reference/messages/: `CustomID` can be searched, `EventPayload` (Anymail's metadata)
cannot. The page promises no time by which a message can be found.
https://github.com/mailjet/mailjet-apiv3-nodejs/pull/122: text or HTML. Anymail refuses what has nobody in `to`.
https://dev.mailjet.com/email/guides/send-api-v31/: each refusal in `Errors` has a status of its own; 15 MB.
"""

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urljoin

from mailer.providers.base import Batch, Provider, Search, get

# What an HTTP status of a refusal can be.
REFUSALS = range(400, 600)


def _join(bodies: Sequence[str]) -> str:
    mails = map(json.loads, bodies)
    return json.dumps({"Messages": [{**mail["Globals"], **message} for mail in mails for message in mail["Messages"]]})


def _split(answer: Any) -> list[tuple[int, Any]] | None:
    messages = get(answer, ("Messages",))
    if not isinstance(messages, list):
        return None
    return [(_status(message), {"Messages": [message]}) for message in messages]


def _status(message: Any) -> int:
    if get(message, ("Status",)) == "success":
        return 200
    status = get(message, ("Errors", 0, "StatusCode"))
    return status if status in REFUSALS else 500


def _search(backend: Any, message_id: str) -> dict[str, Any]:
    return {
        "method": "GET",
        "url": urljoin(backend.api_url, "../v3/REST/message"),
        "params": {"CustomID": message_id},
        "headers": {},
        "auth": (backend.api_key, backend.secret_key),
    }


def _found(answer: Any) -> list[str] | None:
    data = get(answer, ("Data",))
    return [str(message["ID"]) for message in data] if isinstance(data, list) else None


PROVIDER = Provider(
    name="mailjet",
    backend="anymail.backends.mailjet.EmailBackend",
    needs=("MAILJET_API_KEY", "MAILJET_SECRET_KEY"),
    takes=("MAILJET_API_URL",),
    requires=frozenset({"to", "body"}),
    search=Search(request=_search, found=_found, complete_after=None, field=("Globals", "CustomID")),
    batch=Batch(endpoint="send", path="send", most=50, join=_join, split=_split, largest=15_000_000),
    largest=15_000_000,
    tells=True,
)
