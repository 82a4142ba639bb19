"""Whose turn it is: the SQL that finds what is due, at a cost that no number of messages or flows changes.

Something waits in a priority, and in a *flow* of it. Two indexes lead there without a look at what stands between: by
priority and time, and by priority, flow and time. The flows of a priority stand in a circle, by a hash. A claim begins
at a random place and goes round, at most so many flows; those on the way share alike. So each flow has the same chance
of its turn, a large one as much as a small one. Many of those on the way may have nothing due, having all of it later,
or may be taken by another claimant: what they leave goes to whoever has waited longest.
"""

import random
from typing import Final

from mailer.models import Message

# Flows that a claim looks at in a priority; more where it is of more messages. A look costs 4 microseconds.
LEAPS: Final = 100

# What hashes are: PostgreSQL's integers.
_FIRST: Final = -(2**31)
_LAST: Final = 2**31 - 1


def drawn(limit: int) -> dict[str, int]:
    """Return what `DUE` is to be told: it finds `limit` messages at most, and begins at a random flow."""
    return {"limit": limit, "leaps": max(LEAPS, limit), "start": random.randint(_FIRST + 1, _LAST)}  # noqa: S311  # a fair chance, no secret


_MESSAGE: Final = Message._meta.db_table

_WAITS: Final = "m.state IN ('pending', 'retry') AND (m.expires_at IS NULL OR m.expires_at > now())"

# The place of what waits on a line, as the index `message_by_flow` has it: in the stretch of its priority, at the hash
# of its flow. Two flows of one hash, by one chance in four thousand million, have their turns together.
_STRETCH: Final = 2**32
_PLACE: Final = f"(CASE WHEN m.state IN ('pending', 'retry') THEN m.priority * {_STRETCH} + hashtext(m.flow) END)"
# Its state is not asked for by name, so that no other index looks like a way: PostgreSQL's statistics of a queue are
# old, and may say that nothing waits; then all ways cost the same, and it has taken one through 100,000 rows.
_HAS_PLACE: Final = "(m.expires_at IS NULL OR m.expires_at > now())"

# `level`: the priorities up to `last` in which something waits, the most urgent first, and when the first of it is due.
LEVELS: Final = f"""
WITH RECURSIVE level AS (
    (SELECT m.priority, m.run_at FROM {_MESSAGE} m
     WHERE {_WAITS} AND m.priority <= %(last)s
     ORDER BY m.priority, m.run_at LIMIT 1)
    UNION ALL
    SELECT next.* FROM level, LATERAL (
        SELECT m.priority, m.run_at FROM {_MESSAGE} m
        WHERE {_WAITS} AND m.priority <= %(last)s AND m.priority > level.priority
        ORDER BY m.priority, m.run_at LIMIT 1) next
)"""

_AT: Final = f"level.priority * {_STRETCH}"

# The ids of what is due in the priority of `level`, their rows locked. The circle is two arcs: from `start` to the
# last hash, and from the first one to `start`.
DUE: Final = f"""
WITH flow AS (
    SELECT leap.* FROM (VALUES (%(start)s, {_LAST}), ({_FIRST}, %(start)s - 1)) AS arc(low, high), LATERAL (
        WITH RECURSIVE leap AS (
            (SELECT {_PLACE} AS place, m.run_at FROM {_MESSAGE} m
             WHERE {_HAS_PLACE} AND {_PLACE} >= {_AT} + arc.low AND {_PLACE} <= {_AT} + arc.high
             ORDER BY {_PLACE}, m.run_at LIMIT 1)
            UNION ALL
            SELECT next.* FROM leap, LATERAL (
                SELECT {_PLACE} AS place, m.run_at FROM {_MESSAGE} m
                WHERE {_HAS_PLACE} AND {_PLACE} > leap.place AND {_PLACE} <= {_AT} + arc.high
                ORDER BY {_PLACE}, m.run_at LIMIT 1) next
        ) SELECT * FROM leap LIMIT %(leaps)s) leap
    LIMIT %(leaps)s
),
share AS MATERIALIZED (
    SELECT place, ceil(%(limit)s::float / count(*) OVER ())::int AS size
    FROM flow WHERE run_at <= now() ORDER BY random()
),
fair AS MATERIALIZED (
    SELECT own.id FROM share CROSS JOIN LATERAL (
        SELECT m.id FROM {_MESSAGE} m
        WHERE {_HAS_PLACE} AND {_PLACE} = share.place AND m.run_at <= now()
        ORDER BY m.run_at, m.id LIMIT share.size
        FOR NO KEY UPDATE SKIP LOCKED) own
    LIMIT %(limit)s
)
SELECT id FROM fair
UNION ALL
SELECT id FROM (
    SELECT m.id FROM {_MESSAGE} m
    WHERE {_WAITS} AND m.priority = level.priority AND m.run_at <= now() AND m.id NOT IN (SELECT id FROM fair)
    ORDER BY m.run_at LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED) longest"""
