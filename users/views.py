"""The pages behind the links: GET shows a button, POST presses it."""

from collections.abc import Sequence
from typing import ClassVar

from django.contrib.auth import password_validation
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.decorators import method_decorator
from django.utils.translation import get_language
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_post_parameters

from users import challenges, credentials, registration
from users.challenges import Outcome
from users.models import MAX_PASSWORD, EmailChallenge

Purpose = EmailChallenge.Purpose

# The page's status for each outcome: a person sees the page, a program the number.
STATUS = {
    None: 200,
    Outcome.VERIFIED: 200,
    Outcome.ALREADY_VERIFIED: 200,
    Outcome.DONE: 200,
    Outcome.USED: 410,
    Outcome.EXPIRED: 410,
    Outcome.INVALID: 404,
}


@method_decorator([never_cache, csrf_exempt], name="dispatch")
class LinkPage(View):
    """Do what a link is for by a press of a button, since mail scanners open every link.

    No session stands behind it, so there is none to forge a request in: who has the token may press the button. With
    `no-referrer` browsers send `Origin: null`, which Django's check against forgery refuses.
    """

    http_method_names = ("get", "head", "post", "options")
    purpose: ClassVar[EmailChallenge.Purpose]
    template: ClassVar[str]

    def get(self, request: HttpRequest) -> HttpResponse:
        """Show what the link is for. Changes nothing: GET and HEAD come from scanners, too."""
        token = request.GET.get("token", "")
        _, outcome = challenges.look_up(token, self.purpose)
        return self._page(request, outcome, token)

    def post(self, request: HttpRequest) -> HttpResponse:
        """Consume the challenge and show what became of it."""
        return self._page(request, self.consume(request.POST.get("token", "")))

    def consume(self, token: str) -> Outcome:
        """Do what the link is for."""
        raise NotImplementedError

    def _page(
        self, request: HttpRequest, outcome: Outcome | None, token: str = "", errors: Sequence[str] = ()
    ) -> HttpResponse:
        context = {"outcome": outcome and outcome.value, "token": token, "errors": errors}
        # The browser's language where the page is there in it, as Django's LocaleMiddleware found out.
        pages = [f"users/{get_language()}/{self.template}", f"users/{self.template}"]
        response = render(request, pages, context, status=400 if errors else STATUS[outcome])
        response["Referrer-Policy"] = "no-referrer"  # the address of this page holds the token
        response["Content-Security-Policy"] = (
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        return response


class VerifyEmailPage(LinkPage):
    """Verify an address."""

    purpose = Purpose.VERIFY_EMAIL
    template = "verify_email.html"

    def consume(self, token: str) -> Outcome:
        """Verify the address behind the link."""
        return registration.verify(token)


class ChangeEmailPage(LinkPage):
    """Confirm the new address of an account."""

    purpose = Purpose.CHANGE_EMAIL
    template = "change_email.html"

    def consume(self, token: str) -> Outcome:
        """Give the account the address behind the link."""
        return credentials.confirm_change(token)


@method_decorator(sensitive_post_parameters(), name="dispatch")
class ResetPasswordPage(LinkPage):
    """Set a new password."""

    purpose = Purpose.RESET_PASSWORD
    template = "reset_password.html"

    def post(self, request: HttpRequest) -> HttpResponse:
        """Set the password that was typed, or say what is wrong with it; the link is used up by the former alone."""
        token, password = request.POST.get("token", ""), request.POST.get("password", "")
        challenge, outcome = challenges.look_up(token, self.purpose)
        if outcome is None:
            try:
                password_validation.validate_password(password[:MAX_PASSWORD], challenge.user if challenge else None)
            except ValidationError as error:
                return self._page(request, None, token, error.messages)
            outcome = credentials.reset_password(token, password[:MAX_PASSWORD])
        return self._page(request, outcome)
