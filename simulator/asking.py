"""Reports that somebody asks for: of a mail that was taken here, or of any other by the provider's id for it."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from simulator.faults import Faults, FaultsError
from simulator.mail import Mail
from simulator.reports import REPORTS, Happening

# Finds a mail of a provider by its id.
Find = Callable[[str, str], Awaitable[Mail | None]]

JSON = {str: "string", list: "array", int: "number", dict: "object"}
FIELDS = {"provider": str, "reports": list, "batch": int, "faults": dict}
REPORT = {
    "mail": str,
    "happening": str,
    "to": str,
    "at": str,
    "from": str,
    "subject": str,
    "metadata": dict,
    "tags": list,
}


class AskedError(ValueError):
    """A request for reports that cannot be met; the message says why."""


@dataclass(frozen=True)
class Asked:
    """What is to be told, up to ``batch`` events at once; ``faults`` are None where those in force hold."""

    happened: list[Happening]
    batch: int
    faults: Faults | None


async def read(payload: Any, posted_to: Collection[str], find: Find) -> Asked:
    """Read ``{provider, reports: [{mail, happening, to, at, from, subject, metadata, tags}], batch, faults}``.

    ``mail`` is the provider's id. Of a mail that was taken here the rest is known, and ``to`` narrows it to one of its
    recipients; of another one ``to`` is needed. ``at`` is now unless it is given, RFC 3339. Raises AskedError.
    """
    _check(payload, FIELDS, "a request for reports")
    provider = payload.get("provider", "")
    if provider not in REPORTS:
        raise AskedError(f"unknown provider {provider!r}; known: {', '.join(REPORTS)}")
    if provider not in posted_to:
        raise AskedError(f"nowhere to post to: set SIMULATOR_{provider.upper()}_WEBHOOK")
    happened = [each for report in payload.get("reports", []) for each in await _happened(provider, report, find)]
    if not happened:
        raise AskedError("reports must name at least one")
    try:
        faults = Faults.read(payload["faults"]) if "faults" in payload else None
    except FaultsError as error:
        raise AskedError(str(error)) from error
    return Asked(happened, payload.get("batch", 1), faults)


async def _happened(provider: str, report: Any, find: Find) -> list[Happening]:
    _check(report, REPORT, "a report")
    words = REPORTS[provider].events
    if (word := report.get("happening", "")) not in words:
        raise AskedError(f"{provider} tells nothing of {word!r}; known: {', '.join(words)}")
    mail = await find(provider, report.get("mail", "")) or _foreign(provider, report)
    return [Happening(mail, to, word, _time(report)) for to in ([report["to"]] if "to" in report else mail.recipients)]


def _foreign(provider: str, report: dict[str, Any]) -> Mail:
    """Make a mail that somebody else has taken, as far as it is described."""
    if not report.get("mail") or not report.get("to"):
        raise AskedError("no such mail was taken here: mail (the provider's id) and to must both be given")
    return Mail(
        provider=provider,
        sender=report.get("from", "sender@example.com"),
        recipients=[report["to"]],
        subject=report.get("subject", ""),
        text="",
        html="",
        headers={},
        metadata={name: str(value) for name, value in report.get("metadata", {}).items()},
        payload={},
        tags=[str(tag) for tag in report.get("tags", [])],
        id=report["mail"],
    )


def _time(report: dict[str, Any]) -> datetime:
    if "at" not in report:
        return datetime.now(UTC)
    try:
        time = datetime.fromisoformat(report["at"])
    except ValueError as error:
        raise AskedError("at must be an RFC 3339 time") from error
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _check(value: Any, kinds: Mapping[str, type], what: str) -> None:
    if not isinstance(value, dict):
        raise AskedError(f"{what} must be a JSON object")
    for name, each in value.items():
        if name not in kinds:
            raise AskedError(f"unknown field {name!r} of {what}; known: {', '.join(kinds)}")
        if type(each) is not kinds[name]:
            raise AskedError(f"{name} of {what} must be a JSON {JSON[kinds[name]]}")
