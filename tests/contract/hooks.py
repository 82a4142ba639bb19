"""What schemathesis loads (SCHEMATHESIS_HOOKS): who asks, with what only they know, and what no schema can say."""

import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import django
import schemathesis

django.setup()

from tests.contract import people  # noqa: E402  # its models want Django to be set up
from users import registration  # noqa: E402

CALLER = people.caller()

# Refusals of what is well-formed, by their code, or by where they are and their code: why no schema can tell.
BEYOND_SCHEMAS = {
    "wrong_password": "which one is right, only the account knows",
    "password_too_common": "it is one of a list of 20,000",
    "password_too_similar": "it depends on the address",
    "password_of_service_words": "it depends on the service's name",
    "blank": "of white space alone; what is one, the patterns of schemas and Python see differently",
    ("#/cursor", "invalid"): "it is opaque: any text but what was handed out is refused",
    ("cursor", "invalid"): "the same",
}
# Where a link's token is taken -> what for.
LINKS = {
    "/api/v1/accounts/verify-email": "verify_email",
    "/api/v1/accounts/email-change/confirm": "change_email",
    "/api/v1/accounts/password-reset/confirm": "reset_password",
}
KNOWING_THE_PASSWORD = {"/api/v1/accounts/me", "/api/v1/accounts/me/email", "/api/v1/accounts/me/password"}

_cursors: dict[str, str] = {}
# Schemathesis asks from ever new threads, each of which would have a connection to the database of its own.
_database = ThreadPoolExecutor(1)
_turns = itertools.count()


def of_database(work, *arguments):
    return _database.submit(work, *arguments).result()


@schemathesis.auth(refresh_interval=None).apply_to(operation_id="registration")
class StatusToken:
    """The token of whatever registration is named: the right one, as only who registered has it."""

    def get(self, case, _):
        try:
            return registration.status_token(UUID(case.path_parameters["id"]))
        except (ValueError, TypeError, AttributeError, KeyError):
            return None  # no registration has such an id

    def set(self, case, data, _):
        case.headers = {**case.headers, "Authorization": f"Bearer {data}"}


if CALLER:

    @schemathesis.auth(refresh_interval=None).skip_for(operation_id="registration")
    class Token:
        """The caller's, made anew where a request has revoked it."""

        def get(self, *_):
            return of_database(CALLER.token)

        def set(self, case, data, _):
            case.headers = {**case.headers, "Authorization": f"Token {data}"}


@schemathesis.hook
def before_call(_, case, kwargs):
    """Put what only the caller can know in the place of what was made up, where a request is to be a good one."""
    del kwargs
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    path, turn = case.operation.path, next(_turns)
    if isinstance(case.body, dict):
        if CALLER and path == "/api/v1/auth/tokens":
            # With one of somebody else's, the caller could not do what the links of the answer lead to.
            case.body = {**case.body, "email": CALLER.email, "password": people.PASSWORD}
        if "password" in case.body and path in KNOWING_THE_PASSWORD:
            case.body = {**case.body, "password": people.PASSWORD}
        if "token" in case.body and path in LINKS and turn % 4:
            case.body = {**case.body, "token": of_database(people.link_token, LINKS[path])}
    if case.path_parameters and turn % 4:
        case.path_parameters = {**case.path_parameters, **of_database(people.known, path, CALLER, turn)}
        if "registrations" in path:
            StatusToken().set(case, StatusToken().get(case, None), None)
    if "cursor" in (case.query or {}) and path in _cursors:
        case.query = {**case.query, "cursor": _cursors[path]}


@schemathesis.hook
def after_call(_, case, response):
    """Remember the newest cursor of each list."""
    if found := re.search(rb'"next":"[^"]*[?&]cursor=([\w%]+)', response.content):
        _cursors[case.operation.path] = found[1].decode()


@schemathesis.hook
def filter_failure(_, failure, case, response):
    """Let a refusal of what is well-formed pass where a schema cannot tell."""
    del case
    if type(failure).__name__ != "RejectedPositiveData" or response.status_code != 400:
        return True
    places = [(error.get("pointer") or error.get("parameter"), error["code"]) for error in response.json()["errors"]]
    return not places or not all(BEYOND_SCHEMAS.keys() & {place, place[1]} for place in places)
