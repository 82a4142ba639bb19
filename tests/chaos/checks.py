"""Every invariant, as a query for what breaks it over our rows and the evidence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import psycopg

from mailer.status import RANKS, Mark, Status, fold

# The states in which a message still has something to do.
UNFINISHED: Final = "('pending', 'leased', 'sending', 'retry')"

# Each mail that a webhook told of: how many did, how many of these were acknowledged, and the events they left. What an
# answer to our question told first, a webhook tells again, and leaves no second event; that a search has found the mail
# is no such answer. Both sides are counted at once: no index of ours finds the events of one mail.
TOLD: Final = """
    (SELECT provider, mail_id, count(*) AS hooks, count(*) FILTER (WHERE acknowledged) AS acknowledged
     FROM chaos.hook GROUP BY provider, mail_id) told
    LEFT JOIN (SELECT provider, esp_message_id AS mail_id, count(*) AS events,
                      count(*) FILTER (WHERE source = 'webhook') AS of_webhooks
               FROM mailer_deliveryevent WHERE source = 'webhook' OR source = 'poll' AND event_type <> 'sent'
               GROUP BY 1, 2) stored USING (provider, mail_id)"""


@dataclass(frozen=True)
class Check:
    """An invariant: its name, what it demands, the query for the ids of what breaks it, and the figure these are."""

    name: str
    demands: str
    query: str
    figure: str = "broken"


@dataclass(frozen=True)
class Violation:
    """Something that broke an invariant."""

    check: str
    figure: str
    offender: str

    def __str__(self) -> str:
        return f"{self.check}: {self.offender}"


CHECKS: Final = (
    Check(
        "answered_has_a_message",
        "each registration that was answered with 202 has a verification message",
        """SELECT p.address FROM chaos.promised p WHERE NOT EXISTS (
               SELECT FROM mailer_message m JOIN mailer_deliverystatus d ON d.message_id = m.id
               WHERE m.kind = 'verification' AND d.recipient_canonical = p.address)""",
        figure="lost",
    ),
    Check(
        "answered_has_one_message",
        "and no second one",
        """SELECT p.address FROM chaos.promised p
           JOIN mailer_deliverystatus d ON d.recipient_canonical = p.address
           WHERE d.kind = 'verification' GROUP BY p.address HAVING count(*) > 1""",
        figure="duplicates_avoidable",
    ),
    Check(
        "user_has_a_message",
        "each user has a verification message, each verified one a welcome message: rows of one transaction",
        """SELECT u.id::text || ' ' || kind.name FROM users_user u
           CROSS JOIN (VALUES ('verification'), ('welcome')) AS kind(name)
           WHERE (kind.name = 'verification' OR u.email_verified_at IS NOT NULL)
             AND (SELECT count(*) FROM mailer_message m WHERE m.user_id = u.id AND m.kind = kind.name) <> 1""",
        figure="lost",
    ),
    Check(
        "message_is_accepted",
        "each message was accepted; where nobody may send it again, it may be in doubt instead",
        """SELECT id::text || ' ' || state FROM chaos.judged
           WHERE acceptances = 0 AND NOT (promise = 'at most once' AND state = 'unknown')""",
        figure="lost",
    ),
    Check(
        "accepted_as_promised",
        "a message is accepted once; more often only as its kind promises, and at most once more for each doubt",
        """SELECT id::text || ' ' || acceptances || ' times' FROM chaos.judged
           WHERE acceptances > 1 AND NOT (promise = 'at least once' AND acceptances <= 1 + doubts)""",
        figure="duplicates_avoidable",
    ),
    Check(
        "sent_was_accepted",
        "what is called sent was accepted",
        "SELECT id::text FROM chaos.judged WHERE state = 'sent' AND acceptances = 0",
    ),
    Check(
        "status_speaks_of_acceptance",
        "a delivery that is called sent, or more, was accepted",
        f"""SELECT d.id::text || ' ' || d.status FROM mailer_deliverystatus d JOIN chaos.judged j ON j.id = d.message_id
            WHERE d.status_rank >= {RANKS[Status.DELIVERED]} AND j.acceptances = 0
               OR d.status = '{Status.SENT}' AND j.acceptances = 0""",
    ),
    Check(
        "request_has_an_intent",
        "no request was made without an intent that was committed before",
        """SELECT r.message_id::text || ' at ' || r.provider FROM (
               -- One that was cut off in the middle of its body names no message, and nothing came of it.
               SELECT seq, provider, message_id FROM chaos.requested WHERE message_id IS NOT NULL) r
           LEFT JOIN LATERAL (SELECT count(*) AS intents FROM mailer_attempt t
                              WHERE t.message_id = r.message_id AND t.provider = r.provider) made ON true
           GROUP BY r.message_id, r.provider, made.intents HAVING count(*) > coalesce(made.intents, 0)""",
    ),
    Check(
        "acceptance_has_an_intent",
        "and nothing was accepted without one",
        """SELECT a.mail_id FROM chaos.accepted a WHERE NOT EXISTS (
               SELECT FROM mailer_attempt t WHERE t.message_id = a.message_id AND t.provider = a.provider)""",
    ),
    Check(
        "no_failover_after_doubt",
        "no other provider is tried while one may have accepted it",
        """SELECT DISTINCT earlier.message_id::text FROM mailer_attempt earlier
           JOIN mailer_attempt later ON later.message_id = earlier.message_id AND later.token > earlier.token
           WHERE earlier.outcome IN ('', 'ambiguous', 'accepted') AND later.provider <> earlier.provider""",
    ),
    Check(
        "event_is_stored",
        "each event that we have acknowledged is stored",
        f"SELECT mail_id FROM {TOLD} WHERE acknowledged > coalesce(events, 0)",
        figure="lost",
    ),
    Check(
        "event_is_stored_once",
        "however often it came",
        f"SELECT mail_id FROM {TOLD} WHERE of_webhooks > hooks",
        figure="duplicates_avoidable",
    ),
    Check(
        "event_is_delivered",
        "each webhook was acknowledged in the end",
        "SELECT mail_id FROM chaos.hook WHERE NOT acknowledged",
        figure="unconverged",
    ),
    Check(
        "event_is_matched",
        "no event of ours is parked",
        """SELECT e.id::text FROM mailer_deliveryevent e
           WHERE e.delivery_id IS NULL AND EXISTS (SELECT FROM chaos.accepted a WHERE a.mail_id = e.esp_message_id)""",
        figure="unconverged",
    ),
    Check(
        "nothing_is_late",
        "nothing waits past its deadline, or is still under way when all is quiet",
        f"""SELECT id::text || ' ' || state FROM mailer_message
            WHERE state IN {UNFINISHED} OR (state = 'unknown' AND inquire_at < now())""",
        figure="unconverged",
    ),
    Check(
        "batch_is_settled",
        "no batch is kept when it is known what became of each of its messages, as in the end it is",
        "SELECT id::text FROM mailer_batch",
        figure="unconverged",
    ),
    Check(
        "finished_has_a_time",
        "a message has an end exactly when it is at it",
        f"""SELECT id::text || ' ' || state FROM mailer_message
            WHERE (finished_at IS NULL) <> (state IN {UNFINISHED} OR state = 'unknown')""",
    ),
    Check(
        "secret_is_erased",
        "what holds a link is gone once the message is sent",
        "SELECT id::text FROM mailer_message WHERE secret AND state = 'sent' AND content IS NOT NULL",
    ),
    Check(
        "token_is_an_attempt",
        "no message has been attempted more often than it was claimed",
        """SELECT m.id::text FROM mailer_message m
           WHERE (SELECT max(t.token) FROM mailer_attempt t WHERE t.message_id = m.id) > m.token""",
    ),
)

EVENTS: Final = """
SELECT d.id, d.status, d.status_at, d.status_key, e.status, e.occurred_at, e.dedupe_key
FROM mailer_deliverystatus d JOIN mailer_deliveryevent e ON e.delivery_id = d.id ORDER BY d.id"""

FIGURES: Final = """
SELECT (SELECT count(*) FROM mailer_message) AS messages,
       (SELECT count(*) FROM mailer_deliveryevent WHERE source = 'webhook') AS events,
       (SELECT count(*) FROM mailer_message WHERE state = 'unknown') AS ambiguous,
       (SELECT coalesce(sum(acceptances - 1), 0) FROM chaos.judged
        WHERE acceptances > 1 AND promise = 'at least once' AND acceptances <= 1 + doubts) AS duplicates_unavoidable"""


def violations(sql: psycopg.Connection[Any]) -> list[Violation]:
    """Return all that breaks an invariant. The evidence has to be there: see `tests.chaos.evidence`."""
    found = [Violation(check.name, check.figure, row[0]) for check in CHECKS for row in sql.execute(check.query)]
    return found + [Violation("status_is_the_fold", "unconverged", offender) for offender in _unfolded(sql)]


def _unfolded(sql: psycopg.Connection[Any]) -> Iterator[str]:
    """Find the deliveries whose status is not the fold of their events, by the pure function."""
    with sql.transaction(), sql.cursor("events") as cursor:  # on the server: there may be millions
        cursor.itersize = 10_000
        cursor.execute(EVENTS)
        for delivery, rows in groupby(cursor, key=itemgetter(0, 1, 2, 3)):
            identifier, status, at, key = delivery
            mark = fold(Mark(Status(row[4]) if row[4] else None, row[5], row[6]) for row in rows)
            if mark is None or (mark.status, mark.occurred_at, mark.dedupe_key) != (status, at, key):
                yield f"{identifier} {status}, which should be {mark and mark.status}"


def figures(sql: psycopg.Connection[Any], found: Sequence[Violation]) -> dict[str, int]:
    """Return what is counted, by name."""
    row = sql.execute(FIGURES).fetchone()
    names = ("messages", "events", "ambiguous", "duplicates_unavoidable")
    counted = {name: int(value) for name, value in zip(names, row or (), strict=True)}
    for figure in ("lost", "duplicates_avoidable", "unconverged", "broken"):
        counted[figure] = sum(violation.figure == figure for violation in found)
    return counted
