"""The files that mails carry: one a content, there as long as a message needs it, and gone after that."""

import os
import threading
from datetime import timedelta

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, default_storage, storages
from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from mailer import files
from mailer.exceptions import FileUnavailable
from mailer.models import Attachment, Message
from tests.conftest import PATIENCE, in_threads, wait_until
from tests.mailer.conftest import change, enqueue

LOGO, BILL = b"a logo", b"a bill"
HALF_A_DAY = timedelta(hours=12)


@pytest.fixture(autouse=True, params=["disk", "memory"])
def storage(request, settings, tmp_path):
    """Django's two storages, empty; the others promise to behave alike."""
    backends = {
        "disk": {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": str(tmp_path)}},
        "memory": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    }
    settings.STORAGES = {**settings.STORAGES, "default": backends[request.param]}
    return default_storage


def keep(message: Message, *contents: bytes) -> None:
    with transaction.atomic():
        files.keep(message, {files.digest_of(content): content for content in contents})


def stored() -> set[bytes]:
    """Return the contents of all files in the storage."""
    return {files.read(name) for name in names()}


def names() -> list[str]:
    return [name for bucket in files._list(files.FOLDER)[0] for name in files._list(f"{files.FOLDER}/{bucket}")[1]]


def end(message: Message, **fields) -> None:
    """Let a message end, and its content be erased."""
    change(message, state="sent", finished_at=Now(), content=None, **fields)


def age(*contents: bytes, by: timedelta) -> None:
    """Let files look as if they were written long ago."""
    for content in contents:
        path = files._path(files.digest_of(content))
        then = timezone.now() - by
        if isinstance(default_storage, FileSystemStorage):
            os.utime(default_storage.path(path), (then.timestamp(), then.timestamp()))
        else:
            default_storage._resolve(path).modified_time = then


# --- Keep and read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["disk"], indirect=True)
def test_keep_brings_a_file_and_its_folders_to_the_disk(db, tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), fsync(file)))

    keep(enqueue(), LOGO)

    path = tmp_path / files._path(files.digest_of(LOGO))
    assert synced == [each.stat().st_ino for each in (path, *path.parents[:3])]


def test_keep_stores_what_is_read(db):
    keep(enqueue(), LOGO, b"")

    assert files.read(files.digest_of(LOGO)) == LOGO
    assert files.read(files.digest_of(b"")) == b""
    assert sorted(Attachment.objects.values_list("size", flat=True)) == [0, len(LOGO)]


def test_keep_writes_one_file_a_content(db, monkeypatch):
    keep(enqueue(), LOGO)
    monkeypatch.setattr(type(storages["default"]), "save", None)

    keep(enqueue(), LOGO)

    assert stored() == {LOGO}
    assert Attachment.objects.count() == 2


def test_keep_nothing(db, django_assert_num_queries):
    message = enqueue()

    with django_assert_num_queries(0):
        files.keep(message, {})


def test_keep_replaces_what_a_crash_left_half_written(db):
    default_storage.save(files._path(files.digest_of(LOGO)), ContentFile(LOGO[:3]))

    keep(enqueue(), LOGO)

    assert len(names()) == 1
    assert stored() == {LOGO}


def test_keep_lets_nobody_else_read_them(db, settings, tmp_path):
    from project.settings import STORAGES

    settings.STORAGES = {
        **settings.STORAGES,
        "default": {**STORAGES["default"], "OPTIONS": {**STORAGES["default"]["OPTIONS"], "location": str(tmp_path)}},
    }

    keep(enqueue(), LOGO)

    made = [path for path in tmp_path.rglob("*") if files.FOLDER in path.parts]
    assert {path.is_dir(): oct(path.stat().st_mode & 0o777) for path in made} == {True: "0o700", False: "0o600"}


def test_keep_in_a_storage_that_fails_raises(db, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(storages["default"]), "_save", full)

    with pytest.raises(FileUnavailable, match="a file cannot be written: OSError"):
        keep(enqueue(), LOGO)

    assert not Attachment.objects.exists()


def test_keep_in_a_storage_that_renames_raises(db, monkeypatch):
    monkeypatch.setattr(type(storages["default"]), "get_available_name", lambda *_, **__: "mail/other")

    with pytest.raises(FileUnavailable, match="must keep the names"):
        keep(enqueue(), LOGO)


def test_read_what_is_gone_raises(db):
    with pytest.raises(FileUnavailable, match="a file cannot be read: FileNotFoundError"):
        files.read(files.digest_of(LOGO))


def test_read_what_was_damaged_raises(db):
    default_storage.save(files._path(files.digest_of(LOGO)), ContentFile(BILL))

    with pytest.raises(FileUnavailable, match="another content"):
        files.read(files.digest_of(LOGO))


@pytest.mark.django_db(transaction=True)
def test_keep_of_one_content_by_many_at_once_writes_one_file():
    messages = [enqueue() for _ in range(8)]

    in_threads(8, lambda number: keep(messages[number], LOGO))

    assert len(names()) == 1
    assert stored() == {LOGO}
    assert Attachment.objects.count() == 8


@pytest.mark.django_db(transaction=True)
def test_keep_waits_for_no_transaction_that_keeps_the_same():
    first, second = enqueue(), enqueue()

    with transaction.atomic():
        files.keep(first, {files.digest_of(LOGO): LOGO})
        in_threads(1, lambda _: keep(second, LOGO))

    assert Attachment.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_keep_of_many_contents_in_any_order_does_not_deadlock():
    messages = [enqueue() for _ in range(6)]
    contents = [bytes([number]) * 9 for number in range(20)]

    def work(number: int) -> None:
        with transaction.atomic():
            for content in contents if number % 2 else reversed(contents):
                files.keep(messages[number], {files.digest_of(content): content})

    in_threads(6, work)

    assert stored() == {*contents}
    assert Attachment.objects.count() == 6 * 20


# --- Remove ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({}, True),
        ({"state": "sent", "finished_at": Now()}, True),
        ({"state": "unknown", "content": None}, False),
        ({"state": "sent", "finished_at": Now(), "content": None}, False),
        ({"state": "cancelled", "finished_at": Now(), "content": None}, False),
    ],
)
def test_remove_what_no_message_needs(db, fields, needed):
    message = enqueue(content={"body": "b"})
    keep(message, LOGO)
    change(message, **{"attempts": 1} | fields)

    assert files.remove_unneeded() == (not needed)

    assert stored() == ({LOGO} if needed else set())
    assert Attachment.objects.exists() == needed
    assert files.remove_unneeded() == 0


def test_remove_what_a_deleted_message_needed(db):
    message = enqueue()
    keep(message, LOGO)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM mailer_deliveryevent")
        cursor.execute("DELETE FROM mailer_deliverystatus")
        cursor.execute("DELETE FROM mailer_message")

    assert files.remove_unneeded() == 1

    assert stored() == set()


def test_remove_leaves_what_another_message_needs(db):
    ended, waiting = enqueue(content={"body": "b"}), enqueue(content={"body": "b"})
    keep(ended, LOGO, BILL)
    keep(waiting, LOGO)
    end(ended)

    assert files.remove_unneeded() == 1

    assert stored() == {LOGO}
    assert Attachment.objects.get().message == waiting


def test_remove_more_than_one_round_holds(db):
    for number in range(7):
        message = enqueue()
        keep(message, LOGO, bytes([number]))
        end(message)

    assert files.remove_unneeded(limit=2) == 8

    assert names() == []
    assert not Attachment.objects.exists()


def test_remove_where_nothing_was_ever_kept(db):
    assert files.remove_unneeded() == 0


@pytest.mark.django_db(transaction=True)
def test_remove_what_a_rollback_left_once_it_is_old():
    message = enqueue()
    with transaction.atomic():
        files.keep(message, {files.digest_of(LOGO): LOGO})
        transaction.set_rollback(True)
    assert not Attachment.objects.exists()

    age(LOGO, by=HALF_A_DAY)
    assert files.remove_unneeded() == 0
    age(LOGO, by=3 * HALF_A_DAY)
    assert files.remove_unneeded() == 1

    assert names() == []


def test_remove_leaves_old_files_that_are_needed(db):
    keep(enqueue(), LOGO)
    age(LOGO, by=3 * HALF_A_DAY)

    assert files.remove_unneeded() == 0

    assert stored() == {LOGO}


@pytest.mark.parametrize(("method", "done"), [("listdir", "listed"), ("get_modified_time", "dated")])
def test_remove_in_a_storage_that_fails_raises(db, monkeypatch, method, done):
    default_storage.save(files._path(files.digest_of(LOGO)), ContentFile(LOGO))
    monkeypatch.setattr(type(storages["default"]), method, lambda *_: 1 / 0)

    with pytest.raises(FileUnavailable, match=f"a file cannot be {done}: ZeroDivisionError"):
        files.remove_unneeded()


def test_remove_leaves_what_is_not_ours(db, monkeypatch):
    monkeypatch.setattr(files, "GRACE", -HALF_A_DAY)
    others = ("mail/notes/old.txt", "mail/ab/other", "mail/old.txt", "other/ab/old.txt")
    for path in (*others, "mail/ab/abc_renamed"):
        default_storage.save(path, ContentFile(b"x"))

    assert files.remove_unneeded() == 1

    assert all(map(default_storage.exists, others))
    assert not default_storage.exists("mail/ab/abc_renamed")


# --- Remove while somebody keeps ------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_remove_leaves_what_a_transaction_is_about_to_need():
    ended, coming = enqueue(), enqueue()
    keep(ended, LOGO)
    end(ended)

    with transaction.atomic():
        files.keep(coming, {files.digest_of(LOGO): LOGO})
        assert in_threads(1, lambda _: files.remove_unneeded()) == [0]

    assert stored() == {LOGO}
    assert Attachment.objects.get().message == coming


@pytest.mark.django_db(transaction=True)
def test_remove_leaves_an_old_orphan_that_a_transaction_is_about_to_need():
    coming = enqueue()
    default_storage.save(files._path(files.digest_of(LOGO)), ContentFile(LOGO))
    age(LOGO, by=3 * HALF_A_DAY)

    with transaction.atomic():
        files.keep(coming, {files.digest_of(LOGO): LOGO})
        assert in_threads(1, lambda _: files.remove_unneeded()) == [0]

    assert files.remove_unneeded() == 0
    assert stored() == {LOGO}


@pytest.mark.django_db(transaction=True)
def test_keep_writes_anew_what_is_just_being_removed(monkeypatch):
    ended, coming = enqueue(), enqueue()
    keep(ended, LOGO)
    end(ended)
    removing, waits = threading.Event(), "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    delete = default_storage.delete

    def slowly(name: str) -> None:
        """Delete once the other one waits for the lock."""
        if not removing.is_set():
            removing.set()
            wait_until(lambda: count(waits))
        delete(name)

    monkeypatch.setattr(type(storages["default"]), "delete", lambda _, name: slowly(name))

    def work(number: int) -> int:
        if number:
            assert removing.wait(PATIENCE)
            keep(coming, LOGO)
            return 0
        return files.remove_unneeded()

    assert in_threads(2, work) == [1, 0]
    assert stored() == {LOGO}
    assert Attachment.objects.get().message == coming


def count(query: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return int(cursor.fetchone()[0])


@pytest.mark.django_db(transaction=True)
def test_keep_and_remove_by_many_at_once_lose_no_file():
    contents = [bytes([number]) * 50 for number in range(3)]
    lost: list[object] = []

    def work(number: int) -> int:
        if number % 3 == 0:
            return sum(files.remove_unneeded() for _ in range(30))
        for turn in range(25):
            content = contents[(number + turn) % 3]
            message = enqueue(content={"body": "b"})
            keep(message, content)
            if files.read(files.digest_of(content)) != content:
                lost.append(message.pk)
            end(message)
        return 0

    removed = sum(in_threads(6, work)) + files.remove_unneeded()

    assert lost == []
    assert removed >= 3
    age(*stored(), by=3 * HALF_A_DAY)
    files.remove_unneeded()
    assert names() == []
