"""Reconcile: ask providers what became of mails that no webhook tells of, and record it as webhooks are.

A delivery that is `sent` for ten minutes, or was deferred or bounced for now, and still is so an hour, six hours and a
day after, is asked about each time, if its provider can be asked (`webhooks.polls`). The sweep does it. It never holds
up the mail: a round makes few requests, all at once, and waits for seconds at most; a provider that throttles, refuses
or does not answer is left alone, by all processes, and its sending is not touched. What came of it is in `Inquiry`.

There is an end to it: a delivery is asked about no more once its last question was answered, or refused; nor after two
days, nor where its turn has not come for a day, since there is more to ask than the provider allows.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from queue import Empty, SimpleQueue
from typing import Any, Final
from uuid import UUID

import structlog
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction

from mailer import couriers, letters
from mailer.couriers import Ended, Response
from mailer.ledger import Source
from mailer.letters import UNREADABLE
from mailer.models import DeliveryStatus
from mailer.providers import PROVIDERS
from mailer.providers.base import get
from mailer.verdicts import Verdict
from webhooks import inbox, normal, polls
from webhooks.inbox import Told
from webhooks.models import Inquiry
from webhooks.polls import POLLS, Story
from webhooks.providers import Incoming

log = structlog.get_logger(__name__)

# Seconds after it was sent at which a delivery is asked about; the first is `ledger.INQUIRY`.
DELAYS: Final = (600, 3600, 6 * 3600, 24 * 3600)
# Seconds after it was sent from which on a delivery is asked about no more, answer or not; and for which one waits that
# nobody gets to ask about. Providers know of it for three days at least.
LATEST: Final = 48 * 3600
WAITING: Final = 24 * 3600
# Deliveries that one round gives up.
LIMIT: Final = 1000
# Seconds that one round waits for answers.
PATIENCE: Final = 3.0
# Seconds for which whoever asks has a delivery for himself.
HELD: Final = 60.0
# Seconds for which a provider is left alone, by what it answered; where it names a time after 429, for that.
SILENCE: Final[dict[Verdict, float]] = {
    Verdict.THROTTLED: 60.0,
    Verdict.AMBIGUOUS: 60.0,
    Verdict.NOT_SENT: 60.0,
    Verdict.CONFIGURATION: 3600.0,
    Verdict.SENDER: 3600.0,
}
# What nobody expects to be answered otherwise soon.
REFUSED: Final = frozenset({Verdict.CONFIGURATION, Verdict.SENDER})


@dataclass(slots=True)
class Question:
    """One mail that a provider is asked about, with those of its deliveries that are due."""

    provider: str
    esp_message_id: str
    deliveries: list[UUID]
    story: Story
    parts: list[Any] | None = None
    requests: int = 0
    error: str = ""
    silence: float = 0.0
    is_refused: bool = False


@dataclass(slots=True)
class Score:
    """What came of one provider's questions in a round."""

    asked: int = 0
    told: int = 0
    failed: int = 0
    error: str = ""
    silence: float = 0.0
    spared: int = 0
    answered: list[UUID] = field(default_factory=list)
    refused: list[UUID] = field(default_factory=list)


def reconcile() -> int:
    """Ask about deliveries whose time has come; return how many events were news.

    Safe in any number of processes: each takes its own, and holds them for a minute. A process that dies meanwhile
    leaves them to the next.
    """
    if not settings.RECONCILE:
        return 0
    _give_up()
    questions = [question for name in _due() for question in _claim(name)]
    if not questions:
        return 0
    _ask(questions)
    scores: dict[str, Score] = {}
    for question in questions:
        _record(question, scores.setdefault(question.provider, Score()))
    for name, score in scores.items():
        _settle(name, score)
    return sum(score.told for score in scores.values())


def _give_up() -> None:
    with connection.cursor() as cursor:
        cursor.execute(_GIVE_UP, {"names": list(POLLS), "waiting": WAITING, "limit": LIMIT})


def _due() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(_DUE, [list(POLLS)])
        return [name for (name,) in cursor.fetchall()]


@transaction.atomic
def _claim(name: str) -> list[Question]:
    """Take some of a provider's due deliveries, as many as its tokens allow; none where another process does so now.

    Each question takes the tokens that it may need at most; those that it did not need come back with its answer.
    """
    poll = POLLS[name]
    with connection.cursor() as cursor:
        cursor.execute(_KNOW, [name, poll.most])
        cursor.execute(_FREE, {"name": name, "rate": polls.rate(name), "burst": polls.burst(name)})
        if not (free := cursor.fetchone()) or free[0] < poll.most:
            return []
        limit = int(free[0] / poll.most)
        cursor.execute(_CLAIM, {"name": name, "limit": limit, "held": HELD, "latest": LATEST})
        deliveries: dict[str, list[UUID]] = {}
        for identifier, esp_message_id, is_asked in cursor.fetchall():
            if is_asked:
                deliveries.setdefault(esp_message_id, []).append(identifier)
        cursor.execute(_SPEND, [free[0] - len(deliveries) * poll.most, name])
    try:
        backend = letters.backend_at(PROVIDERS[name].backend)
    except (ImproperlyConfigured, *UNREADABLE) as error:
        # One that is used no more, and whose credentials are gone.
        log.warning("inquiry_failed", provider=name, error_class=type(error).__name__)
        _close(name, Score(error=type(error).__name__, silence=SILENCE[Verdict.CONFIGURATION]))
        return []
    return [Question(name, each, ids, poll.ask(backend, each)) for each, ids in deliveries.items()]


def _ask(questions: Iterable[Question]) -> None:
    """Make the requests, all at once, and let each question go on with its answer, until all are told or time is up."""
    courier, ended = couriers.of_this_process(), SimpleQueue[Ended[Question]]()
    under_way = [question for question in questions if _go_on(question, None, courier, ended)]
    deadline = time.monotonic() + PATIENCE
    while under_way:
        try:
            one = ended.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            break
        if not (_heard(one) and _go_on(one.about, letters.decoded(one.result), courier, ended)):
            under_way.remove(one.about)
    for question in under_way:
        question.error, question.silence = "TimeoutError", SILENCE[Verdict.AMBIGUOUS]


def _go_on(question: Question, answer: Any, courier: couriers.Courier, ended: "SimpleQueue[Ended[Question]]") -> bool:
    """Give a question the answer to its last request, and send the next one; tell whether there is one."""
    try:
        request = question.story.send(answer)
    except StopIteration as end:
        question.parts = end.value
        return False
    except UNREADABLE as error:
        question.error = type(error).__name__
        return False
    question.requests += 1
    try:
        courier.send(letters.prepared(PROVIDERS[question.provider], request), question, ended)
    except (ImproperlyConfigured, OSError, ValueError) as error:
        # Nobody can be trusted, or the API's address is none.
        question.error, question.silence = type(error).__name__, SILENCE[Verdict.CONFIGURATION]
        return False
    return True


def _heard(one: "Ended[Question]") -> bool:
    """Tell whether a request got an answer that says something; else note in the question what it got."""
    question = one.about
    if one.error is not None:  # whatever it is, the other questions, and all mail, go on
        question.error, question.silence = type(one.error).__name__, SILENCE[Verdict.AMBIGUOUS]
        return False
    response: Response = one.result
    body, provider = letters.decoded(response), PROVIDERS[question.provider]
    codes = {str(get(body, path)) for path in provider.error_codes}
    if response.status == HTTPStatus.NOT_FOUND or codes & POLLS[provider.name].unknown:
        question.parts = []  # not yet, or no more
        return False
    verdict = provider.verdict(response.status, body)
    if verdict is Verdict.ACCEPTED:
        return True
    question.error = f"http_{response.status}"
    question.silence = SILENCE.get(verdict, 0.0)
    question.is_refused = verdict in REFUSED
    if verdict is Verdict.THROTTLED:
        question.silence = letters.retry_after(response) or question.silence
    return False


def _record(question: Question, score: Score) -> None:
    """Record what was told of a mail, as a webhook's events are, and count what came of the question."""
    score.asked += 1
    score.spared += POLLS[question.provider].most - question.requests
    if question.parts is not None:
        question.error = _told(question, score) or question.error
    if question.error:
        score.failed += 1
        score.error, score.silence = question.error, max(score.silence, question.silence)
        log.warning("inquiry_failed", provider=question.provider, error_class=question.error)
    if question.is_refused:
        score.refused += question.deliveries
    elif not question.silence:
        score.answered += question.deliveries


def _told(question: Question, score: Score) -> str:
    """Record what a question was told; return the name of an error, or nothing."""
    name, parts = question.provider, question.parts or []
    try:
        contents = normal.read_parts(name, parts, Incoming({}, b""), receipt_id=None, source=Source.POLL)
        with transaction.atomic():
            [recorded] = inbox.record(name, [Told(contents, {"source": "poll"})])
    except Exception as error:  # as in `inbox.process`: whatever it is, it must not keep the mail waiting
        if inbox.is_away(error):
            raise
        return type(error).__name__
    score.told += len(recorded)
    return ", ".join(sorted(set(contents.unreadable)))[:64]


@transaction.atomic
def _settle(name: str, score: Score) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_NEXT, {"answered": score.answered, "refused": score.refused, "delays": list(DELAYS)})
    _close(name, score)
    log.info("inquiries_made", provider=name, asked=score.asked, told=score.told, failed=score.failed)


def _close(name: str, score: Score) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            _COUNT,
            {
                "name": name,
                "asked": score.asked,
                "told": score.told,
                "failed": score.failed,
                "error": score.error[:64],
                "silence": score.silence,
                "spared": score.spared,
                "burst": polls.burst(name),
            },
        )


_DELIVERY: Final = DeliveryStatus._meta.db_table
_INQUIRY: Final = Inquiry._meta.db_table

# It waits for no lock on a delivery, and so can be in nobody's circle.
_GIVE_UP: Final = f"""
WITH late AS MATERIALIZED (
    SELECT late.id FROM unnest(%(names)s::text[]) p(name) CROSS JOIN LATERAL (
        SELECT d.id FROM {_DELIVERY} d
        WHERE d.provider = p.name AND d.inquire_at <= now() - make_interval(secs => %(waiting)s)
        ORDER BY d.inquire_at LIMIT %(limit)s
        FOR NO KEY UPDATE SKIP LOCKED
    ) late
)
UPDATE {_DELIVERY} d SET inquire_at = NULL FROM late WHERE d.id = late.id"""

_DUE: Final = f"""
SELECT p.name FROM unnest(%s::text[]) p(name)
WHERE EXISTS (SELECT FROM {_DELIVERY} d WHERE d.provider = p.name AND d.inquire_at <= now())
  AND NOT EXISTS (SELECT FROM {_INQUIRY} i WHERE i.name = p.name AND i.silent_until > now())"""

_KNOW: Final = f"""
INSERT INTO {_INQUIRY} (name, tokens, refilled_at, asked, told, failed, error) VALUES (%s, %s, now(), 0, 0, 0, '')
ON CONFLICT (name) DO NOTHING"""

# The row is held until the claim is committed: who comes meanwhile passes over the provider.
_FREE: Final = f"""
SELECT least(%(burst)s, tokens + %(rate)s * extract(epoch FROM now() - refilled_at))::float
FROM {_INQUIRY} WHERE name = %(name)s AND (silent_until IS NULL OR silent_until <= now())
FOR NO KEY UPDATE SKIP LOCKED"""

_SPEND: Final = f"UPDATE {_INQUIRY} SET tokens = %s, refilled_at = now() WHERE name = %s"

# As `_GIVE_UP` does it. Of what nothing can be asked by, or no more, there is no next time.
_CLAIM: Final = f"""
WITH due AS MATERIALIZED (
    SELECT id,
           esp_message_id <> '' AND coalesce(sent_at, status_at) > now() - make_interval(secs => %(latest)s) AS asked
    FROM {_DELIVERY} WHERE provider = %(name)s AND inquire_at <= now()
    ORDER BY inquire_at LIMIT %(limit)s
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE {_DELIVERY} d SET inquire_at = CASE WHEN due.asked THEN now() + make_interval(secs => %(held)s) END
FROM due WHERE d.id = due.id
RETURNING d.id, d.esp_message_id, due.asked"""

# What has a final status by now has no next time. One whose question was refused comes back as soon as its provider may
# be asked again, but not after its last time. Deliveries are locked in the order of their ids, as in the ledger.
_NEXT: Final = f"""
WITH asked AS MATERIALIZED (
    SELECT id, coalesce(sent_at, status_at) AS sent_at FROM {_DELIVERY}
    WHERE inquire_at IS NOT NULL AND (
        id = ANY(%(answered)s) OR id = ANY(%(refused)s) AND coalesce(sent_at, status_at)
            <= now() - make_interval(secs => (SELECT max(delay) FROM unnest(%(delays)s::int[]) delay)))
    ORDER BY id FOR NO KEY UPDATE
)
UPDATE {_DELIVERY} d SET inquire_at = (
    SELECT min(asked.sent_at + make_interval(secs => delay)) FROM unnest(%(delays)s::int[]) delay
    WHERE asked.sent_at + make_interval(secs => delay) > now())
FROM asked WHERE d.id = asked.id"""

_COUNT: Final = f"""
UPDATE {_INQUIRY} SET asked = asked + %(asked)s, told = told + %(told)s, failed = failed + %(failed)s,
    tokens = least(%(burst)s, tokens + %(spared)s),
    error = CASE WHEN %(failed)s > 0 OR %(error)s <> '' THEN %(error)s ELSE error END,
    silent_until = CASE WHEN %(silence)s > 0 THEN now() + make_interval(secs => %(silence)s) ELSE silent_until END
WHERE name = %(name)s"""
