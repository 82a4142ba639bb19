"""Mailtrap.

https://docs.mailtrap.io/developers/email-sending/transactional: `api/batch` takes 500 messages and answers for each,
in order: its ids, or what is wrong with it. No idempotency key.
https://docs.mailtrap.io/developers/rate-limits: 150 requests in ten seconds, whatever they carry.
https://docs.mailtrap.io/developers/email-sending/email-logs: another host, which wants the account's number.
"""

from collections.abc import Sequence
from typing import Any

from mailer.providers.base import Batch, Provider, get


def _join(bodies: Sequence[str]) -> str:
    return f'{{"requests": [{",".join(bodies)}]}}'


def _split(answer: Any) -> list[tuple[int, Any]] | None:
    responses = get(answer, ("responses",))
    if not isinstance(responses, list):
        return None
    return [(200 if get(response, ("success",)) is True else 400, response) for response in responses]


PROVIDER = Provider(
    name="mailtrap",
    backend="anymail.backends.mailtrap.EmailBackend",
    needs=("MAILTRAP_API_TOKEN",),
    takes=("MAILTRAP_API_URL", "MAILTRAP_SANDBOX_ID"),
    # In a sandbox the endpoint has its number behind it, and messages go alone.
    batch=Batch(endpoint="send", path="batch", most=500, join=_join, split=_split),
)
