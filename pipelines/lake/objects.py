"""Where the lake's objects are: a folder or a bucket, with one question and one promise alike.

`read` gives an object with its version, `write` replaces it only if it still has that version. In a folder a file
lock sees to that, in a bucket (`bucket`) the store's conditional PUT.
"""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError

from .atomic_files import AtomicFolder
from .parted_file import PartedFile

Version = str
"""Tells one content of an object from the next, and is nothing else: an ETag, say, which need not be an MD5."""
_ATTEMPTS = 50
_REFUSALS = 5
"""Of a write that no other writer can be the reason of."""
_NEVER = object()


class StoredObject(NamedTuple):
    """An object's bytes and what tells this version of it from the next."""

    body: bytes
    version: Version


class ConflictError(Exception):
    """The condition of the write was not met, or not understood: read again. Its cause has the store's words."""


class Objects(Protocol):
    """A place for objects, addressed by path."""

    def read(self, path: str) -> StoredObject | None:
        """The object, or None."""

    def open(self, path: str) -> BinaryIO | PartedFile | None:
        """The object, to be read in parts, or None; a part raises ConflictError if the object was replaced."""

    def is_there(self, folder: str) -> bool:
        """True if there is any object below a folder."""

    def sizes(self, folder: str) -> dict[str, int]:
        """The objects below a folder: path and bytes. Costs what is in the folder, however much lies beside it."""

    def url(self, path: str) -> str:
        """The object's address, as DuckDB takes it."""

    def write(self, path: str, body: bytes, version: Version | None) -> None:  # the lock is the condition
        """Puts the object in place of that version, None being its absence; raises ConflictError otherwise."""

    def exclusive(self) -> Any:
        """A context in which other writers wait, where the place has no conditions of its own."""

    def learn(self) -> object:
        """Finds out, again, which conditions the place enforces."""


def update(objects: Objects, path: str, change: Callable[[bytes | None], bytes | None]) -> bool:
    """Replaces an object by what `change` makes of it, as if no one else wrote; False if that is None."""
    refused: object = _NEVER
    refusals = 0
    for _ in range(_ATTEMPTS):
        with objects.exclusive():
            stored = objects.read(path)
            version = stored.version if stored else None
            body = change(stored.body if stored else None)
            if body is None:
                return False
            try:
                objects.write(path, body, version)
            except ConflictError as error:
                cause = error.__cause__
            else:
                return True
        # Unchanged since: no other writer is the reason, but a store that speaks another dialect than before.
        refusals = refusals + 1 if version == refused else 0
        refused = version
        if refusals:
            objects.learn()
        if refusals == _REFUSALS:
            hint = "does something before the store alter ETags, or show old objects? See docs/lake.md, Dialects"
            problem = f"the store does not replace {path}, which has not changed since it was read"
            raise AuditLogsError(problem, detail=str(cause), hint=hint)
    raise TemporaryError(f"{path} is being written by others without end", detail=f"{_ATTEMPTS} conflicts in a row")


class Folder:
    """Objects as files. Every writer on this host takes the same lock."""

    def __init__(self, root: Path, files: AtomicFolder, lock: Path) -> None:
        self._root, self._files, self._lock = root, files, lock

    def read(self, path: str) -> StoredObject | None:
        """The file's bytes."""
        try:
            return StoredObject((self._root / path).read_bytes(), "")
        except FileNotFoundError:
            return None

    def open(self, path: str) -> BinaryIO | None:
        """The file."""
        try:
            return (self._root / path).open("rb")
        except FileNotFoundError:
            return None

    def is_there(self, folder: str) -> bool:
        """True if there is any file below the folder."""
        return any(file.is_file() for file in (self._root / folder).rglob("*"))

    def sizes(self, folder: str) -> dict[str, int]:
        """The files below the folder."""
        files = [file for file in sorted((self._root / folder).rglob("*")) if file.is_file()]
        return {file.relative_to(self._root).as_posix(): file.stat().st_size for file in files}

    def url(self, path: str) -> str:
        """The file's path."""
        return str(self._root / path)

    def write(self, path: str, body: bytes, version: Version | None) -> None:  # noqa: ARG002  # the lock is the condition
        """Replaces the file whole."""
        self._files.write(self._root / path, body)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Holds the folder's writer lock."""
        with self._lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def learn(self) -> None:
        """Nothing: the lock is the condition."""
