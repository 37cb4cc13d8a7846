"""s3fs's file system, made to work with every store: one client for dlt and `bucket.Bucket`."""

import asyncio
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

import fsspec.asyn
from botocore.exceptions import ClientError
from fsspec.spec import AbstractBufferedFile

from sources.cloudflare_audit_logs.errors import TemporaryError

from .dialects import STORE_ERRORS, status_of
from .objects import ConflictError, Version

if TYPE_CHECKING:
    from s3fs import S3FileSystem
else:
    S3FileSystem = object

END_BYTES = 65_536
"""pyarrow asks for so much of a file's end first."""
LIMIT_SECONDS = 6
"""The longest request, retries included, of a hasty client; the loop's own tries for minutes."""
_SILENCE_SECONDS = 3
"""The longest silence of its connections: before they are made, and within an answer."""


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
