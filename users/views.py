"""The page behind the link: GET shows a button, POST presses it."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.decorators import method_decorator
from django.utils.translation import get_language
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt

from users import challenges
from users.challenges import Outcome

# The page's status for each outcome: a person sees the page, a program the number.
STATUS = {
    None: 200,
    Outcome.VERIFIED: 200,
    Outcome.ALREADY_VERIFIED: 200,
    Outcome.EXPIRED: 410,
    Outcome.INVALID: 404,
}


@method_decorator([never_cache, csrf_exempt], name="dispatch")
class VerifyEmailPage(View):
    """Verify an address by a press of a button, since mail scanners open every link.

    No session stands behind it, so there is none to forge a request in: who has the token may press the button. With
    `no-referrer` browsers send `Origin: null`, which Django's check against forgery refuses.
    """

    http_method_names = ("get", "head", "post", "options")

    def get(self, request: HttpRequest) -> HttpResponse:
        """Show what the link is for. Changes nothing: GET and HEAD come from scanners, too."""
        token = request.GET.get("token", "")
        _, outcome = challenges.look_up(token)
        return self._page(request, outcome, token)

    def post(self, request: HttpRequest) -> HttpResponse:
        """Consume the challenge and show what became of it."""
        return self._page(request, challenges.consume(request.POST.get("token", "")))

    @staticmethod
    def _page(request: HttpRequest, outcome: Outcome | None, token: str = "") -> HttpResponse:
        context = {"outcome": outcome and outcome.value, "token": token}
        # The browser's language where the page is there in it, as Django's LocaleMiddleware found out.
        pages = [f"users/{get_language()}/verify_email.html", "users/verify_email.html"]
        response = render(request, pages, context, status=STATUS[outcome])
        response["Referrer-Policy"] = "no-referrer"  # the address of this page holds the token
        response["Content-Security-Policy"] = (
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        return response
