"""The files that messages carry: each kept once, in Django's default storage, for as long as a message needs it.

A file's name is the digest of its content, so that the storage itself says what is there already. A row of
`Attachment` says that a message needs it. Three things may happen to one file at once:

- *Keep*, for a message that a transaction is about to commit: nobody sees its row yet. It holds the lock of the file's
  bucket, shared, from before it looks for the file until that transaction ends. No mail waits for another.
- *Write*, where the file is not there or, since a crash, only a part of it: one writer of a bucket at a time, for as
  long as the writing takes.
- *Remove*, where no row needs the file any more: it tries for its bucket's lock alone, looks once more, and deletes the
  file before it lets go. It never waits: where somebody is just keeping a file, it is for the next time.

So a file is never removed between somebody's look and somebody's commit; and who comes while it is removed waits, looks
after that, and writes it anew. Locks of a bucket and not of a file, since a transaction that sends very many mails
would fill the server's table of locks.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, default_storage
from django.db import connection, transaction
from django.utils import timezone

from mailer.exceptions import FileUnavailable
from mailer.models import Attachment, Message

log = structlog.get_logger(__name__)

FOLDER: Final = "mail"
BUCKET: Final = re.compile(r"[0-9a-f]{2}")

# How old a file must be that no message needs: its message may not be committed yet, and clocks differ.
GRACE: Final = timedelta(days=1)

# The first numbers of PostgreSQL's advisory locks; the second is the bucket's.
KEEPING: Final = 0x6D61696C
WRITING: Final = KEEPING + 1


def digest_of(content: bytes) -> str:
    """Return the name of a file with this content: its SHA-256, in hex."""
    return hashlib.sha256(content).hexdigest()


def keep(message: Message, files: Mapping[str, bytes]) -> None:
    """Store files, by digest, and note that a message needs them, in the transaction that writes the message.

    What is there already is not written again. Raises `FileUnavailable` when the storage does not take them.
    """
    if not files:
        return
    with connection.cursor() as cursor:
        cursor.execute(_HOLD, [KEEPING, sorted({_bucket(digest) for digest in files})])
    for digest, content in files.items():
        if not _is_whole(digest, len(content)):
            _write(digest, content)
    Attachment.objects.bulk_create(
        Attachment(message=message, digest=digest, size=len(content)) for digest, content in files.items()
    )


def read(digest: str) -> bytes:
    """Return the content of a file. Raises `FileUnavailable` when it cannot be read, or is not what was written."""
    with _storage_errors("read"), default_storage.open(_path(digest)) as file:
        content: bytes = file.read()
    if digest_of(content) != digest:
        raise FileUnavailable("a file has another content than it was written with")
    return content


def remove_unneeded(limit: int = 1000) -> int:
    """Remove the files that no message needs any more, and return how many; `limit` rows in one transaction.

    A message needs its files until it has ended and its content is erased, or until it is deleted. What a crash left
    behind, or a transaction that was rolled back, goes once it is a day old. Call it outside of a transaction; safe in
    any number of processes.
    """
    removed = 0
    while digests := _forget(limit):
        removed += sum(_remove(digest) for digest in sorted(digests))
    return removed + sum(_remove(name) for name in _orphans())


def _forget(limit: int) -> set[str]:
    """Delete rows of messages that need no files, and return the files that were theirs; skip what others delete."""
    with connection.cursor() as cursor:
        cursor.execute(_FORGET, [limit])
        return {row[0] for row in cursor.fetchall()}


def _remove(name: str) -> bool:
    """Delete a file unless a message needs it, or one that is just being written may."""
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", [KEEPING, _bucket(name)])
        if cursor.fetchone() != (True,):
            return False
        # A statement of its own: it sees all that was committed before the lock was granted.
        if Attachment.objects.filter(digest=name).exists():
            return False
        with _storage_errors("removed"):
            if not default_storage.exists(_path(name)):
                return False
            default_storage.delete(_path(name))
    return True


def _orphans() -> Iterator[str]:
    """Return the names of old files that no row knows."""
    for bucket in filter(BUCKET.fullmatch, _list(FOLDER)[0]):
        names = _list(f"{FOLDER}/{bucket}")[1]
        known = set(Attachment.objects.filter(digest__in=names).values_list("digest", flat=True))
        yield from filter(_is_old, sorted({*names} - known))


def _is_old(name: str) -> bool:
    try:
        with _storage_errors("dated"):
            return default_storage.get_modified_time(_path(name)) < timezone.now() - GRACE
    except FileUnavailable:
        if default_storage.exists(_path(name)):
            raise
        return False  # somebody else has removed it just now


def _list(folder: str) -> tuple[list[str], list[str]]:
    """Return the folders and the files in a folder: none where it does not exist yet."""
    try:
        with _storage_errors("listed"):
            folders, files = default_storage.listdir(folder)
    except FileUnavailable as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        return [], []
    return folders, files


def _path(name: str) -> str:
    return f"{FOLDER}/{name[:2]}/{name}"


def _bucket(name: str) -> int:
    return int(name[:2], 16)


def _is_whole(digest: str, size: int) -> bool:
    with _storage_errors("found"):
        return default_storage.exists(_path(digest)) and default_storage.size(_path(digest)) == size


def _write(digest: str, content: bytes) -> None:
    path = _path(digest)
    with _alone(WRITING, _bucket(digest)):
        if _is_whole(digest, len(content)):
            return
        with _storage_errors("written"):
            default_storage.delete(path)  # the part that a crash left: a storage would evade it with another name
            if default_storage.save(path, ContentFile(content)) != path:
                raise FileUnavailable("STORAGES['default'] must keep the names it is given")
            _sync(path)


def _sync(path: str) -> None:
    """Bring a file, and the folders it may have made, to the disk: the row that needs it will be there, too."""
    if not isinstance(default_storage, FileSystemStorage):
        return
    file = Path(default_storage.path(path))
    for entry in (file, *file.parents[:3]):
        descriptor = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _alone(lock: int, bucket: int) -> Iterator[None]:
    """Hold a lock for the block alone, not until the caller's transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s, %s)", [lock, bucket])
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [lock, bucket])


@contextmanager
def _storage_errors(done: str) -> Iterator[None]:
    """Raise `FileUnavailable` for whatever a storage raises."""
    try:
        yield
    except FileUnavailable:
        raise
    except Exception as error:  # each storage has errors of its own: botocore's are no OSError
        raise FileUnavailable(f"a file cannot be {done}: {type(error).__name__}") from error


_ATTACHMENT: Final = Attachment._meta.db_table
_MESSAGE: Final = Message._meta.db_table

# Safe in any order: a shared lock waits for a removal alone, and a removal waits for nobody.
_HOLD: Final = "SELECT pg_advisory_xact_lock_shared(%s, bucket) FROM unnest(%s::int[]) AS bucket"

# A message's content is never put back, so what is not needed once is not needed for ever. It comes with the first
# intent at the latest, so a message in doubt without one has lost it.
_FORGET: Final = f"""
DELETE FROM {_ATTACHMENT} WHERE id IN (
    SELECT a.id FROM {_ATTACHMENT} a
    WHERE NOT EXISTS (
        SELECT FROM {_MESSAGE} m
        WHERE m.id = a.message_id
            AND (m.content IS NOT NULL OR (m.finished_at IS NULL AND m.state <> 'unknown')))
    ORDER BY a.id LIMIT %s
    FOR UPDATE SKIP LOCKED)
RETURNING digest"""
