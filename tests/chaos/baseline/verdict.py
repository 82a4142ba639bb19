"""How the baseline came out of the storm: counted by what the provider saw, not by what it believes itself."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from tests.chaos.ground import GRANIAN, Ground, connect
from tests.chaos.storm import Subject

WORKER: Final = ("-m", "celery", "--quiet", "-A", "tests.chaos.baseline.celery", "worker", "--concurrency", "2")

BASELINE: Final = Subject(
    programs={
        "web": (*GRANIAN, "--interface", "wsgi", "--blocking-threads", "8", "tests.chaos.baseline.wsgi:application"),
        "worker-1": WORKER,
        "worker-2": WORKER,
    },
    prepare=("-m", "django", "migrate", "--verbosity", "0"),
    register="/register",
    environ={"DJANGO_SETTINGS_MODULE": "tests.chaos.baseline.settings"},
)

STATUSES: Final = """
SELECT u.email, m.status FROM baseline_mail m JOIN auth_user u ON u.id = m.user_id"""


def judge(ground: Ground, answered: Sequence[str]) -> dict[str, int]:
    """Count the registrations that were answered and got no mail, those that got two, and statuses that stand still."""
    accepted = Counter(mail["to"][0] for mail in ground.provider.accepted())
    with connect(ground.postgres.url) as sql:
        statuses: dict[str, Any] = dict(sql.execute(STATUSES).fetchall())
    return {
        "lost": sum(accepted[address] == 0 for address in answered),
        "stuck": sum(status in {"queued", "sent"} and accepted[address] > 0 for address, status in statuses.items()),
        "duplicates": sum(count > 1 for count in accepted.values()),
    }
