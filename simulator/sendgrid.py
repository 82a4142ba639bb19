"""SendGrid: its send API, which knows no idempotency key, and its email activity, as far as one mail is asked for.

Sources: twilio.com/docs/sendgrid/api-reference/mail-send/mail-send, .../mail-send/errors,
.../how-to-use-the-sendgrid-v3-api/{responses,rate-limits} and .../email-activity/filter-all-messages.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from simulator.api import Answer, Api, Headers, found
from simulator.behaviour import BEHAVIOURS, behaviour_of
from simulator.mail import Mail, Refusal, RefusedError, is_address

NAME = "sendgrid"
PERSONALIZATION_LIMIT = 1000
RECIPIENT_LIMIT = 1000
FIELDS = ("to", "cc", "bcc")

Body = dict[str, Any]


def refused(status: int, message: str, field: str | None = None, **headers: str) -> Refusal:
    return Refusal(status, {"errors": [{"message": message, "field": field, "help": None}]}, headers)


BAD_KEY = refused(401, "The provided authorization grant is invalid, expired, or revoked")
BAD_JSON = refused(400, "Bad Request")
RATE_LIMITED = refused(
    429, "too many requests",
    **{"X-RateLimit-Limit": "600", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"},
)  # fmt: skip
UNAVAILABLE = refused(500, "Internal Server Error")


def authorize(headers: Headers, expected: str) -> None:
    """Check the header. Raises RefusedError (401)."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not expected or key != expected:
        raise RefusedError(BAD_KEY)


def read_one(payload: Any, _: Headers) -> Answer:
    """Read a request: 202, an empty body, and the id in a header."""
    mail = read(payload)
    return Answer([mail], None, 202, {"X-Message-Id": mail.id})


def read(payload: Any) -> Mail:
    """Check a request, which is one mail here, also with several personalizations. Raises RefusedError (400)."""
    people = found(payload, "personalizations")
    if not isinstance(people, list) or not 1 <= len(people) <= PERSONALIZATION_LIMIT:
        raise RefusedError(refused(400, "At least one personalization is required.", "personalizations"))
    recipients = [address for each in people for address in _recipients(each)]
    _check(payload, people, recipients)
    content = {str(found(part, "type")): str(found(part, "value") or "") for part in payload["content"]}
    return Mail(
        provider=NAME,
        sender=payload["from"]["email"],
        recipients=recipients,
        subject=payload["subject"],
        text=content.get("text/plain", ""),
        html=content.get("text/html", ""),
        headers={name: str(value) for name, value in (payload.get("headers") or {}).items()},
        metadata={name: str(value) for name, value in _metadata(payload).items()},
        tags=[str(tag) for tag in payload.get("categories") or []],
        payload=payload,
    )


def _recipients(personalization: Any) -> list[str]:
    people = [each for field in FIELDS for each in found(personalization, field) or []]
    return [str(found(person, "email") or "") for person in people]


def _check(payload: Body, people: list[Any], recipients: list[str]) -> None:
    sender, subject, content = found(payload, "from", "email"), payload.get("subject"), payload.get("content")
    rules: dict[str, tuple[str, Any]] = {
        "from.email": ("The from email does not contain a valid address.", is_address(str(sender or ""))),
        "personalizations.0.to": (
            "Every personalization must have at least one valid address in its to array.",
            all(found(each, "to") for each in people) and all(map(is_address, recipients)),
        ),
        "personalizations": (
            f"At most {RECIPIENT_LIMIT} recipients are allowed.",
            len(recipients) <= RECIPIENT_LIMIT,
        ),
        "subject": ("The subject is required.", isinstance(subject, str) and subject),
        "content": ("The content is required.", isinstance(content, list) and content),
    }
    for field, (message, kept) in rules.items():
        if not kept:
            raise RefusedError(refused(400, message, field))


def _metadata(payload: Any) -> Body:
    """Merge the request's custom arguments with those of its first personalization."""
    people = found(payload, "personalizations")
    first = people[0] if isinstance(people, list) and people else None
    metadata: Body = {}
    for part in (payload, first):
        arguments = found(part, "custom_args")
        metadata |= arguments if isinstance(arguments, dict) else {}
    return metadata


def message_ids(payload: Any) -> list[str]:
    return [str(_metadata(payload).get("message_id") or "")]


# The one query that is understood here.
QUERY = re.compile(r"""\(unique_args\['anymail_id'\]="([^"]+)"\)""")
BAD_QUERY = refused(400, "the query is not understood", "query")
# What ends a mail's way -> its status; until then it is processed.
STATUSES = {
    "delivered": "delivered",
    "bounced": "not_delivered",
    "soft_bounced": "not_delivered",
    "suppressed": "not_delivered",
}


def read_query(query: Mapping[str, str]) -> str:
    """Read which mail is asked for, by the id that Anymail gave it. Raises RefusedError (400)."""
    match = QUERY.fullmatch(query.get("query", ""))
    if match is None or not query.get("limit", "").isdecimal():
        raise RefusedError(BAD_QUERY)
    return match[1]


def activity(mail: Mail, age: float) -> list[Body]:
    """Answer for a mail whose acceptance is so many seconds of its recipients' time ago."""
    return [_message(mail, number, recipient, age) for number, recipient in enumerate(mail.recipients)]


def _message(mail: Mail, number: int, recipient: str, age: float) -> Body:
    past = [step for step in BEHAVIOURS[behaviour_of(recipient)] if step.after <= age]
    last = timedelta(seconds=past[-1].after if past else 0)
    return {
        "from_email": mail.sender,
        "msg_id": f"{mail.id}.{number}",
        "subject": mail.subject,
        "to_email": recipient,
        "status": next((STATUSES[step.word] for step in past if step.word in STATUSES), "processed"),
        "opens_count": sum(step.word == "opened" for step in past),
        "clicks_count": sum(step.word == "clicked" for step in past),
        "last_event_time": (mail.accepted_at + last).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


API = Api(
    name=NAME,
    authorize=authorize,
    paths={"mail/send": read_one},
    mail=read,
    message_ids=message_ids,
    bad_json=BAD_JSON,
    rate_limited=RATE_LIMITED,
    unavailable=UNAVAILABLE,
)
