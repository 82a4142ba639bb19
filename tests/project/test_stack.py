"""The whole service as its own processes: started, played on and stopped."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import requests

from project import arrangement, processes, stack
from project.processes import Interrupted, Supervisor, Unavailable, claim

CHECKOUT = Path(__file__).parents[2]
# Nobody listens there.
SERVERS = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
    "REDIS_URL": "redis://127.0.0.1:1/0",
}

# The command line of `project.stack`, with its data under argv[1].
STACK = """
import sys
from pathlib import Path
from project import stack
stack.RUN = Path(sys.argv.pop(1))
sys.exit(stack.main())
"""


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """Keep the stack's data, ports and servers from whatever else runs here."""
    monkeypatch.setattr(stack, "RUN", tmp_path)
    monkeypatch.setattr(stack, "interrupt_once", lambda: None)
    for variable in ("DATABASE_URL", "CELERY_BROKER_URL", "REDIS_URL", *arrangement.DEFAULT_PORTS):
        monkeypatch.delenv(variable, raising=False)


def test_ports_are_the_well_known_ones_or_as_told(monkeypatch):
    monkeypatch.setattr(arrangement, "DEFAULT_PORTS", dict(zip(arrangement.DEFAULT_PORTS, free_ports(), strict=True)))
    told = free_ports()[0]
    monkeypatch.setenv("WEB_PORT", str(told))

    assert arrangement.ports(fixed=True) == arrangement.DEFAULT_PORTS | {"WEB_PORT": told}


def test_ports_can_be_any(monkeypatch):
    found = arrangement.ports(fixed=False)

    assert len(set(found.values())) == len(arrangement.DEFAULT_PORTS)
    assert 0 not in found.values()


def test_ports_that_are_the_same(monkeypatch):
    for variable in arrangement.DEFAULT_PORTS:
        monkeypatch.setenv(variable, str(free_ports()[0]))
    monkeypatch.setenv("SIMULATOR_PORT", os.environ["WEB_PORT"])

    with pytest.raises(Unavailable, match="set SIMULATOR_PORT"):
        arrangement.ports(fixed=True)


@pytest.mark.parametrize("text", ["http", "-1", "65536"])
def test_ports_that_are_none(monkeypatch, text):
    monkeypatch.setenv("SIMULATOR_PORT", text)

    with pytest.raises(Unavailable, match="SIMULATOR_PORT has to be a port number"):
        arrangement.ports(fixed=True)


def test_taken_port_is_found_before_anything_starts(monkeypatch, tmp_path, capsys):
    with socket.create_server((arrangement.HOST, 0)) as taken:
        monkeypatch.setenv("WEB_PORT", str(taken.getsockname()[1]))

        code = stack.main(["run"])

    assert code == 1
    assert "set WEB_PORT to another one" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_name_in_use_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(processes, "CLAIM_SECONDS", 0.1)  # the holder is this process: it could be about to end
    with claim(tmp_path / "demo"):
        code = stack.main(["demo"])

    assert code == 1
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err


def test_secrets_are_made_once_and_are_the_owners_own(tmp_path):
    file = tmp_path / "secrets.json"

    made, read = arrangement.load_secrets(file), arrangement.load_secrets(file)

    assert made == read
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(set(json.loads(file.read_text()).values())) == len(arrangement.Secrets.__slots__)


def test_environment_has_no_proxy_between_the_processes(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "internal.example")

    environ = arrangement.environment({"WEB_PORT": 1, "SIMULATOR_PORT": 2}, arrangement.Secrets(), {}, Path("data"))

    assert environ["no_proxy"].split(",") == ["127.0.0.1", "localhost", "internal.example"]


def test_wait_until_ready_gives_up(monkeypatch, tmp_path):
    monkeypatch.setattr(stack, "READY_SECONDS", 0)

    with pytest.raises(Unavailable, match="is not ready after 0 s"):
        stack.wait_until_ready(f"http://{arrangement.HOST}:{free_ports()[0]}/", Supervisor(tmp_path))


def test_database_that_cannot_be_prepared_says_why(tmp_path):
    environ = {**os.environ, "DATABASE_URL": f"postgresql://nobody@{arrangement.HOST}:1/none"}

    with pytest.raises(Unavailable, match=r"the database could not be prepared: .*refused"):
        stack._prepare_database(environ, tmp_path / "log")


STAFF = "from users.models import User; print(User.objects.get().email)"
SHOW = "import os; print(os.environ.get('MAIL_PROVIDERS'), os.environ.get('DJANGO_SUPERUSER_PASSWORD'))"


@pytest.fixture
def served(tmp_path):
    """What a stack has written down that runs in this process's name: its environment."""
    environ = arrangement.environment(
        {"WEB_PORT": 1, "SIMULATOR_PORT": 2}, arrangement.Secrets(), SERVERS, Path("data")
    )
    with claim(tmp_path / "run"):
        yield stack._tell(tmp_path / "run", environ)


def test_manage_runs_a_command_as_the_stack_would(served, capfd):
    code = stack.main(["manage", "--", "shell", "--no-imports", "-c", SHOW])

    assert code == 0
    assert capfd.readouterr().out == "resend,postmark None\n"


def test_manage_ends_as_its_command_does(served, capfd):
    code = stack.main(["manage", "--", "no_such_command"])

    assert code == 1
    assert "Unknown command: 'no_such_command'" in capfd.readouterr().err


def test_manage_knows_the_settings_that_the_stack_was_started_with(monkeypatch, tmp_path):
    monkeypatch.setenv("MAIL_BATCH_SIZE", "7")
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/accounts")
    monkeypatch.setenv("SOMETHING_ELSE", "of the shell alone")

    file = stack._tell(tmp_path, dict(os.environ))

    assert json.loads(file.read_text()).items() >= {
        ("MAIL_BATCH_SIZE", "7"),
        ("DATABASE_URL", "postgresql://elsewhere/accounts"),
    }
    assert "SOMETHING_ELSE" not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_manage_where_nothing_runs(tmp_path, capsys):
    code = stack.main(["manage", "--", "check"])

    assert code == 1
    assert "start `make run`" in capsys.readouterr().err


def test_manage_where_a_stack_was_killed(served, capsys):
    (served.parent / "lock").unlink()
    (served.parent / "lock").touch()

    code = stack.main(["manage", "--", "check"])

    assert code == 1
    assert "Nothing runs in" in capsys.readouterr().err


def test_manage_while_a_stack_starts(served, capsys):
    served.unlink()

    code = stack.main(["manage", "--", "check"])

    assert code == 1
    assert "wait until it is up" in capsys.readouterr().err


def test_arguments_are_for_manage_alone(capsys):
    with pytest.raises(SystemExit):
        stack.main(["run", "--", "check"])

    assert "for `manage` only" in capsys.readouterr().err


@pytest.mark.parametrize(("action", "code"), [("run", 0), ("demo", 128 + signal.SIGTERM)])
def test_interruption_is_how_run_ends(monkeypatch, action, code):
    def interrupted(*_):
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(stack, "running", interrupted)

    assert stack.main([action]) == code


def test_run_tells_the_addresses_serves_manage_and_stops_without_a_trace(tmp_path):
    command = [sys.executable, "-c", STACK, str(tmp_path), "run"]
    web, simulator = free_ports()
    environ = {**os.environ, "WEB_PORT": str(web), "SIMULATOR_PORT": str(simulator)}
    with subprocess.Popen(command, cwd=CHECKOUT, env=environ, stdout=subprocess.PIPE, text=True) as process:
        login = next(line for line in process.stdout if "Staff login" in line)
        children = psutil.Process(process.pid).children(recursive=True)
        admin = requests.get(f"http://{arrangement.HOST}:{web}/admin/", timeout=20)
        managed = subprocess.run(
            [*command[:-1], "manage", "--", "shell", "--no-imports", "-c", STAFF],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        process.send_signal(signal.SIGINT)
        process.stdout.read()

    assert process.returncode == 0
    assert "staff@example.com" in login
    assert admin.status_code == 200
    assert managed.stdout == "staff@example.com\n"
    assert len(children) > 6
    assert psutil.wait_procs(children, timeout=20)[1] == []
    assert not [path for path in tmp_path.rglob("*") if path.is_socket() or path.name == "environment.json"]


def test_demo_plays_the_main_job_on_processes_of_its_own(tmp_path, capsys):
    before = psutil.Process().children(recursive=True)  # of other tests: a simulator may live as long as they do

    code = stack.main(["demo", "--name", "play"])

    out, _ = capsys.readouterr()
    assert code == 0, out
    assert "Ada  verification  delivered" in out
    assert "Ada  welcome       delivered" in out
    assert "Bob  verification  bounced" in out
    assert [child for child in psutil.Process().children(recursive=True) if child not in before] == []
    assert [json.loads(line) for line in (tmp_path / "play" / "logs" / "web.log").read_text().splitlines()]


def free_ports():
    with socket.create_server((arrangement.HOST, 0)) as one, socket.create_server((arrangement.HOST, 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]
