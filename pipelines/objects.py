"""Where the lake's objects are: a folder or a bucket, with one question and one promise alike.

`read` gives an object with its version, `write` replaces it only if it still has that version. In a folder a file
lock sees to that, in a bucket the store's conditional PUT.
"""

import base64
import fcntl
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import fsspec.asyn
from botocore.exceptions import BotoCoreError, ClientError

from sources.cloudflare_audit_logs.errors import TemporaryError

from .atomic_files import AtomicFolder

Version = str
_CONFLICTS = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_ABSENT = {"NoSuchKey", "404"}
_ATTEMPTS = 50


class StoredObject(NamedTuple):
    """An object's bytes and what tells this version of it from the next."""

    body: bytes
    version: Version


class ConflictError(Exception):
    """Another writer was faster: read again, merge again."""


class Objects(Protocol):
    """A place for objects, addressed by path."""

    def read(self, path: str) -> StoredObject | None:
        """The object, or None."""

    def write(self, path: str, body: bytes, version: Version | None) -> None:  # the lock is the condition
        """Puts the object in place of that version, None being its absence; raises ConflictError otherwise."""

    def exclusive(self) -> Any:
        """A context in which other writers wait, where the place has no conditions of its own."""


def update(objects: Objects, path: str, change: Callable[[bytes | None], bytes | None]) -> bool:
    """Replaces an object by what `change` makes of it, as if no one else wrote; False if that is None."""
    for _ in range(_ATTEMPTS):
        with objects.exclusive():
            stored = objects.read(path)
            body = change(stored.body if stored else None)
            if body is None:
                return False
            try:
                objects.write(path, body, stored.version if stored else None)
            except ConflictError:
                continue
            return True
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

    def write(self, path: str, body: bytes, version: Version | None) -> None:  # noqa: ARG002  # the lock is the condition
        """Replaces the file whole."""
        self._files.write(self._root / path, body)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Holds the folder's writer lock."""
        with self._lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class Bucket:
    """Objects in S3, through the connection that dlt's destination holds anyway."""

    def __init__(self, s3: Any, root: str) -> None:
        self._s3 = s3
        self._bucket, self._prefix, _ = s3.split_path(root)

    def read(self, path: str) -> StoredObject | None:
        """The object's bytes and ETag, in one request."""
        try:
            body, etag = fsspec.asyn.sync(self._s3.loop, self._get, self._key(path))
        except FileNotFoundError:
            return None
        except ClientError as error:
            if _code(error) in _ABSENT:
                return None
            raise
        return StoredObject(body, etag)

    def write(self, path: str, body: bytes, version: Version | None) -> None:  # the lock is the condition
        """One conditional PUT.

        With a checksum: behind a proxy that answers `Expect: 100-continue` itself, SeaweedFS 4.48 takes a client that
        is killed between headers and body for one that puts an empty object in place of the old one.
        """
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        checksum = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        request = {"Bucket": self._bucket, "Key": self._key(path), "Body": body, "ContentMD5": checksum}
        try:
            self._s3.call_s3("put_object", **request, **condition)
        except (OSError, ClientError) as error:
            if _code(error) in _CONFLICTS | (_ABSENT if version else set()):
                raise ConflictError(path) from error
            raise

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nothing to hold: the condition of the PUT decides."""
        yield

    def enforces_conditions(self, probe_path: str) -> bool:
        """Whether a second `PUT … If-None-Match: *` of the same key is refused, as it has to be."""
        for _ in range(2):
            try:
                self.write(probe_path, b"Shows whether this store enforces conditional writes.\n", None)
            except ConflictError:
                return True
        return False

    async def _get(self, key: str) -> tuple[bytes, str]:
        response = await self._s3._call_s3("get_object", Bucket=self._bucket, Key=key)  # noqa: SLF001  # its public form drops the ETag
        async with response["Body"] as body:
            return await body.read(), response["ETag"]

    def _key(self, path: str) -> str:
        return f"{self._prefix.rstrip('/')}/{path}" if self._prefix else path


def _code(error: BaseException) -> str:
    """The S3 error code; s3fs translates botocore's errors and keeps them as the cause."""
    cause = error if isinstance(error, ClientError) else error.__cause__
    return str(cause.response.get("Error", {}).get("Code", "")) if isinstance(cause, ClientError) else ""


STORE_ERRORS = (OSError, ClientError, BotoCoreError)
"""What a folder or a bucket raises when it is not there, full, or refuses us."""
