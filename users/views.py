"""The pages behind the links: GET shows a button, POST presses it."""

import math
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar, Final

from django.conf import settings
from django.contrib.auth import password_validation
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.template import TemplateDoesNotExist
from django.template.loader import get_template, render_to_string
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.safestring import mark_safe
from django.utils.translation import get_language
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_post_parameters

from users import challenges, credentials, limits, registration
from users.addresses import of_person
from users.challenges import Outcome
from users.models import MAX_PASSWORD, EmailChallenge

Purpose = EmailChallenge.Purpose


@dataclass(frozen=True, slots=True)
class State:
    """How a page looks: its status, for programs; the sign over its heading; whose form follows its words."""

    name: str
    status: int
    mark: str = ""
    form: str = ""


OWN: Final = "own"
NEW_LINK: Final = "new_link"

ASK: Final = State("ask", 200, form=OWN)
REFUSED: Final = State("ask", 400, form=OWN)
WAIT: Final = State("wait", 429, "trouble", OWN)
ASKED: Final = State("asked", 202, "done")
STATES: Final[Mapping[Outcome | None, State]] = {
    None: ASK,
    Outcome.VERIFIED: State("verified", 200, "done"),
    Outcome.ALREADY_VERIFIED: State("already_verified", 200, "done"),
    Outcome.DONE: State("done", 200, "done"),
    Outcome.USED: State("used", 410, "trouble", NEW_LINK),
    Outcome.EXPIRED: State("expired", 410, "trouble", NEW_LINK),
    Outcome.INVALID: State("invalid", 404, "trouble", NEW_LINK),
}
# What a link is that was good once: who holds it may have a new one without typing the address.
OVER: Final = {Outcome.USED, Outcome.EXPIRED}


@method_decorator([never_cache, csrf_exempt], name="dispatch")
class Page(View):
    """A page for somebody who has a mail and is not logged in: its words stand in `users/<language>/<folder>/`.

    No session stands behind it, so there is none to forge a request in: who has the token may press the button. With
    `no-referrer` browsers send `Origin: null`, which Django's check against forgery refuses.
    """

    http_method_names = ("get", "head", "post", "options")
    folder: ClassVar[str]
    limit: ClassVar[str]  # of `settings.THROTTLES`, by client, for each press of the button
    new_link: ClassVar[str] = ""  # the URL's name of the page that sends a new link, where there is one
    purpose: ClassVar[EmailChallenge.Purpose]

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Answer the request, or say how long to wait until the button may be pressed again."""
        if request.method == "POST":
            seconds = limits.wait(self.limit, limits.client_key(request.META.get("REMOTE_ADDR", "")))
            if seconds:
                return self.show_wait(request, math.ceil(seconds))
        return super().dispatch(request, *args, **kwargs)

    def show_wait(self, request: HttpRequest, seconds: int) -> HttpResponse:
        """Show how long to wait, and the button again."""
        typed = {name: request.POST.get(name, "") for name in ("token", "email")}
        more = {"seconds": seconds, "minutes": math.ceil(seconds / 60)}
        response = self.show(request, WAIT, **typed, **more)
        response["Retry-After"] = str(seconds)
        return response

    def show(self, request: HttpRequest, state: State, **context: Any) -> HttpResponse:
        """Show a state of the page, in the browser's language as Django's LocaleMiddleware found it out."""
        language = self._language()
        # What is over the form may be another page's: what is said to everybody, and what sends a new link.
        words = "wait" if state is WAIT else self.folder
        form = {OWN: self.folder, NEW_LINK: self.new_link and "new_link"}.get(state.form)
        style = render_to_string("users/page.css")
        context |= {
            "language": language,
            "site_name": settings.SITE_NAME,
            "purpose": self.purpose.value,
            "state": state.name,
            "mark": state.mark,
            "style": mark_safe(style),  # noqa: S308  # a file of ours
            "heading": f"users/{language}/{words}/heading.txt",
            "words": f"users/{language}/{words}/words.html",
            "form": form and f"users/{language}/{form}/form.html",
            "action": self.new_link and reverse(self.new_link),
        }
        response = render(request, "users/page.html", context, status=state.status)
        response["Referrer-Policy"] = "no-referrer"  # the address of this page may hold a token
        response["Content-Security-Policy"] = (
            f"default-src 'none'; style-src 'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        return response

    def _language(self) -> str:
        spoken = get_language() or settings.LANGUAGE_CODE
        for language in (spoken, spoken.partition("-")[0]):
            try:
                get_template(f"users/{language}/{self.folder}/words.html")
            except TemplateDoesNotExist:  # a fork may write mails in more languages than pages
                continue
            return language
        return settings.LANGUAGE_CODE


class LinkPage(Page):
    """Do what a link is for by a press of a button, since mail scanners open every link."""

    limit = "verify_ip"

    def get(self, request: HttpRequest) -> HttpResponse:
        """Show what the link is for. Changes nothing: GET and HEAD come from scanners, too."""
        token = request.GET.get("token", "")
        _, outcome = challenges.look_up(token, self.purpose)
        return self.show_outcome(request, outcome, token)

    def post(self, request: HttpRequest) -> HttpResponse:
        """Consume the challenge and show what became of it."""
        token = request.POST.get("token", "")
        return self.show_outcome(request, self.consume(token), token)

    def consume(self, token: str) -> Outcome:
        """Do what the link is for."""
        raise NotImplementedError

    def show_outcome(self, request: HttpRequest, outcome: Outcome | None, token: str) -> HttpResponse:
        """Show what became of a link, or its button; its token only where a button needs it."""
        return self.show(request, STATES[outcome], token=token if outcome is None or outcome in OVER else "")


class VerifyEmailPage(LinkPage):
    """Verify an address."""

    purpose = Purpose.VERIFY_EMAIL
    folder = "verify_email"
    new_link = "users:verify-email-new-link"

    def consume(self, token: str) -> Outcome:
        """Verify the address behind the link."""
        return registration.verify(token)


class ChangeEmailPage(LinkPage):
    """Confirm the new address of an account.

    It sends no new link: an address with a slip in it is a stranger's, who has the link, and may have it for its time
    only. Who is logged in asks for the change again.
    """

    purpose = Purpose.CHANGE_EMAIL
    folder = "change_email"

    def consume(self, token: str) -> Outcome:
        """Give the account the address behind the link."""
        return credentials.confirm_change(token)


@method_decorator(sensitive_post_parameters(), name="dispatch")
class ResetPasswordPage(LinkPage):
    """Set a new password."""

    purpose = Purpose.RESET_PASSWORD
    folder = "reset_password"
    new_link = "users:reset-password-new-link"

    def post(self, request: HttpRequest) -> HttpResponse:
        """Set the password that was typed, or say what is wrong with it; the link is used up by the former alone."""
        token, password = request.POST.get("token", ""), request.POST.get("password", "")
        challenge, outcome = challenges.look_up(token, self.purpose)
        if outcome is None:
            try:
                password_validation.validate_password(password[:MAX_PASSWORD], challenge.user if challenge else None)
            except ValidationError as error:
                return self.show(request, REFUSED, token=token, errors=error.error_list)
            outcome = credentials.reset_password(token, password[:MAX_PASSWORD])
        return self.show_outcome(request, outcome, token)


class NewLinkPage(Page):
    """Send a new link: to the address of one that is over, or to one that is typed.

    The page says the same whether or not a mail leaves, and whether or not the address has an account.
    """

    limit = "mail_ip"
    folder = "new_link"

    def get(self, request: HttpRequest) -> HttpResponse:
        """Ask for the address."""
        return self.show(request, ASK)

    def post(self, request: HttpRequest) -> HttpResponse:
        """Have a link sent, if the last one is not too young."""
        token, typed = request.POST.get("token", ""), request.POST.get("email", "")
        challenge, outcome = challenges.look_up(token, self.purpose)
        if challenge is not None and outcome in OVER:
            self.renew(challenge)
            return self.show(request, ASKED)
        if token:  # it is of no use here, so the address has to be typed
            return self.show(request, ASK)
        try:
            address = of_person(typed)
        except ValidationError as error:
            return self.show(request, REFUSED, email=typed, errors=error.error_list)
        self.send(address)
        return self.show(request, ASKED)

    def renew(self, over: EmailChallenge) -> None:
        """Have a new link sent in the place of one that is over."""
        self.send(over.email)

    def send(self, address: str) -> None:
        """Have a new link sent to a canonical address, if there is anybody to write to."""
        raise NotImplementedError


class NewVerificationPage(NewLinkPage):
    """Send a new link to verify an address."""

    purpose = Purpose.VERIFY_EMAIL
    new_link = "users:verify-email-new-link"

    def renew(self, over: EmailChallenge) -> None:
        """Renew the registration that the link belongs to: others may have registered the address since."""
        registration.renew(over)

    def send(self, address: str) -> None:
        """Renew the last registration of the address."""
        registration.request_verification(address)


class NewResetPage(NewLinkPage):
    """Send a new link to choose a password."""

    purpose = Purpose.RESET_PASSWORD
    new_link = "users:reset-password-new-link"

    def send(self, address: str) -> None:
        """Send it to the active owner of the address."""
        credentials.request_reset(address)
