"""Postmark: its send API and its search. Its webhooks are in ``reports.postmark``.

Sources: postmarkapp.com/developer/api/email-api, /api/messages-api and /api/overview#error-codes;
postmarkapp.com/support/article/1125-custom-metadata-faq (one metadata field a search).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from simulator.api import Answer, Api, Headers, found, outcome
from simulator.behaviour import REJECTED, behaviour_of
from simulator.mail import Mail, Refusal, RefusedError, addresses, is_address, rfc3339

NAME = "postmark"
BATCH_LIMIT = 500
RECIPIENT_LIMIT = 50
METADATA_LIMITS = {"fields": 10, "name": 20, "value": 80}
SUBJECT_LIMIT = 2000
TAG_LIMIT = 1000
SEARCH_LIMIT = 500
SEARCH_DEPTH = 10_000
# The parameters of a search, and what the log calls them.
FILTERS = {"recipient": "to", "fromemail": "sender", "tag": "tag", "subject": "subject"}
TEXTS = ("From", "To", "Cc", "Bcc", "Subject", "TextBody", "HtmlBody", "Tag")

INACTIVE = "Inactive recipients are ones that have generated a hard bounce, a spam complaint, or a manual suppression."

Body = dict[str, Any]
Row = dict[str, Any]


# The send API


def refused(status: int, code: int, message: str) -> Refusal:
    return Refusal(status, {"ErrorCode": code, "Message": message})


NO_TOKEN = refused(
    401,
    10,
    "No Account or Server API tokens were supplied in the HTTP headers."
    " Please add a header for either X-Postmark-Server-Token or X-Postmark-Account-Token.",
)
BAD_TOKEN = refused(
    401,
    10,
    "The Server Token you provided in the X-Postmark-Server-Token request header was invalid."
    " Please verify that you are using a valid token.",
)
BAD_JSON = refused(422, 402, "Received invalid JSON input.")
WRONG_JSON = refused(422, 403, "The JSON that was provided is not compatible with this endpoint.")
TOO_MANY = refused(422, 410, f"You may only send up to {BATCH_LIMIT} messages in one batch.")
RATE_LIMITED = refused(429, 429, "Rate limit exceeded.")
UNAVAILABLE = refused(500, 500, "Internal server error.")
NOT_FOUND = refused(422, 701, "This message does not exist.")
WRONG_SEARCH = refused(422, 700, "One or more of the query parameters have an invalid value.")


def authorize(headers: Headers, expected: str) -> None:
    """Check the token. Raises RefusedError (401, ErrorCode 10)."""
    token = headers.get("x-postmark-server-token")
    if not token:
        raise RefusedError(NO_TOKEN)
    if not expected or token.lower() != expected.lower():
        raise RefusedError(BAD_TOKEN)


def read_one(payload: Any, _: Headers) -> Answer:
    mail = read(payload)
    return Answer([mail], accepted(mail))


def read_batch(payload: Any, _: Headers) -> Answer:
    """Read a batch, of which each message has its own outcome."""
    if not isinstance(payload, list):
        raise RefusedError(WRONG_JSON)
    if len(payload) > BATCH_LIMIT:
        raise RefusedError(TOO_MANY)
    outcomes = [outcome(read, message) for message in payload]
    return Answer(outcomes, [accepted(each) if isinstance(each, Mail) else each.body for each in outcomes])


def message_ids(payload: Any) -> list[str]:
    messages = payload if isinstance(payload, list) else [payload]
    return [str(found(message, "Metadata", "message_id") or "") for message in messages]


def read(payload: Any) -> Mail:
    """Check one message of a request. Raises RefusedError (422) with ErrorCode 300, 403 or 406."""
    if not isinstance(payload, dict) or any(not isinstance(payload.get(name) or "", str) for name in TEXTS):
        raise RefusedError(WRONG_JSON)
    lines = {name: payload.get(name) or "" for name in ("To", "Cc", "Bcc")}
    recipients = [address for line in lines.values() for address in addresses([line])]
    _check(payload, lines, recipients)
    inactive = _inactive(recipients)
    if len(inactive) == len(recipients):
        which = f"Found inactive addresses: {', '.join(inactive)}."
        raise RefusedError(
            refused(
                422,
                406,
                f"You tried to send to recipient(s) that have been marked as inactive. {which} {INACTIVE}",
            )
        )
    return Mail(
        provider=NAME,
        sender=payload["From"],
        recipients=recipients,
        subject=payload.get("Subject") or "",
        text=payload.get("TextBody") or "",
        html=payload.get("HtmlBody") or "",
        headers={header["Name"]: header["Value"] for header in payload.get("Headers") or []},
        metadata={name: str(value) for name, value in (payload.get("Metadata") or {}).items()},
        tags=[payload["Tag"]] if payload.get("Tag") else [],
        payload=payload,
    )


def _check(payload: Body, lines: dict[str, str], recipients: list[str]) -> None:
    sender = addresses([payload.get("From") or ""])
    if not sender or not is_address(sender[0]):
        raise _invalid(f"Invalid 'From' address: '{payload.get('From') or ''}'.")
    for name, line in lines.items():
        for address in addresses([line]):
            if not is_address(address):
                raise _invalid(f"Error parsing '{name}': Illegal email address '{address}'.")
    rules = {
        "Zero recipients specified": recipients,
        f"Too many recipients; at most {RECIPIENT_LIMIT} are allowed.": len(recipients) <= RECIPIENT_LIMIT,
        "Provide either email TextBody or HtmlBody or both.": payload.get("TextBody") or payload.get("HtmlBody"),
        f"Subject is longer than {SUBJECT_LIMIT} characters.": len(payload.get("Subject") or "") <= SUBJECT_LIMIT,
        f"Tag is longer than {TAG_LIMIT} characters.": len(payload.get("Tag") or "") <= TAG_LIMIT,
        "Invalid metadata content. At most {fields} fields, names of {name} and values of {value} characters"
        " are allowed.".format(**METADATA_LIMITS): _metadata_fits(payload.get("Metadata") or {}),
    }
    for message, kept in rules.items():
        if not kept:
            raise _invalid(message)


def _invalid(message: str) -> RefusedError:
    return RefusedError(refused(422, 300, message))


def _metadata_fits(metadata: Any) -> bool:
    return (
        isinstance(metadata, dict)
        and len(metadata) <= METADATA_LIMITS["fields"]
        and all(len(name) <= METADATA_LIMITS["name"] for name in metadata)
        and all(len(str(value)) <= METADATA_LIMITS["value"] for value in metadata.values())
    )


def _inactive(recipients: list[str]) -> list[str]:
    return [address.lower() for address in recipients if behaviour_of(address) == REJECTED]


def accepted(mail: Mail) -> Body:
    inactive = _inactive(mail.recipients)
    partly = f"Message OK, but will not deliver to these inactive addresses: {', '.join(inactive)}. {INACTIVE}"
    return {
        "To": mail.payload.get("To") or "",
        "SubmittedAt": rfc3339(mail.accepted_at, 7),
        "MessageID": mail.id,
        "ErrorCode": 0,
        "Message": partly if inactive else "OK",
    }


EVENT_NAMES = {
    "Delivery": "Delivered",
    "Bounce": "Bounced",
    "Open": "Opened",
    "Click": "LinkClicked",
    "SubscriptionChange": "SubscriptionChanged",
}


def details(mail: Mail, happened: list[Row]) -> Body:
    """Answer ``GET /messages/outbound/{id}/details`` for a mail and the webhook rows already past."""
    return {
        **summary(mail),
        "TextBody": mail.text,
        "HtmlBody": mail.html,
        "Body": "",
        "MessageEvents": [
            {
                "Recipient": hook["recipient"],
                "Type": EVENT_NAMES[hook["event"]],
                "ReceivedAt": rfc3339(datetime.fromtimestamp(hook["happened_at"], UTC), 7),
                "Details": _details(hook["body"]),
            }
            for hook in happened
            if hook["event"] in EVENT_NAMES
        ],
    }


def _details(hook: Body) -> Body:
    """Describe an event; of a bounce its kind is left out."""
    said = hook.get("Details") or hook.get("Description") or ""
    match hook["RecordType"]:
        case "Delivery":
            return {"DeliveryMessage": said, "DestinationServer": "mx.example.com", "DestinationIP": "192.0.2.5"}
        case "Bounce":
            return {"Summary": said, "BounceID": str(hook["ID"])}
        case _:
            return {"Summary": said}


def bounces(happened: list[Row]) -> Body:
    """Answer ``GET /bounces?messageID=`` with the bounces among the webhook rows already past."""
    found = [hook["body"] for hook in happened if hook["event"] == "Bounce"]
    return {"TotalCount": len(found), "Bounces": found}


def summary(mail: Mail) -> Body:
    """Describe a mail as a search does."""
    payload = mail.payload
    return {
        "Tag": payload.get("Tag") or "",
        "MessageID": mail.id,
        **{
            name: [{"Email": address, "Name": None} for address in addresses([payload.get(name) or ""])]
            for name in ("To", "Cc", "Bcc")
        },
        "Recipients": mail.recipients,
        "ReceivedAt": rfc3339(mail.accepted_at, 7),
        "From": mail.sender,
        "Subject": mail.subject,
        "Attachments": [attachment.get("Name") for attachment in payload.get("Attachments") or []],
        "Status": "Sent",
        "TrackOpens": bool(payload.get("TrackOpens")),
        "TrackLinks": payload.get("TrackLinks") or "None",
        "Metadata": mail.metadata,
        "Sandboxed": False,
        "MessageStream": payload.get("MessageStream") or "outbound",
    }


@dataclass(frozen=True, slots=True)
class Search:
    """``GET /messages/outbound``: how many, from which on, and what narrows them, in the log's words."""

    count: int
    offset: int
    filters: dict[str, Any]


def read_search(query: Mapping[str, str]) -> Search:
    """Read the parameters. Raises RefusedError (422) without ``count`` and ``offset``, or beyond their limits."""
    numbers = [query.get(name, "") for name in ("count", "offset")]
    if not all(number.isdecimal() for number in numbers):
        raise RefusedError(WRONG_SEARCH)
    count, offset = map(int, numbers)
    metadata = [(name.removeprefix("metadata_"), value) for name, value in query.items() if name[:9] == "metadata_"]
    if count > SEARCH_LIMIT or count + offset > SEARCH_DEPTH or len(metadata) > 1:
        raise RefusedError(WRONG_SEARCH)
    filters: dict[str, Any] = {FILTERS[name]: value for name, value in query.items() if name in FILTERS}
    for name, value in metadata:
        filters |= {"message_id": value} if name == "message_id" else {"metadata": (name, value)}
    return Search(count, offset, filters)


API = Api(
    name=NAME,
    authorize=authorize,
    paths={"email": read_one, "email/batch": read_batch},
    mail=read,
    message_ids=message_ids,
    bad_json=BAD_JSON,
    rate_limited=RATE_LIMITED,
    unavailable=UNAVAILABLE,
)
