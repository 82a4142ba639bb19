"""What is noted of what happens to accounts, from where, and that it stays as it is."""

from datetime import timedelta

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.hashers import make_password
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse
from knox.models import AuthToken
from rest_framework.test import APIClient

from tests.api.conftest import client_of, make_user, problem_of
from tests.conftest import in_threads
from users import audit, challenges, tasks
from users.audit import Action
from users.models import AuditEntry, User

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
ADA = {"email": "ada@example.com", "password": PASSWORD}
REGISTER, VERIFY, TOKENS = (
    "/api/v1/accounts/register",
    "/api/v1/accounts/verify-email",
    "/api/v1/auth/tokens",
)


def noted(user=None):
    """Return the actions noted, of one user or of all, oldest first."""
    entries = AuditEntry.objects.order_by("id")
    return [entry.action for entry in (entries if user is None else entries.filter(user_id=user.pk))]


def old(days, **fields):
    """Write an entry as old as that."""
    return AuditEntry.objects.create(**{"action": Action.VERIFIED, "at": Now() - timedelta(days=days), **fields})


@pytest.fixture
def ada():
    """One of whom nothing is noted yet."""
    return User.objects.get(pk=make_user("ada@example.com").pk)


class TestWhatIsNoted:
    def test_from_registration_to_login(self):
        client = APIClient()
        client.post(REGISTER, ADA)
        user = User.objects.get()
        client.post(VERIFY, {"token": challenges.link_token(user.challenges.get())})
        client.post(TOKENS, {**ADA, "password": "a wrong one"})
        token = client.post(TOKENS, ADA).json()["token"]
        client.delete(f"{TOKENS}/current", headers={"Authorization": f"Token {token}"})

        assert noted(user) == ["registered", "verified", "login_failed", "logged_in", "token_revoked"]

    def test_a_second_registration_of_an_address(self, ada):
        APIClient().post(REGISTER, ADA)

        assert noted(ada) == ["registered_again"]

    def test_a_login_to_an_address_that_nobody_has(self, ada):
        APIClient().post(TOKENS, {**ADA, "email": "nobody@example.com"})

        assert [*AuditEntry.objects.values_list("action", "user_id")] == [("login_failed", None)]

    def test_a_ban_and_its_end_once_each(self, ada):
        for is_active in (False, False, True, True):
            ada.is_active = is_active
            ada.save()

        assert noted() == ["banned", "unbanned"]

    def test_a_ban_by_an_object_that_was_read_before_another(self, ada):
        stale = User.objects.get(pk=ada.pk)
        User.objects.filter(pk=ada.pk).update(is_active=False)

        stale.is_active = False
        stale.save()
        stale.is_active = True
        stale.save(update_fields=["is_active"])

        assert noted() == ["unbanned"]

    def test_a_ban_by_an_operator_in_the_admin_says_who_and_from_where(self, ada):
        root = make_user("root@example.com", is_staff=True, is_superuser=True)
        client = Client(REMOTE_ADDR="192.0.2.7", HTTP_USER_AGENT="Browser/1")
        client.force_login(root)

        # An unticked box, on a page that showed it ticked.
        ticked = {"email": ada.email, "initial-email": ada.email, "locale": "en", "initial-is_active": "True"}
        client.post(reverse("admin:users_user_change", args=[ada.pk]), ticked)

        entry = AuditEntry.objects.get(action="banned")
        assert (entry.user_id, entry.actor_id, entry.ip, entry.user_agent) == (
            ada.pk,
            root.pk,
            "192.0.2.7",
            "Browser/1",
        )

    def test_another_address(self, ada):
        ada.email = "lovelace@example.com"
        ada.save()

        assert noted() == ["address_changed"]

    def test_another_spelling_of_an_address_is_none(self, ada):
        ada.email = "Ada@Example.com"
        ada.save()

        assert noted() == []

    def test_another_password(self, ada):
        ada.set_password("another good one")
        ada.save(update_fields=["password"])

        assert noted() == ["password_changed"]

    @pytest.mark.parametrize("fields", [None, ["password", "email_verified_at"]])
    def test_another_hash_that_was_made_before(self, ada, fields):
        ada.password = make_password("another good one")
        ada.save(update_fields=fields)

        assert noted() == ["password_changed"]

    def test_a_password_that_is_taken_away(self, ada):
        ada.set_unusable_password()
        ada.save()

        assert noted() == ["password_changed"]

    def test_a_new_hash_of_the_same_password_is_none(self, ada, settings):
        settings.PASSWORD_HASHERS = ["users.hashers.Argon2idHasher", *settings.PASSWORD_HASHERS]

        assert authenticate(username=ada.email, password=PASSWORD) == ada
        assert User.objects.get().password.startswith("argon2")
        assert noted() == []

    def test_what_is_saved_and_not_changed_is_nothing(self, ada, django_assert_num_queries):
        ada.save()
        with django_assert_num_queries(1):
            ada.save(update_fields=["last_login"])

        assert noted() == []

    def test_fields_that_are_not_saved_are_not_noted(self, ada):
        ada.is_active = False
        ada.set_password("another good one")
        ada.save(update_fields=["locale"])

        assert noted() == []

    @pytest.mark.parametrize("delete", [lambda user: user.delete(), lambda user: User.objects.all().delete()])
    def test_a_deletion_which_the_entries_outlive(self, delete):
        user = User.objects.create_user("ada@example.com")
        pk = user.pk

        delete(user)

        assert [*AuditEntry.objects.order_by("id").values_list("action", "user_id")] == [
            ("registered", pk),
            ("deleted", pk),
        ]

    def test_fixtures_note_nothing(self, tmp_path, ada):
        call_command("dumpdata", "users.user", output=tmp_path / "users.json")
        ada.is_active = False
        User.objects.bulk_update([ada], ["is_active"])

        call_command("loaddata", tmp_path / "users.json", verbosity=0)

        assert User.objects.get().is_active
        assert noted() == []

    def test_what_is_rolled_back_leaves_no_entry(self, ada):
        with transaction.atomic():
            ada.is_active = False
            ada.save()
            transaction.set_rollback(True)

        assert noted() == []

    def test_the_time_is_the_databases(self, ada):
        audit.note(Action.VERIFIED, ada)

        with connection.cursor() as cursor:
            cursor.execute("SELECT now()")  # this test's transaction
            [begin] = cursor.fetchone()
        assert begin <= AuditEntry.objects.get().at


@pytest.mark.django_db(transaction=True)
def test_of_many_bans_at_once_one_is_noted():
    ada = make_user("ada@example.com")

    def ban(_):
        user = User.objects.get(pk=ada.pk)
        user.is_active = False
        user.save()

    in_threads(8, ban)

    assert noted() == ["banned"]


class TestFromWhere:
    @pytest.mark.parametrize(
        ("address", "ip"),
        [
            ("192.0.2.7", "192.0.2.7"),
            ("2001:db8::7", "2001:db8::7"),
            ("fe80::1%eth0", "fe80::1"),
            ("", None),
            ("unix:", None),
            ("let-slip", None),
        ],
    )
    def test_the_clients_address(self, address, ip):
        APIClient(REMOTE_ADDR=address).post(REGISTER, ADA)

        assert AuditEntry.objects.get().ip == ip

    def test_behind_a_proxy_the_place_that_it_has_written(self, settings):
        settings.NUM_PROXIES = 1

        APIClient(REMOTE_ADDR="10.0.0.1").post(REGISTER, ADA, headers={"X-Forwarded-For": "198.51.100.1, 192.0.2.7"})

        assert AuditEntry.objects.get().ip == "192.0.2.7"

    def test_a_header_that_anybody_can_send_says_nothing(self):
        APIClient(REMOTE_ADDR="192.0.2.7").post(REGISTER, ADA, headers={"X-Forwarded-For": "198.51.100.1"})

        assert AuditEntry.objects.get().ip == "192.0.2.7"

    def test_what_the_client_calls_itself_is_cut_off_and_holds_no_address(self):
        agent = "Bot\x1b[31m (ada@example.com) " + "x" * 500

        APIClient().post(REGISTER, ADA, headers={"User-Agent": agent})

        [kept] = AuditEntry.objects.values_list("user_agent", flat=True)
        assert kept.startswith("Bot[31m (")
        assert "***@example.com) xxx" in kept
        assert len(kept) == 200
        assert "ada" not in kept

    def test_outside_of_a_request_there_is_none(self, ada):
        audit.note(Action.VERIFIED, ada)

        entry = AuditEntry.objects.get()
        assert (entry.ip, entry.user_agent, entry.actor_id) == (None, "", None)

    def test_a_request_that_is_over_is_forgotten(self, ada):
        APIClient(REMOTE_ADDR="192.0.2.7").post(TOKENS, {})

        audit.note(Action.VERIFIED, ada)

        assert AuditEntry.objects.get().ip is None

    def test_nothing_noted_is_an_address_or_a_token(self):
        client = APIClient()
        client.post(REGISTER, ADA)
        token = client.post(TOKENS, ADA).json()["token"]

        text = str([*AuditEntry.objects.values()])
        assert "ada" not in text
        assert token[:15] not in text


class TestStays:
    @pytest.mark.parametrize("days", [0, 29, 31, 4000])
    @pytest.mark.parametrize(
        "change",
        [
            lambda entries: entries.update(user_id=7),
            lambda entries: entries.delete(),
            lambda entries: entries.get().delete(),
            lambda entries: entries.get().save(),
        ],
    )
    def test_nobody_changes_or_deletes_an_entry(self, days, change):
        entry = old(days)

        with pytest.raises(IntegrityError, match="neither changed nor deleted"), transaction.atomic():
            change(AuditEntry.objects.all())

        assert AuditEntry.objects.get() == entry

    @pytest.mark.parametrize(
        ("days", "statement"),
        [
            (0, "DELETE FROM users_auditentry"),
            (29, "DELETE FROM users_auditentry"),
            (4000, "UPDATE users_auditentry SET user_id = 7"),
        ],
    )
    def test_not_even_a_cleanup_deletes_what_is_young_or_changes_what_is_old(self, days, statement):
        entry = old(days)

        with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL users.audit_cleanup = 'on'; {statement}")

        assert AuditEntry.objects.get() == entry


class TestCleanup:
    def test_takes_what_is_older_than_the_setting(self, settings, monkeypatch):
        settings.AUDIT_DAYS = 100
        monkeypatch.setattr(audit, "BATCH", 2)
        kept = [old(days) for days in (0, 31, 99)]
        for days in (101, 102, 103):
            old(days)

        assert tasks.cleanup() == 3

        assert {*AuditEntry.objects.all()} == {*kept}

    def test_leaves_nothing_behind_by_which_more_could_be_deleted(self):
        old(500)
        assert sum(audit.forget(400)) == 1
        old(500)

        with pytest.raises(IntegrityError), transaction.atomic():
            AuditEntry.objects.all().delete()

    def test_takes_nothing_young_whatever_it_is_told(self):
        old(29)

        assert sum(audit.forget(0)) == 0

    def test_the_command_says_how_many(self, capsys):
        old(40)
        old(50)

        call_command("cleanup_audit", days=45)

        assert capsys.readouterr().out == "audit entries: 1\n"

    @pytest.mark.parametrize("days", [0, 29.9, float("nan")])
    def test_the_command_refuses_fewer_days_than_the_least(self, days):
        with pytest.raises(CommandError, match="30 days at least"):
            call_command("cleanup_audit", days=days)


class TestShown:
    @pytest.fixture
    def auditor(self):
        return client_of(make_user("auditor@example.net", "view_auditentry"))

    def test_to_operators_newest_first(self, auditor, ada):
        audit.note(Action.BANNED, ada)
        audit.note(Action.UNBANNED, ada)

        results = auditor.get("/api/v1/audit").json()["results"]

        assert [(one["action"], one["user_id"]) for one in results] == [("unbanned", ada.pk), ("banned", ada.pk)]

    @pytest.mark.parametrize(
        ("query", "count"),
        [
            ({"action": "banned"}, 1),
            ({"user_id": 1}, 0),
            ({"after": "2026-01-01T00:00:00Z"}, 2),
            ({"before": "2026-01-01T00:00:00Z"}, 0),
        ],
    )
    def test_by_filters(self, auditor, query, count):
        audit.note(Action.BANNED, 77)
        audit.note(Action.VERIFIED, 78)

        assert len(auditor.get("/api/v1/audit", query).json()["results"]) == count

    @pytest.mark.parametrize("value", ["x", "-1", "1e400", "9" * 30, "1.5", "NaN"])
    def test_an_id_that_is_none_is_named(self, auditor, value):
        problem_of(auditor.get("/api/v1/audit", {"user_id": value}), 400, "invalid")

    def test_to_nobody_without_the_permission(self, ada):
        problem_of(client_of(ada).get("/api/v1/audit"), 403, "permission_denied")
        problem_of(APIClient().get("/api/v1/audit"), 401, "not_authenticated")

    def test_in_the_admin_to_look_at_only(self, admin_client, ada):
        audit.note(Action.BANNED, ada)
        entry = AuditEntry.objects.get(action="banned")
        page = reverse("admin:users_auditentry_change", args=[entry.pk])

        assert "was banned" in admin_client.get(reverse("admin:users_auditentry_changelist")).content.decode()
        assert admin_client.get(page).status_code == 200
        assert admin_client.post(page, {"user_id": 7}).status_code == 403
        assert admin_client.get(reverse("admin:users_auditentry_add")).status_code == 403
        assert admin_client.post(reverse("admin:users_auditentry_delete", args=[entry.pk])).status_code == 403


def test_no_token_is_in_the_row_of_one_that_was_revoked(ada):
    client = client_of(ada)
    key = AuthToken.objects.get().token_key

    client.delete(f"{TOKENS}/{key}")

    assert key not in str([*AuditEntry.objects.values()])
