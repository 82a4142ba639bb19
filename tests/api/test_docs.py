"""docs/api.md: every command in it runs, and answers what it says."""

import json
import re
import shlex
import string
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from knox.models import AuthToken

from api.deliveries import DeliveryFilter
from api.schema import PROBLEMS
from mailer.kinds import KINDS
from mailer.models import DeliveryStatus
from mailer.providers import PROVIDERS
from mailer.status import Status
from tests.api.conftest import make_user, post
from tests.conftest import PATIENCE, ROOT
from users import challenges
from users.models import EmailChallenge

PERMISSIONS = ("view_deliverystatus", "view_webhookreceipt", "change_webhookreceipt", "view_auditentry")
PAGE = (ROOT / "docs" / "api.md").read_text()


class Example(NamedTuple):
    command: str
    status: int
    answer: str


EXAMPLES = [
    Example(command, int(status), answer)
    for command, status, answer in re.findall(
        r"```sh\n(curl .*?)\n```\n\n(\d{3}):?\n(?:\n```json\n(.*?)\n```)?", PAGE, re.DOTALL
    )
]


def request_of(command, variables):
    """Read a command as a shell and curl would. Fails for an option that is not known here."""
    words = iter(shlex.split(string.Template(command.replace("\\\n", " ")).substitute(variables))[1:])
    url, method, headers, data, query = "", None, {}, [], False
    for word in words:
        match word:
            case "-X":
                method = next(words)
            case "-H":
                name, _, value = next(words).partition(": ")
                headers[name] = value
            case "-d":
                data.append(next(words))
            case "-G":
                query = True
            case _:
                assert not word.startswith("-"), word
                url = word
    if query:
        return Request(f"{url}?{urlencode([tuple(one.split('=', 1)) for one in data])}", headers=headers)
    return Request(url, data="&".join(data).encode() or None, headers=headers, method=method)


def answer_to(request):
    try:
        with urlopen(request, timeout=PATIENCE) as response:
            return response.status, json.loads(response.read())
    except HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def agree(shown, answer):
    """Tell whether an answer has the names of the one shown, in that order, and values of the same kinds."""
    match shown:
        case dict():
            return [*shown] == [*answer] and all(agree(shown[name], answer[name]) for name in shown)
        case list():
            return all(agree(one, answer[0]) for one in shown)
        case _:
            return None in (shown, answer) or type(shown) is type(answer)


class Variables(dict):
    """What the examples take from earlier answers, from the mail, and from an administrator."""

    def __init__(self, url):
        super().__init__(URL=url)

    def __missing__(self, name):
        match name:
            case "LINK_TOKEN":
                value = challenges.link_token(EmailChallenge.objects.get())
            case "DELIVERY_ID":
                value = DeliveryStatus.objects.first().pk
            case "OPERATOR_TOKEN":
                user = make_user("operator@example.net", *PERMISSIONS)
                value = AuthToken.objects.create(user=user)[1]
            case "RECEIPT_ID":
                value = post(DeliveryStatus.objects.first()).pk
            case _:
                raise KeyError(name)
        return self.setdefault(name, value)


@pytest.fixture
def variables(live_server):
    return Variables(live_server.url)


def test_examples_run_one_after_the_other_and_answer_as_shown(variables):
    for example in EXAMPLES:
        status, answer = answer_to(request_of(example.command, variables))

        assert status == example.status, (example.command, answer)
        variables |= {name.upper(): answer[name] for name in {"token", "registration_id", "status_token"} & {*answer}}
        if example.answer:
            assert agree(json.loads(example.answer), answer), (example.command, answer)


def test_every_command_is_an_example_with_its_answer():
    assert len(EXAMPLES) == PAGE.count("curl ") == 16


def rows_of(heading):
    """Return the rows of the table with this heading, as lists of what is between backticks in each column."""
    lines = PAGE[PAGE.index(heading) :].split("\n\n")[0].splitlines()[2:]
    return [[re.findall(r"`([^`]+)`", column) for column in line.strip("|").split("|")] for line in lines]


def test_table_of_problems_is_complete():
    statuses = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", PAGE, re.MULTILINE)

    assert {code: int(status) for status, code in statuses} == {code: status for code, (status, _) in PROBLEMS.items()}


def test_table_of_statuses_is_complete():
    named = [status for row in rows_of("| `status` | means |") for status in row[0]]

    assert sorted(named) == sorted(Status)


def test_table_of_filters_is_complete():
    values = {name: row[1] for row in rows_of("| Filter | Matches |") for name in row[0]}

    assert {*values} == {*DeliveryFilter.base_filters}
    assert values["kind"] == [*KINDS]
    assert values["provider"] == [*PROVIDERS]
