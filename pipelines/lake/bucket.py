"""A bucket of the lake: objects in S3, in the store's dialect. dlt and `Bucket` read and write by one client.

Where the store enforces no conditions, a write is a look before the PUT, under a lock that the host's processes share.
"""

import base64
import gc
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from os import SEEK_END
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryFile
from threading import Lock
from typing import IO, Any
from uuid import uuid4

from botocore.exceptions import ClientError

from pipelines.host.logs import log

from .dialects import ONE_WRITER, STORE_ERRORS, Answer, Condition, Dialect, Probe, answer_in, status_of
from .objects import ConflictError, Listed, StoredObject, Version, locked

PROBE = "_dlt_conditional_write_probe"
"""Under a name that the policy lets us write and delete (`cloudflare-audit s3_policy`); it stays only if it has to."""
LARGEST_PUT_BYTES = 32 * 2**20
"""What is written without a condition and is larger goes in several parts, one in memory at a time."""
_DIALECTS: dict[tuple[str | None, str], Dialect] = {}
"""By endpoint and root, for as long as the process runs or until they are asked again: clients come and go."""
_LEARNING = Lock()


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

    def create(self, path: str, body: bytes) -> None:
        """Puts an object that is not there yet; raises ConflictError if it is."""
        with self.exclusive():
            self.write(path, body, None)

    @contextmanager
    def writing(self, path: str, _: int | None = None) -> Iterator[IO[bytes]]:
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
        finally:
            # aiobotocore's requests are cycles that hold their bodies: 200 MB in a load of 25 hours.
            gc.collect(0)

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _address(self, path: str) -> dict[str, str]:
        bucket, key, _ = self._s3.split_path(self._full(path))
        return {"Bucket": bucket, "Key": key}

    def _below(self, folder: str) -> dict[str, str]:
        bucket, key, _ = self._s3.split_path(self._full(folder))
        return {"Bucket": bucket, "Prefix": f"{key.strip('/')}/".lstrip("/")}
