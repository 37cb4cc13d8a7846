"""A bucket of the lake: objects in S3, through the connection that dlt's destination holds, in the store's dialect.

Where the store enforces no conditions, a write is a look before the PUT, under a lock that the host's processes share.
"""

import base64
import fcntl
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple
from uuid import uuid4

import fsspec.asyn
from botocore.exceptions import ClientError

from pipelines.host.logs import log
from sources.cloudflare_audit_logs.errors import TemporaryError

from .dialects import ONE_WRITER, STORE_ERRORS, Answer, Condition, Dialect, Probe, answer_in, status_of
from .objects import ConflictError, StoredObject, Version
from .parted_file import END_BYTES, PartedFile

PROBE = "_dlt_conditional_write_probe"
"""Under a name that the policy lets us write, and delete (`pipelines/s3_policy.py`); it stays there."""
_DIALECTS: dict[tuple[str | None, str], Dialect] = {}
"""By endpoint and root, for as long as the process runs or until they are asked again: clients come and go."""
_LEARNING = Lock()


def adapt(s3: Any) -> Any:
    """Makes s3fs, through which dlt keeps its own files, work with every store.

    There are no folders in a bucket: to make one, s3fs would make the bucket if it may not list its root. And a file is
    read whole, in one request, not after a look at its size, on the condition that its ETag is the same.
    """
    s3.makedirs = lambda *_, **__: None
    s3.read_text = lambda path, encoding=None, **_: s3.cat_file(path).decode(encoding or "utf-8")
    return s3


class _Got(NamedTuple):
    body: bytes
    etag: Version
    size: int
    """Of the whole object."""


class Bucket:
    """Objects in S3, through the connection that dlt's destination holds anyway.

    Args:
        lock: names a file that all writers on this host share, for stores that enforce no conditions.
    """

    def __init__(self, s3: Any, root: str, lock: Callable[[], Path]) -> None:
        self._s3, self._lock = s3, lock
        self._place = s3.endpoint_url, root
        self._bucket, self._prefix, _ = s3.split_path(root)

    @property
    def dialect(self) -> Dialect:
        """The store's, as it was found out last."""
        with _LEARNING:
            known = _DIALECTS.get(self._place)
        return known or self.learn()

    def learn(self) -> Dialect:
        """Asks the store for its dialect, and says in the log what is new about it."""
        with _LEARNING:
            dialect = self.probe(PROBE)
            if dialect != _DIALECTS.get(self._place):
                tell, hint = (log.info, {}) if dialect.is_safe else (log.warning, {"hint": ONE_WRITER})
                tell("lake.conditions", found=str(dialect), **hint)
            _DIALECTS[self._place] = dialect
        return dialect

    def read(self, path: str) -> StoredObject | None:
        """The object's bytes and ETag, in one request."""
        got = self._get(path)
        if got is None:
            return None
        return StoredObject(got.body, got.etag or hashlib.sha256(got.body).hexdigest())

    def open(self, path: str) -> PartedFile | None:
        """The object's end at once, the other parts when they are asked for."""
        end = self._get(path, f"bytes=-{END_BYTES}")
        if end is None:
            return None

        def read(first: int, last: int) -> bytes:
            try:
                part = self._get(path, f"bytes={first}-{last}")
            except STORE_ERRORS as error:
                # Not as an OSError: whoever parses what is read would take it for the fault of the bytes.
                raise TemporaryError(f"{path} could not be read to its end", detail=str(error)) from error
            # Looked at here: of the stores that have conditions, not all have them for a GET.
            if part is None or (part.etag, part.size) != (end.etag, end.size):
                raise ConflictError(path)
            return part.body

        return PartedFile(end.size, end.body, read)

    def is_there(self, folder: str) -> bool:
        """True if there is any object below the folder."""
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

    def write(self, path: str, body: bytes, version: Version | None) -> None:
        """One conditional PUT; where the store does not know the condition, a look, and a PUT."""
        condition = self.dialect.condition(version)
        if condition is None:
            held = self.read(path)
            if (held.version if held else None) != version:
                raise ConflictError(path)
        self._put(path, body, condition or {})

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Holds nothing where the condition of the PUT decides, a lock on this host elsewhere."""
        if self.dialect.is_safe:
            yield
            return
        lock = self._lock()
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def try_out(self, path: str) -> Dialect:
        """Asks for the dialect with an object that is removed again; where that is not allowed, the path's own stays.

        Raises:
            OSError, ClientError: it may not be written, or the store is full.
        """
        # Nobody else has this name: to remove an object that others probe as well would mislead them.
        own = f"{path}_{uuid4().hex}"
        if not self._delete(own):
            return self.probe(path)
        try:
            return self.probe(own)
        finally:
            with suppress(*STORE_ERRORS):
                self._delete(own)

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
        """Puts an object; raises ConflictError if the store does not like the condition, which is what to look at.

        With a checksum: behind a proxy that answers `Expect: 100-continue` itself, SeaweedFS 4.48 takes a client that
        is killed between headers and body for one that puts an empty object in place of the old one.
        """
        checksum = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        request = {"Bucket": self._bucket, "Key": self._key(path), "Body": body, "ContentMD5": checksum}
        try:
            self._s3.call_s3("put_object", **request, **condition)
        except (OSError, ClientError) as error:
            if answer_in(error, condition):
                raise ConflictError(path) from error
            raise

    def _delete(self, path: str) -> bool:
        """Removes an object, which need not be there; False if that is not allowed."""
        try:
            self._s3.call_s3("delete_object", Bucket=self._bucket, Key=self._key(path))
        except STORE_ERRORS as error:
            if not status_of(error):
                raise
            return status_of(error) == HTTPStatus.NOT_FOUND
        return True

    def _get(self, path: str, part: str | None = None) -> "_Got | None":
        """The object or a part of it (`bytes=…`), or None."""
        request = {"Bucket": self._bucket, "Key": self._key(path)} | ({"Range": part} if part else {})
        try:
            got: _Got = fsspec.asyn.sync(self._s3.loop, self._request, request)
        except (OSError, ClientError) as error:
            if isinstance(error, FileNotFoundError) or status_of(error) == HTTPStatus.NOT_FOUND:
                return None
            if status_of(error) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # an object without bytes has no part
                return _Got(b"", "", 0)
            raise
        return got

    async def _request(self, request: dict[str, str]) -> "_Got":
        response = await self._s3._call_s3("get_object", **request)  # noqa: SLF001  # its public form drops the ETag
        # "bytes 100-199/1234"; a store that knows no ranges sends the whole object.
        size = response.get("ContentRange", "").rpartition("/")[2] or response["ContentLength"]
        async with response["Body"] as body:
            return _Got(await body.read(), response.get("ETag", ""), int(size))

    def _below(self, folder: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Prefix": f"{self._key(folder).strip('/')}/".lstrip("/")}

    def _key(self, path: str) -> str:
        return f"{self._prefix.rstrip('/')}/{path}" if self._prefix else path
