"""The commands by which a person cancels a mail, or suppresses an address."""

import pytest
from django.core.management import CommandError, call_command

from mailer import suppressions
from tests.mailer.conftest import change, enqueue, read


def test_cancel_mail_cancels_what_waits_and_names_what_does_not(db):
    waiting, sent = enqueue(), enqueue()
    change(sent, state="sent")

    with pytest.raises(CommandError, match=f"Not waiting: {sent.pk}"):
        call_command("cancel_mail", str(waiting.pk), str(sent.pk))

    assert (read(waiting).state, read(sent).state) == ("cancelled", "sent")


def test_suppress_address_and_release_it(db, capsys):
    call_command("suppress_address", "Ada@Example.com", days=1)
    call_command("suppress_address", "ada@example.com")
    assert suppressions.standing(["ada@example.com"]) == {"ada@example.com": {"manual"}}

    call_command("suppress_address", "ada@example.com", release=True)

    assert suppressions.standing(["ada@example.com"]) == {}
    assert capsys.readouterr().out.splitlines() == [
        "Suppressed.",
        "It was suppressed for that already; its end was put off.",
        "1 suppressions released.",
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"address": "ada"},
        {"address": "a@b.example", "days": -1.0},
        {"address": "a@b.example", "days": 1.0, "release": True},
    ],
)
def test_suppress_address_says_what_is_wrong(db, options):
    with pytest.raises(CommandError):
        call_command("suppress_address", options.pop("address"), **options)
