"""What each kind of mail is: how urgent, how long it makes sense, and what it says."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.template import TemplateDoesNotExist
from django.template.loader import get_template
from django.urls import reverse
from django.utils import translation
from django.utils.http import urlencode

from mailer.exceptions import RenderError
from mailer.models import Message, Suppression
from users import challenges
from users.models import EmailChallenge

# The templates of a kind, in `templates/mailer/<kind>/` for LANGUAGE_CODE, in a folder of it for any other language.
PARTS: Final = ("subject.txt", "body.txt", "body.html")

# Lower goes first.
PRIORITY: Final = {"now": 0, "high": 10, "medium": 20, "low": 30}


@dataclass(frozen=True, slots=True)
class Content:
    """What a message says, as it is frozen at the first intent."""

    subject: str
    text: str
    html: str
    from_email: str


def _nothing(_: Sequence[Message]) -> Mapping[UUID, Any]:
    return {}


def _none(_message: Message, _found: Any) -> Mapping[str, Any]:
    return {}


def _challenges(messages: Sequence[Message]) -> Mapping[UUID, EmailChallenge]:
    ids: dict[UUID, UUID] = {}
    for message in messages:
        with suppress(KeyError, TypeError, ValueError):  # it does not render, and the others do
            ids[message.pk] = UUID(message.context["challenge_id"])
    known = EmailChallenge.objects.in_bulk(set(ids.values()))
    return {message: known[challenge] for message, challenge in ids.items() if challenge in known}


# The page that a link opens, by the purpose of its challenge.
PAGES: Final[Mapping[str, str]] = {
    EmailChallenge.Purpose.VERIFY_EMAIL: "users:verify-email",
    EmailChallenge.Purpose.CHANGE_EMAIL: "users:change-email",
    EmailChallenge.Purpose.RESET_PASSWORD: "users:reset-password",
}


def _link(_: Message, challenge: EmailChallenge | None) -> Mapping[str, Any]:
    """Derive link and code from the challenge: the same ones however often it is rendered."""
    if challenge is None:
        raise RenderError("its challenge is gone")
    query = urlencode({"token": challenges.link_token(challenge)})
    lifetime = challenge.expires_at - challenge.created_at
    code = challenges.code(challenge)
    return {
        "link": f"{settings.PUBLIC_URL}{reverse(PAGES[challenge.purpose])}?{query}",
        "code": f"{code[:4]} {code[4:]}",
        # Never more than is kept: the hours of one that lives for less are 0, and the minutes count.
        "hours": lifetime // timedelta(hours=1),
        "minutes": lifetime // timedelta(minutes=1),
    }


def _new_password(_message: Message, _found: Any) -> Mapping[str, Any]:
    """Name the page where a new password is asked for."""
    return {"link": f"{settings.PUBLIC_URL}{reverse('users:reset-password-new-link')}"}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of mail.

    `secret`: its content must not outlive the message, since it holds a link's token. `at_least_once`: where nothing
    tells whether it was accepted it is sent again, rather than perhaps never. `despite`: reasons for which an address
    is suppressed that do not hold it back.
    Without `rendered` there is no template: the content is given when the message is enqueued. `gather` fetches what
    the `variables` of many messages are made of, by message, in one query; each message is given its own.
    """

    priority: int
    secret: bool = False
    at_least_once: bool = False
    despite: frozenset[str] = frozenset()
    rendered: bool = True
    lifetime: timedelta | None = None
    gather: Callable[[Sequence[Message]], Mapping[UUID, Any]] = field(default=_nothing)
    variables: Callable[[Message, Any], Mapping[str, Any]] = field(default=_none)


# Mails about an account's safety go to those, too, who want no others; not to an address that does not exist.
ACCOUNT: Final = frozenset({Suppression.Reason.COMPLAINT.value, Suppression.Reason.UNSUBSCRIBE.value})

# What happened to an account: its owner may have to act, so it is said for days and rather twice than never.
_NOTICE: Final = Kind(PRIORITY["high"], at_least_once=True, despite=ACCOUNT, lifetime=timedelta(days=3))

KINDS: Final[dict[str, Kind]] = {
    "verification": Kind(
        PRIORITY["now"], secret=True, at_least_once=True, despite=ACCOUNT, gather=_challenges, variables=_link
    ),
    "account_exists": Kind(PRIORITY["high"], at_least_once=True, despite=ACCOUNT, lifetime=timedelta(hours=8)),
    "password_reset": Kind(
        PRIORITY["now"], secret=True, at_least_once=True, despite=ACCOUNT, gather=_challenges, variables=_link
    ),
    "email_change": Kind(
        PRIORITY["now"], secret=True, at_least_once=True, despite=ACCOUNT, gather=_challenges, variables=_link
    ),
    "email_change_requested": _NOTICE,
    "email_changed": _NOTICE,
    "password_changed": replace(_NOTICE, variables=_new_password),
    "welcome": Kind(PRIORITY["medium"], lifetime=timedelta(days=3)),
    "custom": Kind(PRIORITY["medium"], rendered=False),
    "test": Kind(PRIORITY["high"], lifetime=timedelta(hours=1)),
}


def rules_of(kind: str) -> Kind:
    """Return the rules of a kind; for one that this release does not know, as after a rollback, the cautious ones."""
    return KINDS.get(kind, _UNKNOWN)


_UNKNOWN: Final = Kind(PRIORITY["medium"])


def gather(messages: Sequence[Message]) -> dict[UUID, Any]:
    """Return what `render` needs of the database for each of these messages, by its id: a query a kind."""
    found: dict[UUID, Any] = {}
    for kind in {message.kind for message in messages}:
        found |= rules_of(kind).gather([message for message in messages if message.kind == kind])
    return found


def render(message: Message, found: Mapping[UUID, Any] | None = None) -> dict[str, Any]:
    """Return the `Content` of a message in its recipient's language, as a dictionary. Raises `RenderError`.

    `found` is what `gather` has found for it and others; without that it is fetched here.
    """
    if message.kind in KINDS and not KINDS[message.kind].rendered:
        raise RenderError(f"{message.kind}: its content is gone")
    try:
        kind = KINDS[message.kind]
        language, (subject, text, html) = _templates(message)
        own = (gather([message]) if found is None else found).get(message.pk)
        with translation.override(language):
            variables = {"site_name": settings.SITE_NAME, **kind.variables(message, own)}
            variables["subject"] = " ".join(subject.render(variables).split())
            content = Content(
                subject=variables["subject"],
                text=text.render(variables).strip() + "\n",
                html=html.render(variables).strip() + "\n",
                from_email=settings.DEFAULT_FROM_EMAIL,
            )
    except (RenderError, OperationalError, InterfaceError):
        raise  # a lost database says nothing about the message
    except Exception as error:
        # Tags and filters may raise anything; whatever it is, it concerns this one message and no other.
        raise RenderError(f"{message.kind}: {type(error).__name__}") from error
    return asdict(content)


def _templates(message: Message) -> tuple[str, Sequence[Any]]:
    """Return a message's language and its kind's parts in it: the first language that has them all, so never in two.

    Raises `TemplateDoesNotExist` where not even the default has them.
    """
    *better, default = languages(message.locale)
    for language in better:
        with suppress(TemplateDoesNotExist):
            return language, [get_template(f"mailer/{message.kind}/{language}/{part}") for part in PARTS]
    return default, [get_template(f"mailer/{message.kind}/{part}") for part in PARTS]


def languages(locale: str) -> list[str]:
    """Return the languages to try for a locale, best first, LANGUAGE_CODE last: `de-at`, `de`, `en` for `de-AT`.

    The first is the one of LANGUAGES that comes closest to it.
    """
    try:
        spoken = translation.get_supported_language_variant(translation.to_language(locale))
    except (LookupError, ValueError):
        spoken = settings.LANGUAGE_CODE
    better = dict.fromkeys((spoken, spoken.partition("-")[0]))
    return [*(language for language in better if language != settings.LANGUAGE_CODE), settings.LANGUAGE_CODE]
