"""What the lake holds of an hour or of a day. Reads no more than is asked for, lists no more than a day."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.fetch.reading import within
from pipelines.load.scratch_pipeline import client_of
from sources.cloudflare_audit_logs.errors import AuditLogsError, BrokenObjectError
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, QUARANTINE_SCHEMA
from sources.cloudflare_audit_logs.streams import Stream, Window
from sources.cloudflare_audit_logs.times import EARLIEST, LATEST

from .destination import Lake, LakeClient
from .object_format import open_object, read_batches, select_columns
from .object_rows import read_object, reading
from .partitions import Partition, account_folder, day_folder, hour_of, hours_of, only_of
from .quarantine import held_digests, quarantine_objects

_REQUESTS = 4
"""Objects that are copied at once."""
_KEYS = select_columns(EVENT_SCHEMA, ["event_id", "timestamp", "account_id", "api_version"])
"""The first columns of an object: one stretch of it."""


class LakeReader:
    """Reads the lake, and never writes. Errors of the store are told as the lake's."""

    def __init__(self, lake: Lake, client: LakeClient) -> None:
        self._lake, self.objects = lake, client.objects
        self.filesystem: Any = None if client.is_local_filesystem else client.fs_client
        """What DuckDB needs to read the URLs below; None: nothing."""
        self.credentials: Any = getattr(client.config, "credentials", None)
        """Of a bucket."""

    @contextmanager
    def files(self, partitions: Iterable[Partition]) -> Iterator[list[str]]:
        """The objects as files, as long as the block: those of a folder itself, copies of those of a bucket.

        Through Python's file system, DuckDB brought 29,500 events a second from a bucket, copied first 38,000, and the
        process had 709 MB, then 477 (`python -m benchmarks.lake --objects 400`, before and after).
        """
        if self.filesystem is None:
            yield [self.objects.url(partition.path) for partition in partitions]
            return
        with TemporaryDirectory(prefix="audit-lake-") as folder, ThreadPoolExecutor(_REQUESTS) as pool:
            yield [path for path in pool.map(partial(self._copy, Path(folder)), partitions) if path is not None]

    def _copy(self, folder: Path, partition: Partition) -> str | None:
        with self._lake.translated_errors():
            stored = self.objects.read(partition.path)
        if stored is None:
            return None
        path = folder / f"{partition.hour:%Y%m%d%H}.parquet"
        path.write_bytes(stored.body)
        return str(path)

    def has_account(self, account_id: str) -> bool:
        """True if there is anything of an account."""
        with self._lake.translated_errors():
            return self.objects.is_there(account_folder(account_id))

    def sizes(self, account_id: str, window: Window) -> dict[Partition, int]:
        """The bytes of each object of a window of at most a day: one listing of that day's folder."""
        with self._lake.translated_errors():
            found = self.objects.sizes(day_folder(account_id, window.since))
        partitions = [Partition(account_id, hour) for hour in hours_of(window.since, window.before)]
        return {partition: found[partition.path] for partition in partitions if partition.path in found}

    def keys(self, stream: Stream, window: Window) -> tuple[pa.Table, int]:
        """`event_id` and `timestamp` of each row in a window of at most an hour, as often as it is there.

        And how many rows the object has that belong into another one.

        Raises:
            AuditLogsError: the object is not Parquet of our columns.
        """
        partition = _partition_of(stream, window)
        rows = self._read(partition.path, _KEYS)
        _, stray = only_of(partition, rows)
        return _of(stream, window, rows).select(["event_id", "timestamp"]), stray.num_rows

    def events(self, stream: Stream, window: Window) -> pa.Table:
        """The rows of a window of at most an hour whole; raises as above."""
        return _of(stream, window, self._read(_partition_of(stream, window).path, EVENT_SCHEMA))

    def stray(self, partition: Partition) -> pa.Table:
        """The rows that belong into another object."""
        return only_of(partition, self._read(partition.path, EVENT_SCHEMA))[1]

    def broken_quarantines(self, account_ids: Sequence[str], received: Window) -> dict[str, dict[str, AuditLogsError]]:
        """The accounts with an object of these days in the quarantine that cannot be read, by its path, and why."""
        with ThreadPoolExecutor(_REQUESTS) as pool:
            found = pool.map(lambda account_id: self._broken_quarantine(account_id, received), account_ids)
            return {account_id: broken for account_id, broken in zip(account_ids, found, strict=True) if broken}

    def _broken_quarantine(self, account_id: str, received: Window) -> dict[str, AuditLogsError]:
        with self._lake.translated_errors():
            paths = quarantine_objects(self.objects, account_id, received)
        return {path: error for path in paths if (error := self._why_unreadable(path)) is not None}

    def held_digests(self, stream: Stream, digests: Sequence[str], *, but: Collection[str]) -> set[str]:
        """Those of the digests that are quarantined, received at any time, in other objects than some."""
        with self._lake.translated_errors():
            return held_digests(self.objects, stream, digests, Window(EARLIEST, LATEST), but=but)

    def _why_unreadable(self, path: str) -> AuditLogsError | None:
        try:
            self._read(path, QUARANTINE_SCHEMA)
        except BrokenObjectError as error:
            return error
        return None

    def batches(self, partition: Partition, window: Window, size: int) -> Iterator[pa.Table]:
        """The rows of a window, some at a time; raises as above."""
        with self._lake.translated_errors():
            file = self.objects.open(partition.path)
        if file is None:
            return
        with file, reading(partition.path):
            for rows in read_batches(open_object(file), EVENT_SCHEMA, size):
                rows.validate(full=True)
                yield within(rows.filter(pc.equal(rows["account_id"], partition.account_id)), window)

    def _read(self, path: str, schema: pa.Schema) -> pa.Table:
        with self._lake.translated_errors():
            return read_object(self.objects, path, schema)


def _partition_of(stream: Stream, window: Window) -> Partition:
    return Partition(stream.account_id, hour_of(window))


def _of(stream: Stream, window: Window, rows: pa.Table) -> pa.Table:
    is_account = pc.equal(rows["account_id"], stream.account_id)
    is_version = pc.equal(rows["api_version"], stream.api_version)
    return within(rows.filter(pc.and_(is_account, is_version)), window)


@contextmanager
def read_lake(*, must_exist: bool = True) -> Iterator[LakeReader]:
    """The lake of the settings, to be read.

    Raises:
        AuditLogsError: there is none, although it must exist.
        TemporaryError: it cannot be reached.
    """
    lake = Lake()
    client: LakeClient = client_of(lake)
    with lake.translated_errors():
        is_there = not must_exist or client.objects.is_there("")
    if not is_there:
        raise AuditLogsError(
            f"there is no lake at {client.config.bucket_url}", hint="check S3_BUCKET, S3_PREFIX or DATA_DIR"
        )
    yield LakeReader(lake, client)
