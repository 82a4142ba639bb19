"""What each kind of mail is: how urgent, how long it makes sense, and what it says."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ValidationError
from django.template import TemplateDoesNotExist, TemplateSyntaxError, VariableDoesNotExist
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils import translation
from django.utils.http import urlencode

from mailer.exceptions import RenderError
from mailer.models import Message, Suppression
from users import challenges
from users.models import EmailChallenge

# What tags, filters and a message's own context can raise. Not a lost database: that says nothing about a message.
BROKEN: Final = (
    *(TemplateDoesNotExist, TemplateSyntaxError, VariableDoesNotExist, NoReverseMatch, ValidationError),
    *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
)

# Lower goes first.
PRIORITY: Final = {"now": 0, "high": 10, "medium": 20, "low": 30}


@dataclass(frozen=True, slots=True)
class Content:
    """What a message says, as it is frozen at the first intent."""

    subject: str
    text: str
    html: str
    from_email: str


def _none(_: Message) -> Mapping[str, Any]:
    return {}


def _link(message: Message) -> Mapping[str, Any]:
    """Derive the link from the challenge: the same one however often it is rendered."""
    try:
        challenge = EmailChallenge.objects.get(pk=message.context["challenge_id"])
    except EmailChallenge.DoesNotExist:
        raise RenderError("its challenge is gone") from None
    query = urlencode({"token": challenges.link_token(challenge)})
    hours = round((challenge.expires_at - challenge.created_at) / timedelta(hours=1))
    return {"link": f"{settings.PUBLIC_URL}{reverse('users:verify-email')}?{query}", "hours": hours}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of mail.

    `secret`: its content must not outlive the message, since it holds a link's token. `at_least_once`: where nothing
    tells whether it was accepted it is sent again, rather than perhaps never. `despite`: reasons for which an address
    is suppressed that do not hold it back.
    Without `rendered` there is no template: the content is given when the message is enqueued.
    """

    priority: int
    secret: bool = False
    at_least_once: bool = False
    despite: frozenset[str] = frozenset()
    rendered: bool = True
    lifetime: timedelta | None = None
    variables: Callable[[Message], Mapping[str, Any]] = field(default=_none)


# Mails about an account's safety go to those, too, who want no others; not to an address that does not exist.
ACCOUNT: Final = frozenset({Suppression.Reason.COMPLAINT.value, Suppression.Reason.UNSUBSCRIBE.value})

KINDS: Final[dict[str, Kind]] = {
    "verification": Kind(PRIORITY["now"], secret=True, at_least_once=True, despite=ACCOUNT, variables=_link),
    "welcome": Kind(PRIORITY["medium"], lifetime=timedelta(days=3)),
    "account_exists": Kind(PRIORITY["high"], at_least_once=True, despite=ACCOUNT, lifetime=timedelta(hours=8)),
    "custom": Kind(PRIORITY["medium"], rendered=False),
}


def render(message: Message) -> dict[str, Any]:
    """Return the `Content` of a message, as a dictionary. Raises `RenderError`."""
    if message.kind in KINDS and not KINDS[message.kind].rendered:
        raise RenderError(f"{message.kind}: its content is gone")
    with translation.override(message.locale):
        try:
            variables = {"site_name": settings.SITE_NAME, **KINDS[message.kind].variables(message)}
            subject, text, html = (
                render_to_string(f"mailer/{message.kind}/{part}", variables)
                for part in ("subject.txt", "body.txt", "body.html")
            )
        except BROKEN as error:
            raise RenderError(f"{message.kind}: {type(error).__name__}") from error
    content = Content(
        subject=" ".join(subject.split()),
        text=text.strip() + "\n",
        html=html.strip() + "\n",
        from_email=settings.DEFAULT_FROM_EMAIL,
    )
    return asdict(content)
