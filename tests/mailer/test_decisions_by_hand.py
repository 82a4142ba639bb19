"""The commands by which a person cancels a mail, or suppresses an address."""

import pytest
from django.core.management import CommandError, call_command

from mailer import suppressions
from mailer.models import Suppression
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
    ("options", "said"),
    [
        (["ada"], "valid email"),
        # As it stands in a mail program: nobody's mail goes to that, so it would hold back nobody.
        (["Ada <ada@example.com>"], "valid email"),
        (["ada@example.com, bob@example.com"], "valid email"),
        (["a@b.example", "--days", "0"], "more than 0"),
        (["a@b.example", "--days", "-1"], "--days"),
        (["a@b.example", "--days", "nan"], "--days: invalid days value"),
        (["a@b.example", "--days", "1e9"], "--days: invalid days value"),
        (["a@b.example", "--days", "1", "--release"], "not with --release"),
    ],
)
def test_suppress_address_says_what_is_wrong(db, options, said):
    with pytest.raises(CommandError, match=said):
        call_command("suppress_address", *options)

    assert not Suppression.objects.exists()


def test_release_what_a_provider_has_reported_in_a_form_of_its_own(db):
    suppressions.suppress("Ada <ada@example.com>", "hard_bounce", source="postmark")

    call_command("suppress_address", "ada <ADA@example.com>", release=True)

    assert Suppression.objects.exclude(released_at=None).count() == 1
