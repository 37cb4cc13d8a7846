"""Where the lake's objects are: a folder or a bucket, with one question and one promise alike.

`read` gives an object with its version, `write` replaces it only if it still has that version. In a folder a file
lock sees to that, in a bucket the store's conditional PUT.
"""

import base64
import fcntl
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import fsspec.asyn
from botocore.exceptions import BotoCoreError, ClientError

from sources.cloudflare_audit_logs.errors import TemporaryError

from .atomic_files import AtomicFolder
from .parted_file import END_BYTES, PartedFile

Version = str
_CONFLICTS = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_ABSENT = {"NoSuchKey", "404"}
_EMPTY = "InvalidRange"
"""An object without bytes has no part."""
_ATTEMPTS = 50


class StoredObject(NamedTuple):
    """An object's bytes and what tells this version of it from the next."""

    body: bytes
    version: Version


class _Got(NamedTuple):
    body: bytes
    etag: Version
    size: int
    """Of the whole object."""


class ConflictError(Exception):
    """Another writer was faster: read again."""


class Objects(Protocol):
    """A place for objects, addressed by path."""

    def read(self, path: str) -> StoredObject | None:
        """The object, or None."""

    def open(self, path: str) -> BinaryIO | PartedFile | None:
        """The object, to be read in parts, or None; a part raises ConflictError if the object was replaced."""

    def is_there(self, folder: str) -> bool:
        """Whether there is any object below a folder."""

    def sizes(self, folder: str) -> dict[str, int]:
        """The objects below a folder: path and bytes. Costs what is in the folder, however much lies beside it."""

    def url(self, path: str) -> str:
        """The object's address, as DuckDB takes it."""

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

    def open(self, path: str) -> BinaryIO | None:
        """The file."""
        try:
            return (self._root / path).open("rb")
        except FileNotFoundError:
            return None

    def is_there(self, folder: str) -> bool:
        """Whether there is any file below the folder."""
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


class Bucket:
    """Objects in S3, through the connection that dlt's destination holds anyway."""

    def __init__(self, s3: Any, root: str) -> None:
        self._s3 = s3
        self._bucket, self._prefix, _ = s3.split_path(root)

    def read(self, path: str) -> StoredObject | None:
        """The object's bytes and ETag, in one request."""
        got = self._get(path)
        return None if got is None else StoredObject(got.body, got.etag)

    def open(self, path: str) -> PartedFile | None:
        """The object's end at once, the other parts when they are asked for."""
        end = self._get(path, f"bytes=-{END_BYTES}")
        if end is None:
            return None

        def read(first: int, last: int) -> bytes:
            try:
                part = self._get(path, f"bytes={first}-{last}", version=end.etag)
            except STORE_ERRORS as error:
                if _code(error) in _CONFLICTS:
                    raise ConflictError(path) from error
                # Not as an OSError: whoever parses what is read would take it for the fault of the bytes.
                raise TemporaryError(f"{path} could not be read to its end", detail=str(error)) from error
            if part is None:
                raise ConflictError(path)
            return part.body

        return PartedFile(end.size, end.body, read)

    def is_there(self, folder: str) -> bool:
        """Whether there is any object below the folder."""
        return bool(self._s3.call_s3("list_objects_v2", MaxKeys=1, **self._below(folder)).get("Contents"))

    def sizes(self, folder: str) -> dict[str, int]:
        """The objects below the folder, 1,000 a request."""
        sizes: dict[str, int] = {}
        request = self._below(folder)
        while True:
            page = self._s3.call_s3("list_objects_v2", **request)
            for item in page.get("Contents", []):
                sizes[item["Key"].removeprefix(self._key(""))] = item["Size"]
            if not page.get("IsTruncated"):
                return sizes
            request["ContinuationToken"] = page["NextContinuationToken"]

    def url(self, path: str) -> str:
        """The object's URL."""
        return f"s3://{self._bucket}/{self._key(path)}"

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

    def try_out(self, path: str) -> bool:
        """Writes a small object whatever is there, removes it where that is allowed; returns as `enforces_conditions`.

        Raises:
            OSError, ClientError: it may not be written, or the store is full.
        """
        stored, body = self.read(path), b"Written by pipelines/doctor.py, which removes it where it may.\n"
        try:
            self.write(path, body, stored.version if stored else None)
            self.write(path, body, None)
        except ConflictError:
            return True
        finally:
            with suppress(*STORE_ERRORS):
                self._s3.call_s3("delete_object", Bucket=self._bucket, Key=self._key(path))
        return False

    def _get(self, path: str, part: str | None = None, version: Version | None = None) -> "_Got | None":
        """The object or a part of it (`bytes=…`), of that version, or None."""
        request = {"Bucket": self._bucket, "Key": self._key(path)}
        request |= {"Range": part} if part else {}
        request |= {"IfMatch": version} if version else {}
        try:
            got: _Got = fsspec.asyn.sync(self._s3.loop, self._request, request)
        except (OSError, ClientError) as error:
            if isinstance(error, FileNotFoundError) or _code(error) in _ABSENT:
                return None
            if _code(error) == _EMPTY:
                return _Got(b"", "", 0)
            raise
        return got

    async def _request(self, request: dict[str, str]) -> "_Got":
        response = await self._s3._call_s3("get_object", **request)  # noqa: SLF001  # its public form drops the ETag
        # "bytes 100-199/1234"; a store that knows no ranges sends the whole object.
        size = response.get("ContentRange", "").rpartition("/")[2] or response["ContentLength"]
        async with response["Body"] as body:
            return _Got(await body.read(), response["ETag"], int(size))

    def _below(self, folder: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Prefix": f"{self._key(folder).strip('/')}/".lstrip("/")}

    def _key(self, path: str) -> str:
        return f"{self._prefix.rstrip('/')}/{path}" if self._prefix else path


def _code(error: BaseException) -> str:
    """The S3 error code; s3fs translates botocore's errors and keeps them as the cause."""
    cause = error if isinstance(error, ClientError) else error.__cause__
    return str(cause.response.get("Error", {}).get("Code", "")) if isinstance(cause, ClientError) else ""


STORE_ERRORS = (OSError, ClientError, BotoCoreError)
"""What a folder or a bucket raises when it is not there, full, or refuses us."""
