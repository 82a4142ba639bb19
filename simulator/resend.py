"""Resend: its send API. Its webhooks are in ``reports.resend``.

Sources: resend.com/docs/api-reference/emails/{send-email,send-batch-emails,retrieve-email},
/api-reference/errors and /dashboard/emails/idempotency-keys.
"""

from typing import Any

from simulator.api import Answer, Api, Headers, Keys, found, metadata_in, outcome
from simulator.mail import Mail, Refusal, RefusedError, addresses, is_address, rfc3339
from simulator.reports.resend import message_id

NAME = "resend"
BATCH_LIMIT = 100
RECIPIENT_LIMIT = 50
KEY_LIMIT = 256
TEXTS = ("from", "subject", "text", "html")
KEY_LIFE = 24 * 3600.0

Body = dict[str, Any]


# The send API


def refused(status: int, name: str, message: str, **headers: str) -> Refusal:
    return Refusal(status, {"statusCode": status, "message": message, "name": name}, headers)


NO_KEY = refused(401, "missing_api_key", "Missing API key in the authorization header.")
BAD_KEY = refused(403, "invalid_api_key", "API key is invalid")
BAD_JSON = refused(400, "validation_error", "The request body is not valid JSON.")
WRONG_JSON = refused(422, "validation_error", "The request body has the wrong type.")
BAD_IDEMPOTENCY_KEY = refused(
    400, "invalid_idempotency_key", "Idempotency keys, if present, must have between 1 and 256 characters."
)
CONCURRENT = refused(
    409,
    "concurrent_idempotent_requests",
    "There is another request in progress with the same idempotency key.",
)
OTHER_BODY = refused(
    409,
    "invalid_idempotent_request",
    "This idempotency key has been used with this HTTP method and endpoint within the last 24 hours,"
    " but the request body was modified and doesn't match the original request.",
)
TOO_MANY = refused(422, "validation_error", f"You can send at most {BATCH_LIMIT} emails per batch.")
RATE_LIMITED = refused(
    429, "rate_limit_exceeded", "Too many requests. Please limit the number of requests per second.",
    **{"ratelimit-limit": "10", "ratelimit-remaining": "0", "ratelimit-reset": "1"},
)  # fmt: skip
UNAVAILABLE = refused(500, "application_error", "An unexpected error occurred.")
NOT_FOUND = refused(404, "not_found", "Email not found")


def authorize(headers: Headers, expected: str) -> None:
    """Check the header. Raises RefusedError: 401 without a key, 403 with a wrong one."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise RefusedError(NO_KEY)
    if not expected or key != expected:
        raise RefusedError(BAD_KEY)


def read_one(payload: Any, _: Headers) -> Answer:
    mail = read(payload)
    return Answer([mail], {"id": mail.id})


def read_batch(payload: Any, headers: Headers) -> Answer:
    """Read a batch: all of it or nothing, or with that header the valid ones alone.

    The errors of a permissive batch name the index of each; its data lists what was accepted.
    """
    if not isinstance(payload, list) or not payload:
        raise RefusedError(WRONG_JSON)
    if len(payload) > BATCH_LIMIT:
        raise RefusedError(TOO_MANY)
    if headers.get("x-batch-validation", "strict") != "permissive":
        mails: list[Mail | Refusal] = [read(each) for each in payload]
        return Answer(mails, {"data": _ids(mails)})
    outcomes = [outcome(read, each) for each in payload]
    errors = [
        {"index": index, "message": each.body["message"]}
        for index, each in enumerate(outcomes)
        if isinstance(each, Refusal)
    ]
    return Answer(outcomes, {"data": _ids(outcomes), "errors": errors})


def _ids(outcomes: list[Mail | Refusal]) -> list[Body]:
    return [{"id": each.id} for each in outcomes if isinstance(each, Mail)]


def message_ids(payload: Any) -> list[str]:
    mails = payload if isinstance(payload, list) else [payload]
    return [metadata_in(_metadata_header(found(mail, "headers"))).get("message_id", "") for mail in mails]


def read(payload: Any) -> Mail:
    """Check one mail of a request. Raises RefusedError (422)."""
    if not isinstance(payload, dict) or any(not isinstance(payload.get(name) or "", str) for name in TEXTS):
        raise RefusedError(WRONG_JSON)
    fields = {name: _listed(payload.get(name)) for name in ("to", "cc", "bcc")}
    _check(payload, fields)
    headers = {name: str(value) for name, value in (payload.get("headers") or {}).items()}
    return Mail(
        provider=NAME,
        sender=payload["from"],
        recipients=[address for field in fields.values() for address in addresses(field)],
        subject=payload["subject"],
        text=payload.get("text") or "",
        html=payload.get("html") or "",
        headers=headers,
        metadata=metadata_in(_metadata_header(headers)),
        payload=payload,
    )


def _listed(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value] if value else []
    return [str(each) for each in values]


def _check(payload: Body, fields: dict[str, list[str]]) -> None:
    for name in ("from", "to", "subject"):
        if not payload.get(name):
            raise RefusedError(refused(422, "missing_required_field", f"Missing `{name}` field."))
    if not payload.get("html") and not payload.get("text"):
        raise RefusedError(refused(422, "missing_required_field", "Missing `html` or `text` field."))
    for name, values in {"from": [payload["from"]], **fields}.items():
        if not all(is_address(address) for address in addresses(values)):
            raise RefusedError(
                refused(
                    422,
                    "validation_error",
                    f"Invalid `{name}` field. The email address needs to follow the `email@example.com`"
                    " or `Name <email@example.com>` format.",
                )
            )
        if len(values) > RECIPIENT_LIMIT:
            raise RefusedError(
                refused(422, "validation_error", f"The `{name}` field must have at most {RECIPIENT_LIMIT} items.")
            )


def _metadata_header(headers: Any) -> str:
    """Find the header that Anymail writes; Resend knows no metadata and passes it through."""
    named = headers.items() if isinstance(headers, dict) else ()
    return next((str(value) for name, value in named if name.lower() == "x-metadata"), "{}")


def details(mail: Mail, happened: list[dict[str, Any]]) -> Body:
    """Answer ``GET /emails/{id}`` for a mail and the webhook rows that lie in the past."""
    payload = mail.payload
    return {
        "object": "email",
        "id": mail.id,
        "message_id": message_id(mail),
        "to": _listed(payload.get("to")),
        "from": mail.sender,
        "created_at": rfc3339(mail.accepted_at).replace("T", " ").replace("Z", "+00"),
        "subject": mail.subject,
        "html": mail.html or None,
        "text": mail.text or None,
        "bcc": _listed(payload.get("bcc")),
        "cc": _listed(payload.get("cc")),
        "reply_to": _listed(payload.get("reply_to")),
        "last_event": happened[-1]["event"].removeprefix("email.") if happened else "queued",
        "scheduled_at": payload.get("scheduled_at"),
        "tags": payload.get("tags") or [],
    }


API = Api(
    name=NAME,
    authorize=authorize,
    paths={"emails": read_one, "emails/batch": read_batch},
    mail=read,
    message_ids=message_ids,
    bad_json=BAD_JSON,
    rate_limited=RATE_LIMITED,
    unavailable=UNAVAILABLE,
    keys=Keys("idempotency-key", KEY_LIFE, KEY_LIMIT, BAD_IDEMPOTENCY_KEY, CONCURRENT, OTHER_BODY),
)
