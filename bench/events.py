"""Should the table of events be partitioned by month? Both ways on one server, with so many events in each.

    python -m project.embedded --name bench --volatile -- python -m bench.events --events 10000000

*plain* is the table as the migrations make it, with the statement of `mailer.ledger`. *parted* is the same table in
partitions of a month. A unique index on it has to contain the month's column, so that it tells no repeat of another
time from a new event; the keys then need a table of their own, which is not in partitions. *parted, unsafe* is the same
without that table: what it would be like if providers never repeated anything; it gets the same facts without repeats.

Makes a database of its own on the server and drops it at the end. Ten million events take about 12 GB and 8 minutes.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any
from uuid import UUID

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"

import django

django.setup()

from django.core.management import call_command
from django.db import connection
from tqdm import tqdm

from mailer import ledger
from mailer.ledger import Fact, Source, dedupe_key
from mailer.models import DeliveryEvent, DeliveryStatus, Message
from mailer.status import Status
from webhooks import retention

DATABASE = "bench_events"
EVENT, DELIVERY, MESSAGE = (model._meta.db_table for model in (DeliveryEvent, DeliveryStatus, Message))
MONTHS = 14
DAYS = 30  # of a month here
SHAPES = ("plain", "parted", "parted, unsafe")

# The events of one month, the oldest first; all from webhooks, since these have an age of their own.
LOAD = f"""
INSERT INTO {EVENT} (delivery_id, event_type, status, rank, occurred_at, recorded_at, source, effect, dedupe_key,
    provider, esp_message_id, esp_event_id, recipient_canonical, reject_reason, detail, receipt_id, category,
    smtp_status)
SELECT lpad(to_hex(n %% %(deliveries)s), 32, '0')::uuid, 'delivered', 'delivered', 40, at, at, 'webhook', 'confirmed',
       encode(sha256(n::text::bytea), 'hex'), 'resend', md5(n::text), md5('e' || n), 'user-' || n || '@example.com', '',
       '250 2.0.0 OK', md5((n / 10)::text)::uuid, '', '2.0.0'
FROM generate_series(%(first)s::bigint, %(last)s::bigint) n,
     LATERAL (SELECT now() - interval '1 day' * (%(ago)s * {DAYS} - {DAYS} * (n - %(first)s)::float8
                                                 / (%(last)s - %(first)s + 1)) AS at) t"""

DELIVERIES = [
    f"""INSERT INTO {MESSAGE} (id, kind, dedupe_key, correlation_id, locale, state, priority, token, lease_owner,
        attempts, crashes, provider, context, secret, error_class, finished_at)
    SELECT lpad(to_hex(n), 32, '0')::uuid, 'welcome', 'bench:' || n, '', 'en', 'sent', 20, 1, '', 0, 0, 'resend',
           '{{}}', false, '', now()
    FROM generate_series(0, %s - 1) n""",
    f"""INSERT INTO {DELIVERY} (id, message_id, kind, recipient, recipient_canonical, provider, esp_message_id, sent_at,
        status, status_rank, status_at, status_key, open_count, click_count)
    SELECT id, id, kind, 'r', 'user-' || id, provider, md5(id::text), now(), 'sent', 20, now(), '', 0, 0
    FROM {MESSAGE}""",
]


# --- The server ---------------------------------------------------------------------------------------


def run(sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Run one statement in a transaction of its own."""
    with connection.cursor() as cursor:
        cursor.execute(sql, *parameters)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def own_database() -> Iterator[None]:
    """Make a database on the server that DATABASE_URL names, and drop it in the end."""
    given = connection.settings_dict["NAME"]
    run(f"DROP DATABASE IF EXISTS {DATABASE}")
    run(f"CREATE DATABASE {DATABASE}")
    connection.close()
    connection.settings_dict["NAME"] = DATABASE
    try:
        call_command("migrate", verbosity=0)
        run("SET maintenance_work_mem = '1GB'")
        yield
    finally:
        connection.close()
        connection.settings_dict["NAME"] = given
        run(f"DROP DATABASE {DATABASE} WITH (FORCE)")


def use(shape: str) -> None:
    """Have the name of the table of events mean that of a shape."""
    run(f"SET search_path TO {'public' if shape == 'plain' else 'parted, public'}")


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Measure a block: seconds, and megabytes of the write-ahead log."""
    found: dict[str, float] = {}
    [(before,)] = run("SELECT pg_current_wal_insert_lsn()")
    begin = time.perf_counter()
    yield found
    found["seconds"] = time.perf_counter() - begin
    found["wal"] = float(run("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s)", [before])[0][0]) / 1e6


def sizes(pattern: str) -> tuple[float, float]:
    """Return the megabytes of the tables whose name begins so, and of their indexes."""
    [(heap, indexes)] = run(
        """SELECT coalesce(sum(pg_table_size(c.oid)), 0), coalesce(sum(pg_indexes_size(c.oid)), 0) FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND n.nspname || '.' || c.relname LIKE %s""",
        [f"{pattern}%"],
    )
    return float(heap) / 1e6, float(indexes) / 1e6


# --- Filling ------------------------------------------------------------------------------------------


def fill(events: int, deliveries: int, bar: "tqdm[Any]") -> None:
    """Fill both shapes with the same events, indexes last."""
    for statement in DELIVERIES:
        run(statement, [deliveries] if "%s" in statement else [])
    constraints = run(
        """SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE conrelid = %s::regclass AND contype IN ('p', 'u', 'f')""",
        [EVENT],
    )
    for name, _ in constraints:
        run(f'ALTER TABLE {EVENT} DROP CONSTRAINT "{name}"')
    indexes = run("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename = %s", [EVENT])
    for name, _ in indexes:
        run(f'DROP INDEX "{name}"')
    for month in range(MONTHS):
        first, last = events * month // MONTHS, events * (month + 1) // MONTHS - 1
        run(LOAD, {"deliveries": deliveries, "first": first, "last": last, "ago": MONTHS - month})
        bar.update()
    _make_parted(bar)
    for name, definition in constraints:
        run(f'ALTER TABLE {EVENT} ADD CONSTRAINT "{name}" {definition}')
        local = definition.replace("(dedupe_key)", "(dedupe_key, recorded_at)").replace("(id)", "(id, recorded_at)", 1)
        run(f'ALTER TABLE parted.{EVENT} ADD CONSTRAINT "{name}" {definition if "REFERENCES" in definition else local}')
        bar.update()
    for _, definition in indexes:
        run(definition)
        run(definition.replace(f"public.{EVENT}", f"parted.{EVENT}"))
        bar.update()
    run("VACUUM ANALYZE")
    bar.update()


def _make_parted(bar: "tqdm[Any]") -> None:
    run("CREATE SCHEMA parted")
    run(
        f"CREATE TABLE parted.{EVENT} (LIKE {EVENT} INCLUDING DEFAULTS INCLUDING IDENTITY) "
        "PARTITION BY RANGE (recorded_at)"
    )
    bounds = run(
        f"SELECT now() - interval '1 day' * {DAYS} * n FROM generate_series({MONTHS}, 0, -1) n"  # the last: the future
    )
    starts = ["MINVALUE", *(f"'{bound.isoformat()}'" for (bound,) in bounds[1:])]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], "MAXVALUE"], strict=True)):
        run(f"CREATE TABLE parted.month{number:02} PARTITION OF parted.{EVENT} FOR VALUES FROM ({start}) TO ({end})")
    [(names,)] = run(
        "SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name = %s",
        [EVENT],
    )
    run(f"INSERT INTO parted.{EVENT} ({names}) SELECT {names} FROM {EVENT}")
    bar.update(MONTHS)
    run("CREATE TABLE parted.event_key (dedupe_key varchar(64), recorded_at timestamptz DEFAULT statement_timestamp())")
    run(f"INSERT INTO parted.event_key SELECT dedupe_key, recorded_at FROM {EVENT}")
    run("ALTER TABLE parted.event_key ADD PRIMARY KEY (dedupe_key)")
    run("CREATE INDEX ON parted.event_key (recorded_at)")
    bar.update()


# --- Recording ----------------------------------------------------------------------------------------


def statements() -> dict[str, str]:
    """Return what each shape records facts by: the ledger's own statement, and what it would have to be."""
    plain = ledger._RECORD
    conflict = "FROM judged ORDER BY dedupe_key\n    ON CONFLICT (dedupe_key) DO NOTHING"
    if not plain.count(conflict) == plain.count("written AS (") == 1:
        raise SystemExit("The statement of mailer.ledger is another one now: change this script as well.")
    keyed = """keyed AS (
    INSERT INTO event_key (dedupe_key) SELECT dedupe_key FROM judged ORDER BY dedupe_key
    ON CONFLICT DO NOTHING RETURNING dedupe_key
),
written AS ("""
    unsafe = plain.replace(conflict, "FROM judged ORDER BY dedupe_key")
    parted = plain.replace(conflict, "FROM judged JOIN keyed USING (dedupe_key) ORDER BY dedupe_key")
    return dict(zip(SHAPES, (plain, parted.replace("written AS (", keyed), unsafe), strict=True))


def facts(batch: int, deliveries: int, earlier: list[Fact]) -> list[Fact]:
    """Return facts as webhooks bring them, a fifth of them repeats."""
    repeats = random.sample(earlier, min(batch // 5, len(earlier)))
    new = []
    for _ in range(batch - len(repeats)):
        delivery = UUID(int=random.randrange(deliveries))
        key = dedupe_key("bench", random.random())
        new.append(
            Fact(
                event_type="delivered",
                status=Status.DELIVERED,
                dedupe_key=key,
                source=Source.WEBHOOK,
                message_id=delivery,
                provider="resend",
                esp_message_id=key[:32],
                esp_event_id=key[32:],
                recipient_canonical=f"user-{delivery}",
                detail="250 2.0.0 OK",
                smtp_status="2.0.0",
            )
        )
    return [*new, *repeats]


def record(rounds: int, batch: int, deliveries: int, bar: "tqdm[Any]") -> dict[str, dict[str, float]]:
    """Record the same batches in each shape, in turns; return the median milliseconds and kilobytes of log of one."""
    found: dict[str, list[dict[str, float]]] = {shape: [] for shape in SHAPES}
    sql, earlier = statements(), list[Fact]()
    for number in range(rounds):
        given = facts(batch, deliveries, earlier)
        for shape in SHAPES[number % 3 :] + SHAPES[: number % 3]:
            use(shape)
            # Without the table of keys every repeat would be counted, so there are none.
            rows = ledger_rows(given if shape != "parted, unsafe" else given[: len(given) - batch // 5])
            with measured() as figures, connection.cursor() as cursor:
                cursor.execute(sql[shape], [rows])
                figures["facts"] = len(cursor.fetchall())
            found[shape].append(figures)
        earlier = given
        bar.update()
    warm = rounds // 10
    return {
        shape: {
            "ms": 1000 * median(each["seconds"] for each in all_of[warm:]),
            "wal": 1000 * median(each["wal"] for each in all_of[warm:]),
            "facts": median(each["facts"] for each in all_of[warm:]),
        }
        for shape, all_of in found.items()
    }


def ledger_rows(given: list[Fact]) -> str:
    """Return facts as the statement takes them."""
    return json.dumps([ledger._as_row(fact) for fact in given])


def read(reads: int, deliveries: int) -> dict[str, float]:
    """Read the history of one delivery, in turns; return the median milliseconds."""
    found: dict[str, list[float]] = {"plain": [], "parted": []}
    for _ in range(reads):
        identifier = UUID(int=random.randrange(deliveries))
        for shape, times in found.items():
            use(shape)
            begin = time.perf_counter()
            run(f"SELECT * FROM {EVENT} WHERE delivery_id = %s ORDER BY occurred_at", [identifier])
            times.append(1000 * (time.perf_counter() - begin))
    return {shape: median(times) for shape, times in found.items()}


# --- Purging ------------------------------------------------------------------------------------------


def purge(bar: "tqdm[Any]") -> dict[str, dict[str, float]]:
    """Remove the oldest month from each shape; return the seconds and megabytes of log of each step."""
    found = {}
    days = (MONTHS - 1) * DAYS
    use("plain")
    [rule] = [rule for rule in retention.rules(0, days) if rule.name == "events"]
    with measured() as figures:
        figures["rows"] = sum(rule.apply())
    found["plain: delete in batches"] = figures
    bar.update()
    with measured() as figures:
        run(f"VACUUM public.{EVENT}")
    found["plain: vacuum"] = figures
    bar.update()
    with measured() as figures:
        run("DROP TABLE parted.month00")
    found["parted: drop"] = figures
    with measured() as figures:
        figures["rows"] = _purge_keys(days)
    found["parted: delete the keys"] = figures
    with measured() as figures:
        run("VACUUM parted.event_key")
    found["parted: vacuum the keys"] = figures
    bar.update()
    return found


def _purge_keys(days: float) -> int:
    """Delete keys as `Rule.apply` deletes rows."""
    taken = 0
    while ids := run(
        "SELECT dedupe_key FROM parted.event_key WHERE recorded_at < now() - make_interval(days => %s)"
        " LIMIT 1000 FOR UPDATE SKIP LOCKED",
        [days],
    ):
        run("DELETE FROM parted.event_key WHERE dedupe_key = ANY(%s)", [[key for (key,) in ids]])
        taken += len(ids)
    return taken


# --- What is said -------------------------------------------------------------------------------------


def say(title: str, rows: dict[str, Callable[[], str] | str]) -> None:
    """Print a table of two columns."""
    sys.stdout.write(f"\n{title}\n")
    for name, value in rows.items():
        sys.stdout.write(f"  {name:<28} {value}\n")
    sys.stdout.flush()


def compare(options: argparse.Namespace) -> None:
    """Fill, record, read and purge, and say what each took."""
    deliveries = max(1000, options.events // 20)
    with own_database(), tqdm(total=2 * MONTHS + 12 + options.rounds + 3, unit=" steps") as bar:
        with measured() as filling:
            fill(options.events, deliveries, bar)
        heap, indexes = sizes(f"public.{EVENT}")
        parts, their = sizes("parted.month")
        keys, of_keys = sizes("parted.event_key")
        recorded = record(options.rounds, options.batch, deliveries, bar)
        history = read(options.rounds, deliveries)
        purged = purge(bar)
        after, after_indexes = sizes(f"public.{EVENT}")
    plain = recorded["plain"]
    say(f"{options.events:,} events, filled in {filling['seconds']:.0f} s; MB of table + indexes", {
        "plain": f"{heap:,.0f} + {indexes:,.0f}",
        "plain, after a month went": f"{after:,.0f} + {after_indexes:,.0f}",
        "parted": f"{parts:,.0f} + {their:,.0f}",
        "its keys": f"{keys:,.0f} + {of_keys:,.0f}",
    })  # fmt: skip
    say(f"Recording {options.batch} facts, a fifth repeats: median of {options.rounds}, in turns", {
        shape: f"{each['ms']:.2f} ms ({each['ms'] / plain['ms']:.2f} of plain), {each['wal']:.0f} kB of log"
               f" ({each['wal'] / plain['wal']:.2f}), {each['facts']:.0f} new"
        for shape, each in recorded.items()
    })  # fmt: skip
    say("Reading a delivery's history", {
        shape: f"{ms:.2f} ms ({ms / history['plain']:.2f} of plain)" for shape, ms in history.items()
    })  # fmt: skip
    say("Removing the oldest month", {
        name: f"{each['seconds']:.2f} s, {each['wal']:.0f} MB of log"
              + (f", {each['rows']:,.0f} rows" if "rows" in each else "")
        for name, each in purged.items()
    })  # fmt: skip


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.events", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000, metavar="N", help="events (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=300, metavar="N", help="batches (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=100, metavar="N", help="facts of one (default: %(default)s)")
    compare(parser.parse_args())


if __name__ == "__main__":
    main()
