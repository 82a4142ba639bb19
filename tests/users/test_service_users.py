"""Users that are programs: exactly what they may do, a token once, and no mail ever."""

from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from knox.models import AuthToken
from rest_framework.test import APIClient

from mailer.missing import gaps
from mailer.models import Message
from tests.api.conftest import places, problem_of
from users.models import AuditEntry, EmailChallenge, User

pytestmark = pytest.mark.django_db

VIEW = "mailer.view_deliverystatus"


@pytest.fixture
def create(capsys):
    """Run the command; return what it printed: the token alone."""

    def create(name="reports", *permissions, **options):
        call_command("create_service_user", name, permissions=permissions or (), **options)
        return capsys.readouterr().out.strip()

    return create


def ask(token, path="/api/v1/deliveries"):
    return APIClient().get(path, headers={"Authorization": f"Token {token}"})


def test_its_token_opens_what_was_named_and_nothing_else(create):
    token = create("reports", VIEW)

    assert ask(token).status_code == 200
    problem_of(ask(token, "/api/v1/webhook-receipts"), 403, "permission_denied")
    problem_of(ask(token, "/api/v1/audit"), 403, "permission_denied")


def test_it_has_exactly_the_permissions_named(create):
    create("reports", VIEW, "mailer.view_recipient", VIEW)

    user = User.objects.get()
    assert user.get_all_permissions() == {VIEW, "mailer.view_recipient"}
    assert (user.is_staff, user.is_superuser, user.is_service, user.is_active) == (False, False, True, True)


def test_it_has_no_password_and_nobody_can_log_in_as_it(create):
    create("reports", VIEW)

    assert not User.objects.get().has_usable_password()
    credentials = {"email": "reports@service.invalid", "password": "correct horse battery"}
    problem = problem_of(APIClient().post("/api/v1/auth/tokens", credentials), 400, "invalid")
    assert places(problem) == [("#/email", "invalid")]


def test_it_is_never_mailed(create):
    create("reports", VIEW)

    for path in ("accounts/register", "accounts/verify-email/resend"):
        body = {"email": "Reports@Service.Invalid", "password": "correct horse battery"}
        problem_of(APIClient().post(f"/api/v1/{path}", body), 400, "invalid")
    for gap in gaps(days=1):
        assert [*gap.fill()] == []
    assert not Message.objects.exists()
    assert not EmailChallenge.objects.exists()


def test_its_token_is_stored_as_a_hash_and_printed_alone(create):
    token = create("reports", VIEW)

    assert len(token) == 64
    assert token not in str([*AuthToken.objects.values()])


@pytest.mark.parametrize(("days", "lives"), [(365, 365), (0, None), (0.5, 0.5)])
def test_its_token_lives_as_long_as_was_said(create, days, lives):
    create("reports", VIEW, days=days)

    expiry = AuthToken.objects.get().expiry
    if lives is None:
        assert expiry is None
    else:
        assert abs(expiry - timezone.now() - timedelta(days=lives)) < timedelta(minutes=1)


def test_a_permission_that_does_not_exist_is_named_with_those_that_do(create):
    with pytest.raises(CommandError) as refused:
        create("reports", VIEW, "mailer.view_everything")

    assert "no permission mailer.view_everything. There are:" in str(refused.value)
    assert "\n  mailer.view_deliverystatus\n" in str(refused.value)
    assert "\n  users.view_auditentry\n" in str(refused.value)
    assert not User.objects.exists()


@pytest.mark.parametrize("name", ["", "Reports", "a b", "a@b", "a-", "a" * 64, "ä", "a\n"])
def test_a_name_that_is_none_is_refused(create, name):
    with pytest.raises(CommandError, match="small letters"):
        create(name, VIEW)


@pytest.mark.parametrize("options", [{"days": -1}, {"days": float("nan")}, {"rotate": True, "overlap_hours": -1}])
def test_a_time_that_is_none_is_refused(create, options):
    with pytest.raises(CommandError, match="negative"):
        create("reports", VIEW, **options)


def test_one_that_may_do_nothing_is_refused(create):
    with pytest.raises(CommandError, match="--permission"):
        create("reports")


def test_one_that_is_there_is_left_as_it_is(create):
    token = create("reports", VIEW)

    with pytest.raises(CommandError, match="--rotate"):
        create("reports", "mailer.view_recipient")

    assert ask(token).status_code == 200
    assert User.objects.get().get_all_permissions() == {VIEW}


class TestRotate:
    def test_another_token_takes_the_place_of_the_one_before(self, create):
        before = create("reports", VIEW)

        after = create("reports", rotate=True)

        problem_of(ask(before), 401, "authentication_failed")
        assert ask(after).status_code == 200
        assert User.objects.get().get_all_permissions() == {VIEW}

    def test_the_one_before_may_live_on_for_a_while(self, create):
        before = create("reports", VIEW, days=0)

        after = create("reports", rotate=True, overlap_hours=2)

        assert [ask(token).status_code for token in (before, after)] == [200, 200]
        ends = AuthToken.objects.get(token_key=before[:15]).expiry
        assert abs(ends - timezone.now() - timedelta(hours=2)) < timedelta(minutes=1)

    def test_and_never_longer_than_it_had(self, create):
        before = create("reports", VIEW, days=0.01)
        expiry = AuthToken.objects.get().expiry

        create("reports", rotate=True, overlap_hours=48)

        assert AuthToken.objects.get(token_key=before[:15]).expiry == expiry

    def test_permissions_that_are_named_take_the_place_of_those_before(self, create):
        create("reports", VIEW)

        create("reports", "mailer.view_recipient", rotate=True)

        assert User.objects.get().get_all_permissions() == {"mailer.view_recipient"}

    def test_one_that_is_not_there_is_refused(self, create):
        User.objects.create_user("person@service.invalid")

        for name in ("reports", "person"):
            with pytest.raises(CommandError, match="no service user"):
                create(name, rotate=True)

    def test_one_that_is_locked_out_is_refused(self, create):
        create("reports", VIEW)
        User.objects.update(is_active=False)

        with pytest.raises(CommandError, match="locked out"):
            create("reports", rotate=True)


def test_what_is_done_is_noted(create):
    create("reports", VIEW)
    create("reports", rotate=True)

    noted = AuditEntry.objects.order_by("id").values_list("action", "user_id")
    pk = User.objects.get().pk
    assert [*noted] == [(action, pk) for action in ("registered", "token_made", "token_revoked", "token_made")]
