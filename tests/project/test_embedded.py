"""Private servers: real ones, each test in a directory of its own."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import environ
import kombu
import psutil
import psycopg
import pytest
import redis

from project.embedded import serving
from project.postgres import Postgres
from project.processes import Unavailable, claim
from project.servers import SOCKET_PATH_BYTES, Server
from project.valkey import Valkey

VARIABLES = ("DATABASE_URL", "CELERY_BROKER_URL", "REDIS_URL")
CHECKOUT = Path(__file__).parents[2]

# Serves in argv[1] and tells the pids of the servers and of their children, until its standard input ends.
SERVE = """
import sys
from pathlib import Path
import psutil
from project.embedded import serving
with serving(Path(sys.argv[1]), volatile=True) as servers:
    private = [psutil.Process(server.process.pid) for server in servers.private]
    children = [child for server in private for child in server.children(recursive=True)]
    print(*(process.pid for process in private + children), flush=True)
    sys.stdin.read()
"""

# The command line of `project.embedded`, with its servers under argv[1].
EMBEDDED = """
import sys
from pathlib import Path
from project import embedded
embedded.RUN = Path(sys.argv.pop(1))
sys.exit(embedded.main())
"""


@pytest.fixture(autouse=True)
def no_servers_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[Postgres]:
    server = Postgres(tmp_path / "postgres", volatile=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    server.start()
    yield server
    server.stop()


@contextmanager
def elsewhere(directory: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Run the servers from another process, which ends with the block; yield it, and the pids of all of them."""
    command = [sys.executable, "-c", SERVE, str(directory)]
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, [int(word) for word in process.stdout.readline().split()]


def embedded(directory: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-c", EMBEDDED, str(directory), *arguments]


def ask(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query).fetchone()
    return row and row[0]


def test_postgres_is_what_production_has(postgres: Postgres) -> None:
    expected = {"server_encoding": "UTF8", "max_connections": "200", "listen_addresses": ""}

    shown = {name: ask(postgres.url, f"SHOW {name}") for name in expected}

    assert shown == expected
    assert ask(postgres.url, "SELECT upper('é')") == "É"


def test_postgres_url_means_the_same_to_django_environ(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres.url)

    config = environ.Env().db("DATABASE_URL")

    options = {"dbname": config["NAME"], "user": config["USER"], **config["OPTIONS"]}
    with psycopg.connect(**options) as connection:
        assert connection.info.dbname == "postgres"


def test_postgres_as_root_runs_as_somebody_else(postgres: Postgres) -> None:
    owner = psutil.Process(postgres.process.pid).uids().effective

    assert owner != 0
    assert owner == os.geteuid() or os.geteuid() == 0


def test_postgres_socket_is_closed_to_others(postgres: Postgres) -> None:
    assert stat.S_IMODE(postgres.sockets.stat().st_mode) == 0o700


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_postgres_start_again_keeps_data_and_url(tmp_path: Path, end: str) -> None:
    postgres = Postgres(tmp_path)
    url = postgres.start()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    getattr(postgres, end)()

    again = postgres.start()

    assert again == url
    assert ask(url, "SELECT count(*) FROM kept") == 0
    postgres.stop()


def test_postgres_restart_keeps_url_in_a_short_directory(tmp_path: Path) -> None:
    server = Postgres(tmp_path / ("long" * 30), volatile=True)
    url = server.start()

    again = server.restart()
    sockets = server.sockets
    server.stop()

    assert again == url
    assert len(str(sockets / server.socket_name)) <= SOCKET_PATH_BYTES
    assert not sockets.exists()


def test_postgres_start_with_a_pid_file_that_names_another_process(postgres: Postgres) -> None:
    pid_file = postgres.directory / "data" / "postmaster.pid"
    postgres.kill()
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")

    url = postgres.start()

    assert ask(url, "SELECT 1") == 1


def test_postgres_fresh_forgets(tmp_path: Path) -> None:
    first = Postgres(tmp_path, volatile=True)
    with psycopg.connect(first.start()) as connection:
        connection.execute("CREATE TABLE forgotten ()")
    first.stop()
    second = Postgres(tmp_path, volatile=True, fresh=True)

    url = second.start()
    found = ask(url, "SELECT to_regclass('forgotten')")
    second.stop()

    assert found is None


def test_postgres_that_cannot_start_says_why_in_one_line(postgres: Postgres) -> None:
    postgres.kill()
    (postgres.directory / "data" / "PG_VERSION").write_text("1\n")

    with pytest.raises(Unavailable) as caught:
        postgres.start()

    assert "FATAL" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_valkey_answers_celery_and_redis_py(valkey: Valkey) -> None:
    with kombu.Connection(valkey.url) as broker, redis.Redis.from_url(valkey.redis_url) as client:
        broker.ensure_connection(max_retries=1)

        assert client.ping()


def test_valkey_killed_keeps_what_it_acknowledged(valkey: Valkey) -> None:
    client = redis.Redis.from_url(valkey.redis_url)
    client.set("kept", "yes")
    valkey.kill()

    valkey.start()

    assert client.get("kept") == b"yes"


@pytest.mark.parametrize("name", ["with blank", "per%cent", "com,ma", "quo'te\"", "plus+at@", "Größe"])
def test_servers_in_a_directory_with_an_odd_name(tmp_path: Path, name: str) -> None:
    with serving(tmp_path / name, volatile=True) as servers:
        assert ask(servers.urls["DATABASE_URL"], "SELECT 1") == 1
        with kombu.Connection(servers.urls["CELERY_BROKER_URL"]) as broker:
            broker.ensure_connection(max_retries=1)
        assert redis.Redis.from_url(servers.urls["REDIS_URL"]).ping()


@pytest.mark.parametrize("server", [Postgres, Valkey])
def test_server_in_use_elsewhere_is_refused(tmp_path: Path, server: type[Server]) -> None:
    with (
        elsewhere(tmp_path) as (holder, _),
        pytest.raises(Unavailable, match=f"in use by process {holder.pid}"),
    ):
        server(tmp_path / server.__name__.lower()).start()


def test_servers_end_with_a_killed_parent_and_start_again(tmp_path: Path) -> None:
    with elsewhere(tmp_path) as (parent, pids):
        processes = [psutil.Process(pid) for pid in pids]
        parent.kill()

    with serving(tmp_path, volatile=True) as servers:
        assert ask(servers.urls["DATABASE_URL"], "SELECT 1") == 1

    assert len(processes) > 2
    assert psutil.wait_procs(processes, timeout=20)[1] == []


def test_serving_removes_the_short_directory_of_a_killed_parent(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 30)
    with elsewhere(directory) as (parent, _):
        left = [(directory / name / "sockets").readlink() for name in ("postgres", "valkey")]
        parent.kill()

    with serving(directory, volatile=True):
        pass

    assert not [path for path in left if path.exists()]


def test_serving_uses_what_the_environment_names(
    tmp_path: Path, postgres: Postgres, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres.url)
    monkeypatch.setenv("CELERY_BROKER_URL", valkey.url)

    with serving(tmp_path / "none") as servers:
        assert servers.private == []
        assert servers.urls["DATABASE_URL"] == postgres.url
        assert servers.urls["REDIS_URL"] == valkey.redis_url
    assert not (tmp_path / "none").exists()


def test_serving_starts_only_what_is_not_named(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres.url)

    with serving(tmp_path / "some") as servers:
        assert [server.title for server in servers.private] == ["Valkey"]


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("DATABASE_URL", "postgresql://me:s%20cret@127.0.0.1:1/mail?conn_max_age=60"),
        ("DATABASE_URL", "postgresql://me:s%20cret@[127.0.0.1/mail"),
        ("CELERY_BROKER_URL", "redis://:s%20cret@127.0.0.1:1/0"),
        ("CELERY_BROKER_URL", "amqp://me:s%20cret@127.0.0.1:1//"),
        ("CELERY_BROKER_URL", "carrierpigeon://me:s%20cret@127.0.0.1:1//"),
        ("REDIS_URL", "redis://:s%20cret@127.0.0.1:1/0"),
        ("REDIS_URL", "http://:s%20cret@127.0.0.1:1/0"),
    ],
)
def test_serving_with_a_named_server_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, url: str
) -> None:
    monkeypatch.setenv(variable, url)

    with pytest.raises(Unavailable, match=variable) as caught, serving(tmp_path / "none"):
        pass

    assert "cret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "none").exists()


def test_command_gets_the_urls_and_its_exit_code_is_passed_on(tmp_path: Path) -> None:
    script = f"import os; print(*(os.environ[name] for name in {VARIABLES})); raise SystemExit(7)"

    done = subprocess.run(
        embedded(tmp_path, "--volatile", "--", sys.executable, "-c", script),
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 7, done.stderr
    assert all(str(tmp_path) in url for url in done.stdout.split())
    assert not [path for path in tmp_path.rglob("*") if path.is_socket()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_is_interrupted_and_everything_stops(tmp_path: Path, number: signal.Signals) -> None:
    script = "import signal; print('up', flush=True); signal.pause()"
    command = embedded(tmp_path, "--", sys.executable, "-c", script)
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        children = psutil.Process(process.pid).children(recursive=True)

        process.send_signal(number)

    assert process.returncode == 128 + number
    assert len(children) > 3
    assert psutil.wait_procs(children, timeout=20)[1] == []


def test_command_under_a_name_in_use_is_refused(tmp_path: Path) -> None:
    with claim(tmp_path / "test"):
        done = subprocess.run(
            embedded(tmp_path, "--", "true"), cwd=CHECKOUT, capture_output=True, text=True, check=False
        )

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"in use by process {os.getpid()}" in done.stderr
