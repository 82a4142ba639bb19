"""Mailjet: its send API v3.1, which takes batches and knows no idempotency key.

Sources: dev.mailjet.com/email/guides/send-api-v31, /email/reference/send-emails and
/docs/email-api/email_api_overview/status_codes.
"""

import base64
import uuid
from typing import Any

from simulator.api import Answer, Api, Headers, found, metadata_in, outcome
from simulator.mail import Mail, Refusal, RefusedError, is_address

NAME = "mailjet"
# Of a whole request, not of one message.
RECIPIENT_LIMIT = 50
SUBJECT_LIMIT = 255
FIELDS = ("To", "Cc", "Bcc")

Body = dict[str, Any]


def _error(status: int, code: str, message: str, *related: str) -> Body:
    body = {
        "ErrorIdentifier": str(uuid.uuid4()),
        "ErrorCode": code,
        "StatusCode": status,
        "ErrorMessage": message,
    }
    return body | ({"ErrorRelatedTo": list(related)} if related else {})


def refused(status: int, code: str, message: str, *related: str) -> Refusal:
    return Refusal(status, _error(status, code, message, *related))


BAD_KEY = refused(401, "mj-0015", "API key authentication/authorization failure.")
BAD_JSON = refused(400, "mj-0002", "Malformed JSON, please review the syntax and properties types.")
TOO_MANY = refused(400, "mj-0006", f"Total number of recipients exceeded. Max allowed - {RECIPIENT_LIMIT}", "Messages")
RATE_LIMITED = refused(429, "mj-0019", "Too many requests.")
UNAVAILABLE = refused(500, "mj-0001", "Internal server error.")


def authorize(headers: Headers, expected: str) -> None:
    """Check the basic auth against ``key:secret``. Raises RefusedError (401)."""
    scheme, _, pair = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic" or not expected or pair != base64.b64encode(expected.encode()).decode():
        raise RefusedError(BAD_KEY)


def read_batch(payload: Any, _: Headers) -> Answer:
    """Read a request of one or more messages, each with an outcome of its own; 400 when one of them is refused."""
    messages = _messages(payload)
    if not messages:
        raise RefusedError(refused(400, "mj-0003", '"Messages" is mandatory.', "Messages"))
    if sum(len(_recipients(message)) for message in messages) > RECIPIENT_LIMIT:
        raise RefusedError(TOO_MANY)
    outcomes = [outcome(read, message) for message in messages]
    answers = [
        _accepted(each) if isinstance(each, Mail) else {"Status": "error", "Errors": [each.body]} for each in outcomes
    ]
    status = 400 if any(isinstance(each, Refusal) for each in outcomes) else 200
    return Answer(outcomes, {"Messages": answers}, status)


def _messages(payload: Any) -> list[Body]:
    """Merge what holds for all messages into each of them, whose own words win."""
    common, messages = found(payload, "Globals") or {}, found(payload, "Messages")
    if not isinstance(common, dict) or not isinstance(messages, list):
        return []
    return [{**common, **(message if isinstance(message, dict) else {})} for message in messages]


def read(message: Any) -> Mail:
    """Check one message. Raises RefusedError (400)."""
    recipients = _recipients(message)
    _check(message, recipients)
    return Mail(
        provider=NAME,
        sender=message["From"]["Email"],
        recipients=recipients,
        subject=message.get("Subject") or "",
        text=message.get("TextPart") or "",
        html=message.get("HTMLPart") or "",
        headers={name: str(value) for name, value in (message.get("Headers") or {}).items()},
        metadata=metadata_in(message.get("EventPayload") or ""),
        tags=[message["CustomCampaign"]] if message.get("CustomCampaign") else [],
        payload=message,
        id=str(10**17 + uuid.uuid4().int % 10**17),
    )


def _recipients(message: Body) -> list[str]:
    people = [each for field in FIELDS for each in found(message, field) or []]
    return [str(found(person, "Email") or "") for person in people]


def _check(message: Body, recipients: list[str]) -> None:
    sender, subject = str(found(message, "From", "Email") or ""), message.get("Subject") or ""
    wrong = [address for address in [sender, *recipients] if not is_address(address)]
    rules: dict[str, tuple[str, str, Any]] = {
        "From": ("mj-0003", '"From" is mandatory.', sender),
        "To": ("mj-0003", '"To" is mandatory.', found(message, "To")),
        "Email": ("mj-0013", f'"{next(iter(wrong), "")}" is an invalid email address.', not wrong),
        "Subject": ("mj-0006", f"Maximum length is {SUBJECT_LIMIT}.", len(subject) <= SUBJECT_LIMIT),
        "TextPart": (
            "send-0003",
            'At least "HTMLPart", "TextPart" or "TemplateID" must be provided.',
            message.get("TextPart") or message.get("HTMLPart") or message.get("TemplateID"),
        ),
    }
    for field, (code, text, kept) in rules.items():
        if not kept:
            raise RefusedError(refused(400, code, text, field))


def _accepted(mail: Mail) -> Body:
    """Say so; every recipient has an id of its own, the first one the mail's."""
    numbers = iter(range(int(mail.id), int(mail.id) + len(mail.recipients)))
    told = {
        field: [_told(str(person["Email"]), next(numbers)) for person in mail.payload.get(field) or []]
        for field in FIELDS
    }
    return {"Status": "success", "CustomID": mail.payload.get("CustomID") or "", **told}


def _told(address: str, number: int) -> Body:
    return {
        "Email": address,
        "MessageUUID": str(uuid.UUID(int=number)),
        "MessageID": number,
        "MessageHref": f"https://api.mailjet.com/v3/REST/message/{number}",
    }


def message_ids(payload: Any) -> list[str]:
    return [metadata_in(message.get("EventPayload") or "").get("message_id", "") for message in _messages(payload)]


API = Api(
    name=NAME,
    authorize=authorize,
    paths={"send": read_batch},
    mail=read,
    message_ids=message_ids,
    bad_json=BAD_JSON,
    rate_limited=RATE_LIMITED,
    unavailable=UNAVAILABLE,
)
