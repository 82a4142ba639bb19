"""What is in the logs, and what never is: lines of real processes."""

import json
import os
import re
import subprocess
import sys

import pytest
from django.db import IntegrityError

from mailer import outbox
from project.logging import LONGEST, WORD, redact
from project.valkey import Valkey
from tests.conftest import ROOT, running, wait_until

ADDRESS = "ada.lovelace+test@mail.example.org"
TOKEN = "0190a6f2b3c47d5e8f90a1b2c3d4e5f6.Zm9vYmFyLXNpZ25hdHVyZQ"  # as a link carries it


def output(program, environment, **changes):
    """Run a program under our settings and return what it wrote to stderr, as lines."""
    start = "import django, structlog, logging; django.setup(); log = structlog.get_logger('test')\n"
    done = subprocess.run(
        [sys.executable, "-c", start + program],
        cwd=ROOT,
        env={**environment, **changes},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stderr.splitlines()


@pytest.fixture(scope="module")
def process():
    """The environment of a process of ours that needs no database."""
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}


class TestRedact:
    @pytest.mark.parametrize(
        "text",
        [
            ADDRESS,
            f"Key (email_canonical)=({ADDRESS}) already exists.",
            f"mailto:{ADDRESS}?subject=x",
            f'{{"to": ["Ada <{ADDRESS}>"]}}',
            f"to={ADDRESS},",
            f"https://api.example.org/v1/contacts/{ADDRESS.replace('@', '%40')}?x=1",
            f"to={ADDRESS.replace('@', '%2540')}&x=1",
            f"/api/v1/users/{ADDRESS}/",
            "räksmörgås@exämple.org",
            f"a{ADDRESS}, b{ADDRESS}; c{ADDRESS}",
        ],
    )
    def test_address_is_replaced(self, text):
        event = redact(None, "info", {"event": text})

        assert "@" not in event["event"]
        assert "lovelace" not in event["event"]
        assert "<address>" in event["event"]

    @pytest.mark.parametrize(
        "text",
        [
            f"https://example.org/verify-email?token={TOKEN}",
            f"GET /verify-email?token={TOKEN} HTTP/1.1",
            f"https://example.org/verify-email?next=1&token={TOKEN}&x=y",
            f"token%3D{TOKEN}",
            f"Authorization: Token {TOKEN}",
            f"{{'Authorization': 'Bearer {TOKEN}'}}",
            f"Basic {TOKEN}==",
            f"authorization: basic {TOKEN}",
            f"X-Postmark-Server-Token: {TOKEN}",
            f'{{"token": "{TOKEN}"}}',
            f"{{'token': '{TOKEN}'}}",
            f"password={TOKEN}&email=x",
        ],
    )
    def test_token_is_replaced(self, text):
        event = redact(None, "info", {"event": text})

        assert TOKEN not in event["event"]
        assert "Zm9vYmFy" not in event["event"]

    @pytest.mark.parametrize("local", [1, 63, 64, 65, 66, 1000])
    @pytest.mark.parametrize("domain", [1, 254, 255, 256, 1000])
    def test_no_part_of_a_long_address_is_left(self, local, domain):
        text = f"to {'a' * local}@{'b' * domain} from"

        assert redact(None, "info", {"event": text})["event"] == "to <address> from"

    @pytest.mark.parametrize("text", ["a@b@c", "@a@b", "@@b", "a@b@", "a@b@@"])
    def test_address_with_more_signs_is_replaced_in_full(self, text):
        assert redact(None, "info", {"event": text})["event"] == "<address>"

    def test_looking_for_addresses_reads_each_character_once(self):
        # A repeat that something may have to follow is tried from each character, to the end: `"@," + "a" * n`.
        [(operation, (_, _, repeated))] = re._parser.parse(WORD.pattern)

        assert operation is re._constants.MAX_REPEAT
        assert [what for what, _ in repeated] == [re._constants.IN]

    @pytest.mark.parametrize("text", ["@," + "a" * 64_000, "@" * 64_000, "a@" * 32_000, "a@b," * 16_000, "a" * 64_000])
    def test_long_value_is_cut_after_it_was_looked_at(self, text):
        shown = redact(None, "info", {"event": "x", "header": text})["header"]

        assert len(shown) <= LONGEST + len("<1000000 more>")
        assert "b" not in shown

    def test_begin_and_end_of_what_is_cut_are_kept(self):
        text = f"Traceback{' line' * LONGEST} ValueError"

        shown = redact(None, "info", {"event": "x", "exception": text})["exception"]

        assert shown.startswith("Traceback line")
        assert f"<{len(text) - LONGEST} more>" in shown
        assert shown.endswith("line ValueError")

    def test_keys_and_all_depths_are_looked_at(self):
        deep = {"event": "x", ADDRESS: {"list": [(ADDRESS, {ADDRESS: 1})]}}

        assert "lovelace" not in str(redact(None, "info", deep))

    @pytest.mark.parametrize("name", ["password", "token", "Authorization", "Set-Cookie"])
    def test_value_under_the_name_of_a_secret_is_replaced(self, name):
        assert redact(None, "info", {"event": "x", "headers": {name: "abc"}})["headers"] == {name: "<secret>"}

    def test_what_is_no_text_is_looked_at_as_it_would_be_written(self):
        event = redact(None, "info", {"event": "x", "error": IntegrityError(f"({ADDRESS}) already exists")})

        assert event["error"] == "(<address>) already exists"

    @pytest.mark.parametrize(
        "value",
        [
            None,
            True,
            0,
            1.5,
            "message_sent",
            "3 @ 4",
            "@",
            "a@ b",
            "@b",
            "40 %40",
            "50%",
            "",
            "token",
            "no token given",
        ],
    )
    def test_what_is_neither_is_left_alone(self, value):
        assert redact(None, "info", {"event": "x", "value": value})["value"] == value


class TestLines:
    def test_each_line_is_one_object(self, process):
        lines = output(
            r"""
log.info("first", text="two\nlines", number=1)
logging.getLogger("other").warning("second\n%s", "third")
logging.getLogger("django").error("fourth")
""",
            process,
        )

        entries = [json.loads(line) for line in lines]
        assert [entry["event"] for entry in entries] == ["first", "second\nthird", "fourth"]
        assert all({"timestamp", "level", "logger"} <= entry.keys() for entry in entries)

    @pytest.mark.parametrize("value", ["'\\ud800'", "2**70", "{1: 'a number names it'}"])
    def test_what_is_no_plain_json_makes_a_line_all_the_same(self, process, value):
        [line] = output(f"log.info('odd', value={value}, other='kept')", process)

        assert json.loads(line)["other"] == "kept"

    def test_console_is_for_people(self, process):
        program = "import os; os.environ['LOG_FORMAT'] = 'console'\nlog.info('message_sent', attempt=3)"

        [line] = output(program, process, DJANGO_SETTINGS_MODULE="project.settings", LOG_FORMAT="console")

        assert "message_sent" in line
        with pytest.raises(ValueError, match="Expecting value"):
            json.loads(line)

    def test_traceback_is_one_line_without_addresses_and_tokens(self, process):
        [line] = output(
            f"""
def link(token, address):
    raise ValueError(f"no mail to {{address}} about ?token={{token}}")
try:
    link("{TOKEN}", "{ADDRESS}")
except ValueError:
    log.exception("failed")
""",
            process,
        )

        entry = json.loads(line)
        assert "ValueError: no mail to <address> about ?token=<token>" in entry["exception"]
        assert "lovelace" not in line
        assert TOKEN not in line

    def test_detail_of_a_violated_constraint_is_not_shown(self, environment):
        lines = output(
            f"""
from users.models import User
from django.db import IntegrityError
User.objects.create_user("{ADDRESS}", "a password that is long")
try:
    User.objects.create_user("{ADDRESS.upper()}", "a password that is long")
except IntegrityError:
    log.exception("failed")
""",
            environment,
        )

        entries = [json.loads(line) for line in lines]
        [failed] = [entry for entry in entries if entry["event"] == "failed"]
        assert "IntegrityError" in failed["exception"]
        assert "already exists" in failed["exception"]
        assert "lovelace" not in str(lines).casefold()

    def test_level_is_kept_to(self, process):
        program = "log.info('unheard'); logging.getLogger('x').info('unheard'); log.warning('heard')"

        lines = output(program, process, DJANGO_SETTINGS_MODULE="project.settings", LOG_LEVEL="WARNING")

        assert [json.loads(line)["event"] for line in lines] == ["heard"]


class TestRequests:
    def test_query_is_not_logged(self, client, caplog, db):
        client.get(f"/verify-email?token={TOKEN}&email={ADDRESS}")

        requests = [record.msg["request"] for record in caplog.records if "request" in record.msg]
        assert requests
        assert set(requests) == {"GET /verify-email"}
        assert TOKEN not in caplog.text
        assert ADDRESS not in caplog.text

    def test_query_of_what_is_not_found_is_not_logged(self, client, caplog, db):
        client.get(f"/nothing?token={TOKEN}&email={ADDRESS}")

        assert caplog.records
        assert TOKEN not in caplog.text
        assert ADDRESS not in caplog.text

    def test_request_carries_one_id_to_the_message(self, client, caplog, db, django_user_model):
        client.get("/healthz")

        ids = {record.msg["request_id"] for record in caplog.records if "request_id" in record.msg}
        assert len(ids) == 1


class TestWorker:
    @pytest.fixture
    def broker(self, tmp_path):
        """A broker of its own, so that no other test's worker takes the hint."""
        valkey = Valkey(tmp_path / "valkey", volatile=True)
        yield {"CELERY_BROKER_URL": valkey.start(), "REDIS_URL": valkey.redis_url}
        valkey.stop()

    def test_worker_logs_json_alone(self, environment, broker, tmp_path):
        outbox.enqueue("welcome", ADDRESS, dedupe_key="test")
        log = tmp_path / "worker.log"
        command = ("-m", "celery", "--quiet", "-A", "project", "worker", "-c", "1", "--loglevel", "INFO")

        with running(*command, env={**environment, **broker, "LOG_LEVEL": "INFO"}, log=log):
            wait_until(lambda: "message_retried" in log.read_text())
            lines = log.read_text().splitlines()  # at its end Celery says a word to the terminal, past all logging

        entries = [json.loads(line) for line in lines]
        assert {"task_started", "message_retried"} <= {entry["event"] for entry in entries}
        assert "lovelace" not in str(lines)


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/auth/tokens/" + "0123456789abcdef" * 4,
        "/verify-email/" + "0123456789abcdef" * 2 + "." + "Aa0_-" * 8 + "xyz",
    ],
)
def test_token_is_known_by_its_shape(path):
    shown = redact(None, "info", {"request": f"GET {path}"})["request"]

    assert shown == f"GET {path.rpartition('/')[0]}/<token>"
