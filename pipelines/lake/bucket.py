"""A bucket of the lake: objects in S3, in the store's dialect. dlt, DuckDB and `Bucket` read and write by one client.

Where the store enforces no conditions, a write is a look before the PUT, under a lock that the host's processes share.
"""

import asyncio
import base64
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from http import HTTPStatus
from os import SEEK_END
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryFile
from threading import Lock
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import fsspec.asyn
from botocore.exceptions import ClientError
from fsspec.spec import AbstractBufferedFile

from pipelines.host.logs import log
from sources.cloudflare_audit_logs.errors import TemporaryError

from .dialects import ONE_WRITER, STORE_ERRORS, Answer, Condition, Dialect, Probe, answer_in, status_of
from .objects import ConflictError, Listed, StoredObject, Version, locked

if TYPE_CHECKING:
    from s3fs import S3FileSystem
else:
    S3FileSystem = object

PROBE = "_dlt_conditional_write_probe"
"""Under a name that the policy lets us write and delete (`pipelines/s3_policy.py`); it stays only if it has to."""
LARGEST_PUT_BYTES = 32 * 2**20
"""What is written without a condition and is larger goes in several parts, one in memory at a time."""
END_BYTES = 65_536
"""pyarrow asks for so much of a file's end first."""
LIMIT_SECONDS = 6
"""The longest request, retries included, of a hasty client; the loop's own tries for minutes."""
_SILENCE_SECONDS = 3
"""The longest silence of its connections: before they are made, and within an answer."""
_DIALECTS: dict[tuple[str | None, str], Dialect] = {}
"""By endpoint and root, for as long as the process runs or until they are asked again: clients come and go."""
_LEARNING = Lock()


class _Got(NamedTuple):
    body: bytes
    etag: Version
    size: int
    """The bytes of the whole object."""


class _PartedFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """An object that is read in parts: its end is there at once, as Parquet needs it, every other part is a request."""

    def __init__(self, s3: Any, path: str, cache_type: str) -> None:
        self._end: _Got = s3.get_part(path, f"bytes=-{END_BYTES}")
        super().__init__(s3, path, cache_type=cache_type, size=self._end.size)

    def _fetch_range(self, first: int, last: int) -> bytes:
        last, end_begins = min(last, self.size), self.size - len(self._end.body)
        if first >= end_begins:
            return self._end.body[first - end_begins : last - end_begins]
        try:
            part: _Got = self.fs.get_part(self.path, f"bytes={first}-{last - 1}")
        except FileNotFoundError as error:
            raise ConflictError(self.path) from error
        except STORE_ERRORS as error:
            # Not as an OSError: a parser would take it for the fault of the bytes.
            raise TemporaryError(f"{self.path} could not be read to its end", detail=str(error)) from error
        # Compared here: of the stores that have conditions, not all have them for a GET.
        if (part.etag, part.size) != (self._end.etag, self.size):
            raise ConflictError(self.path)
        return part.body


class _S3Files(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """s3fs's file system, made to work with every store: one client for dlt, DuckDB and `Bucket`."""

    limit_seconds: float | None = None

    async def _call_s3(self, *arguments: Any, **named: Any) -> Any:
        try:
            return await asyncio.wait_for(super()._call_s3(*arguments, **named), self.limit_seconds)
        except TimeoutError:
            if self.limit_seconds is None:
                raise
            self.limit_seconds = 0
            place = self.endpoint_url or "the store"
            raise ConnectionError(f"no answer from {place} within {LIMIT_SECONDS} s") from None

    call_s3 = fsspec.asyn.sync_wrapper(_call_s3)

    def makedirs(self, *_: Any, **__: Any) -> None:
        """Does nothing: a bucket has no folders, and s3fs would make the bucket if it may not list its root."""

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            return super()._open(path, mode, **options)
        return _PartedFile(self, path, options.get("cache_type") or "readahead")

    def get_part(self, path: str, part: str | None = None) -> _Got:
        """Reads an object or a part of it (`bytes=…`): one request, without a look before it."""
        bucket, key, _ = self.split_path(path)
        request = {"Bucket": bucket, "Key": key} | ({"Range": part} if part else {})
        try:
            got: _Got = fsspec.asyn.sync(self.loop, self._request, request)
        except (OSError, ClientError) as error:
            if status_of(error) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # an object without bytes
                return _Got(b"", "", 0)
            if status_of(error) == HTTPStatus.NOT_FOUND and not isinstance(error, FileNotFoundError):
                raise FileNotFoundError(path) from error
            raise
        return got

    async def _request(self, request: dict[str, str]) -> _Got:
        response = await self._call_s3("get_object", **request)
        # "bytes 100-199/1234"; a store that knows no ranges sends the whole object.
        size = response.get("ContentRange", "").rpartition("/")[2] or response["ContentLength"]
        async with response["Body"] as body:
            return _Got(await body.read(), response.get("ETag", ""), int(size))


@cache
def _file_system() -> Any:
    """The class, whole; made for a bucket alone, because a folder does without s3fs (0.4 s)."""
    from s3fs import S3FileSystem  # noqa: PLC0415

    class S3Files(_S3Files, S3FileSystem): ...  # type: ignore[misc]  # as above

    return S3Files


def adapted(s3: Any, **changed: Any) -> Any:
    """The file system for the options of another one of s3fs."""
    return _file_system()(**{**s3.storage_options, **changed})


def hasten(client: Any) -> None:
    """Makes dlt's client of a lake give up at the first request without an answer, and ask nothing after it.

    However many requests there are, a store that does not answer costs less than ten seconds in all. Other clients stay
    as they are.
    """
    if client.is_local_filesystem:
        return
    timeouts = {"connect_timeout": _SILENCE_SECONDS, "read_timeout": _SILENCE_SECONDS}
    config = {**client.fs_client.storage_options.get("config_kwargs", {}), **timeouts}
    client.fs_client = adapted(client.fs_client, skip_instance_cache=True, config_kwargs=config)
    client.fs_client.limit_seconds = LIMIT_SECONDS


class Bucket:
    """Objects in S3, below a root.

    Args:
        lock: names a file that all writers on this host share, for stores that enforce no conditions.
    """

    def __init__(self, s3: Any, root: str, lock: Callable[[], Path]) -> None:
        self._s3, self._root, self._lock = s3, root.strip("/"), lock
        self._place = s3.endpoint_url, root

    @property
    def dialect(self) -> Dialect:
        """The store's, as it was found out last."""
        with _LEARNING:
            known = _DIALECTS.get(self._place)
        return known or self.learn()

    def learn(self) -> Dialect:
        """Asks the store for its dialect, and logs it if it is new."""
        with _LEARNING:
            dialect = self.try_out(PROBE)
            if dialect != _DIALECTS.get(self._place):
                write, hint = (log.info, {}) if dialect.is_safe else (log.warning, {"hint": ONE_WRITER})
                write("lake.conditions", found=str(dialect), **hint)
            _DIALECTS[self._place] = dialect
        return dialect

    def read(self, path: str) -> StoredObject | None:
        """Reads the object's bytes and ETag, in one request."""
        try:
            body, etag, _ = self._s3.get_part(self._full(path))
        except FileNotFoundError:
            return None
        return StoredObject(body, etag or hashlib.sha256(body).hexdigest())

    def open(self, path: str) -> Any:
        """Reads the object's end; the other parts follow when they are asked for."""
        try:
            return self._s3.open(self._full(path), cache_type="none")
        except FileNotFoundError:
            return None

    def is_there(self, folder: str) -> bool:
        """True if there is any object below the folder."""
        return bool(self._s3.call_s3("list_objects_v2", MaxKeys=1, **self._below(folder)).get("Contents"))

    def listing(self, folder: str) -> dict[str, Listed]:
        """Lists the objects below the folder, by path; 1,000 a request."""
        listing: dict[str, Listed] = {}
        request, root = self._below(folder), self._below("")["Prefix"]
        while True:
            page = self._s3.call_s3("list_objects_v2", **request)
            for item in page.get("Contents", []):
                listing[item["Key"].removeprefix(root)] = Listed(item["Size"], item.get("ETag", ""))
            if not page.get("IsTruncated"):
                return listing
            request["ContinuationToken"] = page["NextContinuationToken"]

    def url(self, path: str) -> str:
        """The object's URL."""
        return f"s3://{self._full(path)}"

    def write(self, path: str, body: bytes, version: Version | None) -> None:
        """Puts the object on a condition; where the store does not know it, after a look."""
        condition = self.dialect.condition(version)
        if condition is None:
            held = self.read(path)
            if (held.version if held else None) != version:
                raise ConflictError(path)
        self._put(path, body, condition or {})

    @contextmanager
    def writing(self, path: str) -> Iterator[IO[bytes]]:
        """A new object, on disk until the block's end, when it takes the place of the old one on no condition."""
        with TemporaryFile() as file:
            yield file
            size = file.seek(0, SEEK_END)
            file.seek(0)
            if size <= LARGEST_PUT_BYTES:
                self._put(path, file.read(), {})
                return
            with self._s3.open(self._full(path), "wb", block_size=LARGEST_PUT_BYTES) as parts:
                copyfileobj(file, parts, LARGEST_PUT_BYTES)

    def delete(self, path: str) -> None:
        """Removes the object, which need not be there."""
        try:
            self._s3.call_s3("delete_object", **self._address(path))
        except STORE_ERRORS as error:
            if status_of(error) != HTTPStatus.NOT_FOUND:
                raise

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Holds nothing where the condition of the PUT decides, a lock on this host elsewhere."""
        if self.dialect.is_safe:
            yield
        else:
            with locked(self._lock()):
                yield

    def try_out(self, path: str) -> Dialect:
        """Asks for the dialect with an object that is removed again; where that is not allowed, the path's own stays.

        Raises:
            OSError, ClientError: it may not be written, or the store is full.
        """
        # Nobody else has this name: to remove an object that others probe as well would mislead them.
        own = f"{path}_{uuid4().hex}"
        try:
            self.delete(own)
        except STORE_ERRORS as error:
            if not status_of(error):
                raise
            return self.probe(path)
        try:
            return self.probe(own)
        finally:
            with suppress(*STORE_ERRORS):
                self.delete(own)

    def probe(self, path: str) -> Dialect:
        """Asks for the dialect, with an object that stays; others may do the same at the same time."""

        def put(body: bytes, condition: Condition) -> Answer:
            try:
                self._put(path, body, condition)
            except ConflictError as error:
                return answer_in(error.__cause__ or error, condition) or "conflict"
            return "done"

        return Probe(put, lambda: self.read(path)).dialect()

    def _put(self, path: str, body: bytes, condition: Condition) -> None:
        """Puts an object; raises ConflictError if the store refuses the condition.

        With a checksum: behind a proxy that answers `Expect: 100-continue` itself, SeaweedFS 4.48 takes a client that
        is killed between headers and body for one that puts an empty object in place of the old one.
        """
        checksum = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        request = {**self._address(path), "Body": body, "ContentMD5": checksum, **condition}
        try:
            self._s3.call_s3("put_object", **request)
        except (OSError, ClientError) as error:
            if answer_in(error, condition):
                raise ConflictError(path) from error
            raise

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _address(self, path: str) -> dict[str, str]:
        bucket, key, _ = self._s3.split_path(self._full(path))
        return {"Bucket": bucket, "Key": key}

    def _below(self, folder: str) -> dict[str, str]:
        bucket, key, _ = self._s3.split_path(self._full(folder))
        return {"Bucket": bucket, "Prefix": f"{key.strip('/')}/".lstrip("/")}
