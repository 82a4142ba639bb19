"""What is left after a storm, once all has come to rest."""

import time
from typing import Any, Final

import psycopg

from tests.chaos import checks, evidence
from tests.chaos.ground import Ground, connect
from tests.chaos.hooks import replay

# The states in which a message is not at rest; in doubt it is, once nobody is to be asked about it any more.
UNFINISHED: Final = ("pending", "leased", "sending", "retry")
RESTLESS: Final = """
SELECT (SELECT count(*) FROM mailer_message WHERE state = ANY(%s) OR (state = 'unknown' AND inquire_at IS NOT NULL))
     + (SELECT count(*) FROM mailer_batch)
     + (SELECT count(*) FROM mailer_deliveryevent WHERE delivery_id IS NULL)"""

# A provider that can be searched knows only after minutes that it has never accepted a message. They pass at once, for
# what is in doubt and for nothing else.
MINUTES_PASS: Final = """
WITH doubted AS (
    UPDATE mailer_message
    SET first_ambiguous_at = first_ambiguous_at - interval '15 min', inquire_at = least(inquire_at, now())
    WHERE first_ambiguous_at > now() - interval '15 min' AND state = 'unknown' AND inquire_at IS NOT NULL
    RETURNING id
)
UPDATE mailer_attempt SET started_at = started_at - interval '15 min', finished_at = finished_at - interval '15 min'
WHERE message_id IN (SELECT id FROM doubted)"""
# So that nobody waits for minutes to repeat a batch; whoever repeats one now has it for himself meanwhile.
SECONDS_ARE_LEFT: Final = """
UPDATE mailer_batch SET repeat_at = now() + interval '3 seconds' WHERE repeat_at > now() + interval '3 seconds'"""


def is_at_rest(sql: psycopg.Connection[Any]) -> bool:
    """Tell whether no message is under way, and no event waits for its delivery."""
    return sql.execute(RESTLESS, [list(UNFINISHED)]).fetchone() == (0,)


def let_minutes_pass(sql: psycopg.Connection[Any]) -> None:
    """Make what is in doubt a quarter of an hour older, and have batches repeated soon."""
    sql.execute(MINUTES_PASS)
    sql.execute(SECONDS_ARE_LEFT)


def come_to_rest(ground: Ground, seconds: float, told: set[int]) -> float:
    """Wait until all is at rest, but not for longer; return the seconds that it took.

    What is not at rest by then is for the checks to find. Webhooks that their provider would post again in hours, or
    never, since it found the web server down too often, are posted for it; their numbers go into `told`.
    """
    begin = time.monotonic()
    with connect(ground.postgres.url) as sql:
        while time.monotonic() - begin < seconds:
            if is_at_rest(sql) and replay(ground, told) and is_at_rest(sql):
                break
            let_minutes_pass(sql)
            time.sleep(0.2)
    return time.monotonic() - begin


def judge(ground: Ground, answered: list[str], told: set[int]) -> dict[str, Any]:
    """Gather the evidence and check it; return the figures and what was found. `told` as in `come_to_rest`."""
    with connect(ground.postgres.url) as sql:
        evidence.gather(
            sql,
            accepted=ground.provider.accepted(),
            requested=ground.provider.requests(),
            hooks=(
                {**hook, "state": "delivered"} if hook["seq"] in told else hook for hook in ground.provider.webhooks()
            ),
            promised=answered,
        )
        found = checks.violations(sql)
        return {**checks.figures(sql, found), "violations": [str(violation) for violation in found]}
