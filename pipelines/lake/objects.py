"""Where the lake's objects are: one interface, with the folder behind it here and the bucket in `bucket`.

`read` returns an object with its version, `write` replaces it only if it still has that version. In a folder a file
lock ensures this, in a bucket the store's conditional PUT. A file of a folder is written whole or not at all.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeAlias
from uuid import uuid4

from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError

if TYPE_CHECKING:
    from .bucket import Bucket

Objects: TypeAlias = "Folder | Bucket"
"""A place for objects, addressed by path: both have the same methods."""
DATASET = "cloudflare"
"""The dlt dataset, below which all paths are."""
Version = str
"""Tells one content of an object from the next, and is nothing else: an ETag, say, which need not be an MD5."""
_ATTEMPTS = 50
_REFUSALS = 5
"""Conflicts in a row that no other writer can be the reason of."""
_ABANDONED_AFTER_SECONDS = 60


class StoredObject(NamedTuple):
    """An object's bytes and the version that they are."""

    body: bytes
    version: Version


class Listed(NamedTuple):
    """An object as a listing shows it."""

    size: int
    version: Version
    """Another one for another content: a bucket's ETag, a file's time of change."""


class ConflictError(Exception):
    """The condition of the write was not met, or not understood: read again. Its cause has the store's words."""


def update(objects: Objects, path: str, change: Callable[[bytes | None], bytes | None]) -> bool:
    """Replaces an object by the result of `change`, as if no one else wrote; False if that is None."""
    refused: object = ...
    refusals = 0
    for _ in range(_ATTEMPTS):
        with objects.exclusive():
            stored = objects.read(path)
            version = stored.version if stored else None
            body = change(stored.body if stored else None)
            if body is None:
                return False
            del stored
            try:
                objects.write(path, body, version)
            except ConflictError as error:
                cause = error.__cause__ or error
            else:
                return True
        # Unchanged since: no other writer is the reason, but a store that speaks another dialect than before.
        refusals = refusals + 1 if version == refused else 0
        refused = version
        if refusals:
            objects.learn()
        if refusals == _REFUSALS:
            hint = "look for a proxy before the store that alters ETags or shows old objects: docs/lake.md, Dialects"
            problem = f"the store does not replace {path}, which has not changed since it was read"
            if version is None:
                problem = f"the store does not create {path}, which is not there"
            raise AuditLogsError(problem, detail=" ".join(str(cause).split()), hint=hint)
    raise TemporaryError(f"other writers replace {path} all the time", detail=f"{_ATTEMPTS} conflicts in a row")


class Folder:
    """Objects as files below the root, in the folder of a lake. Every writer on this host takes the same lock."""

    def __init__(self, lake: Path, root: Path) -> None:
        self._lake, self._root = lake, root

    def read(self, path: str) -> StoredObject | None:
        """Reads the file."""
        try:
            return StoredObject((self._root / path).read_bytes(), "")
        except FileNotFoundError:
            return None

    def open(self, path: str) -> BinaryIO | None:
        """Opens the file."""
        try:
            return (self._root / path).open("rb")
        except FileNotFoundError:
            return None

    def is_there(self, folder: str) -> bool:
        """True if there is any file below the folder."""
        return any(file.is_file() for file in (self._root / folder).rglob("*"))

    def listing(self, folder: str) -> dict[str, Listed]:
        """Lists the files below the folder, by path."""
        listing: dict[str, Listed] = {}
        for file in self._files(folder):
            with suppress(FileNotFoundError):  # removed meanwhile
                if S_ISREG((found := file.stat()).st_mode):
                    name = file.relative_to(self._root).as_posix()
                    listing[name] = Listed(found.st_size, str(found.st_mtime_ns))
        return listing

    def _files(self, folder: str) -> list[Path]:
        """The files below the folder, which may be absent, but nothing else than a folder, and readable."""

        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise error

        return sorted(
            Path(where, name) for where, _, names in os.walk(self._root / folder, onerror=refuse) for name in names
        )

    def url(self, path: str) -> str:
        """The file's path."""
        return str(self._root / path)

    def write(self, path: str, body: bytes, version: Version | None) -> None:  # noqa: ARG002  # the lock is the condition
        """Replaces the file whole."""
        write_file(self._lake, self._root / path, body)

    def create(self, path: str, body: bytes) -> None:
        """Writes a file that is not there yet, whole; raises ConflictError if it is."""
        with replacing(self._lake, self._root / path, is_new=True) as file:
            file.write(body)

    @contextmanager
    def writing(self, path: str, changed_ns: int | None = None) -> Iterator[BinaryIO]:
        """As `replacing`; the file may be given its time of change."""
        with replacing(self._lake, self._root / path) as file:
            yield file
            if changed_ns is not None:
                file.flush()
                os.utime(file.fileno(), ns=(changed_ns, changed_ns))

    def delete(self, path: str) -> None:
        """Removes the file."""
        (self._root / path).unlink(missing_ok=True)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Holds the folder's writer lock."""
        with locked(lock_path(self._lake, "objects")):
            yield

    def learn(self) -> None:
        """Does nothing: the lock is the condition."""


def write_file(lake: Path, path: Path, body: bytes) -> None:
    """Writes a file of a lake, as `replacing`."""
    with replacing(lake, path) as file:
        file.write(body)


@contextmanager
def replacing(lake: Path, path: Path, *, is_new: bool = False) -> Iterator[BinaryIO]:
    """A new file, which takes the place of the old one at the block's end, or goes if the block fails.

    With `is_new`, there may be no old one: raises ConflictError.

    A reader sees the old file or the new one, and a power cut leaves one of them. Unfinished files lie in the lake's
    `.partial`: on the same disk, found without a search.
    """
    temporary = lake / ".partial" / uuid4().hex
    _make_folder(temporary.parent)
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _make_folder(path.parent)
        if is_new:
            _link(temporary, path)
        else:
            temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(temporary.parent)  # a write to an open file names none
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _link(temporary: Path, path: Path) -> None:
    """Gives a file its name for good, if no other file has it."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError as error:
        raise ConflictError(str(path)) from error
    temporary.unlink()


def remove_abandoned(lake: Path) -> None:
    """Removes the unfinished files of killed writers; one younger than a minute may be that of a writer beside us."""
    for path in (lake / ".partial").glob("*"):
        with suppress(FileNotFoundError):
            # A folder is not ours: S3_PREFIX may have named this place.
            if not path.is_dir() and path.stat().st_mtime < time.time() - _ABANDONED_AFTER_SECONDS:
                path.unlink()


def lock_path(lake: Path, purpose: str) -> Path:
    """The lock file of a folder lake: beside it, so that it holds nothing but dlt's files and ours."""
    return lake.with_name(f".{lake.name}.{purpose}.lock")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A block that one process of this host, and one thread of it, is in at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_folder(path: Path) -> None:
    """Makes the folder and those above it so that a power cut does not take them away with their files."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes the names in a folder last through a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
