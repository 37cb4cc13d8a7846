"""Reads the lake of the settings: the events of an hour or a day, and how the lake is. Never writes.

Nothing lists the lake: dlt's own files are pruned to a hundred, and of the events only the folders of single accounts
and days are listed.
"""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.fetch.reading import within
from pipelines.load.store import client_of, positions_of
from sources.cloudflare_audit_logs import Position
from sources.cloudflare_audit_logs.errors import AuditLogsError, BrokenObjectError
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, QUARANTINE_SCHEMA
from sources.cloudflare_audit_logs.streams import Stream, Window
from sources.cloudflare_audit_logs.times import EARLIEST, LATEST

from .ask.places import FolderPlace, Place
from .destination import Lake
from .dlt_client import LakeClient
from .object_format import open_object, read_batches, select_columns
from .object_rows import held_digests, quarantine_objects, read_object, reading
from .partitions import DAY, Partition, account_folder, day_folder, hour_of, hours_of, only_of, place_of
from .s3_files import hasten

DAYS = 7
"""The days, today included, whose objects the lake's health counts."""
_COPIES = 4
"""Objects that are read at once."""
_LISTINGS = 8
"""Folders that are listed at once."""
_MOST_FOLDERS = 40
"""Of days; where more are looked for, one listing of the account takes less: a thousand objects a request."""
_KEYS = select_columns(EVENT_SCHEMA, ["event_id", "timestamp", "account_id", "api_version"])
"""The first columns of an object: one stretch of it."""


class LakeReader:
    """Reads the lake; errors of the store are raised as the lake's."""

    def __init__(self, lake: Lake, client: LakeClient) -> None:
        self._lake, self.objects = lake, client.objects

    def translated_errors(self) -> AbstractContextManager[None]:
        """A block that raises the store's errors as the lake's."""
        return self._lake.translated_errors()

    def has_account(self, account_id: str) -> bool:
        """True if there is anything of an account."""
        with self._lake.translated_errors():
            return self.objects.is_there(account_folder(account_id))

    def sizes(self, account_id: str, window: Window) -> dict[Partition, int]:
        """The bytes of each object of a window of at most a day: one listing of that day's folder."""
        with self._lake.translated_errors():
            found = self.objects.listing(day_folder(account_id, window.since))
        partitions = [Partition(account_id, hour) for hour in hours_of(window.since, window.before)]
        return {partition: found[partition.path].size for partition in partitions if partition.path in found}

    def hours(self, account_id: str, window: Window) -> set[datetime]:
        """The hours of a window that have an object: by a listing of each day's folder, or of the account's."""
        days = [day_folder(account_id, day.since) for day in window.parts(DAY)]
        folders = days if len(days) <= _MOST_FOLDERS else [account_folder(account_id)]
        with self._lake.translated_errors(), ThreadPoolExecutor(min(_LISTINGS, len(folders))) as pool:
            places = [place_of(path) for listing in pool.map(self.objects.listing, folders) for path in listing]
        hours = {its_window.since for _, its_window in filter(None, places) if its_window is not None}
        return {hour for hour in hours if hour_of(window) <= hour < window.before}

    def keys(self, stream: Stream, window: Window) -> tuple[pa.Table, int]:
        """`event_id` and `timestamp` of each row in a window of at most an hour, as often as it is there.

        And how many rows the object has that belong into another one.

        Raises:
            AuditLogsError: the object is not Parquet of our columns.
        """
        partition = Partition(stream.account_id, hour_of(window))
        rows = self._read(partition.path, _KEYS)
        return _of(stream, window, rows).select(["event_id", "timestamp"]), only_of(partition, rows)[1].num_rows

    def events(self, stream: Stream, window: Window) -> pa.Table:
        """The rows of a window of at most an hour whole; raises as above."""
        return _of(stream, window, self._read(Partition(stream.account_id, hour_of(window)).path, EVENT_SCHEMA))

    def stray(self, partition: Partition) -> pa.Table:
        """The rows that belong into another object."""
        return only_of(partition, self._read(partition.path, EVENT_SCHEMA))[1]

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

    def broken_quarantines(self, account_ids: Sequence[str], received: Window) -> dict[str, dict[str, AuditLogsError]]:
        """The accounts with an object of these days in the quarantine that cannot be read, by its path, and why."""
        with ThreadPoolExecutor(_COPIES) as pool:
            found = pool.map(lambda account_id: self._broken_quarantine(account_id, received), account_ids)
            return {account_id: broken for account_id, broken in zip(account_ids, found, strict=True) if broken}

    def _broken_quarantine(self, account_id: str, received: Window) -> dict[str, AuditLogsError]:
        with self._lake.translated_errors():
            paths = quarantine_objects(self.objects, account_id, received)
        broken: dict[str, AuditLogsError] = {}
        for path in paths:
            try:
                self._read(path, QUARANTINE_SCHEMA)
            except BrokenObjectError as error:
                broken[path] = error
        return broken

    def held_digests(self, stream: Stream, digests: Sequence[str], *, but: Collection[str]) -> set[str]:
        """Returns those of the digests that are quarantined, received at any time, in other objects than some."""
        with self._lake.translated_errors():
            return held_digests(self.objects, stream, digests, Window(EARLIEST, LATEST), but=but)

    def _read(self, path: str, schema: pa.Schema) -> pa.Table:
        with self._lake.translated_errors():
            return read_object(self.objects, path, schema)


def _of(stream: Stream, window: Window, rows: pa.Table) -> pa.Table:
    is_account = pc.equal(rows["account_id"], stream.account_id)
    is_version = pc.equal(rows["api_version"], stream.api_version)
    return within(rows.filter(pc.and_(is_account, is_version)), window)


@contextmanager
def read_lake(*, must_exist: bool = True) -> Iterator[LakeReader]:
    """Opens the lake of the settings.

    Raises:
        AuditLogsError: there is none, although it must exist.
        TemporaryError: it cannot be reached.
    """
    lake = Lake()
    client: LakeClient = client_of(lake)
    with lake.translated_errors():
        is_there = not must_exist or client.objects.is_there("")
    if not is_there:
        hint = "check S3_BUCKET, S3_PREFIX or DATA_DIR"
        raise AuditLogsError(f"there is no lake at {client.config.bucket_url}", hint=hint)
    yield LakeReader(lake, client)


def place_of_dlt() -> Place:
    """The lake as dlt resolves it, whose own names win over the settings.

    Raises:
        AuditLogsError: there are no credentials for it.
    """
    lake = Lake()
    client: LakeClient = client_of(lake)
    if client.is_local_filesystem:
        return FolderPlace(Path(client.dataset_path))
    with lake.translated_errors():
        return _bucket_place(client)


def _bucket_place(client: LakeClient) -> Place:
    """The bucket with all that botocore has found out: endpoint and region, the style of addresses, and the keys."""
    from .ask.bucket_place import BucketPlace  # noqa: PLC0415  # a folder does without

    s3 = client.fs_client
    bucket, root, _ = s3.split_path(client.dataset_path)
    s3.connect()
    meta = s3.s3.meta
    region = meta.region_name
    if not s3.endpoint_url:
        # obstore follows no redirect to another region, as botocore does.
        region = s3.call_s3("head_bucket", Bucket=bucket).get("BucketRegion", region)
    is_virtual = (meta.config.s3 or {}).get("addressing_style") == "virtual"

    credentials: Any = client.config.credentials

    def keys() -> tuple[str, str, str | None]:
        found = credentials.to_session_credentials()
        return found["aws_access_key_id"], found["aws_secret_access_key"], found["aws_session_token"]

    where = {"endpoint": meta.endpoint_url, "region": region, "virtual_hosted_style_request": is_virtual}
    return BucketPlace(bucket, root, where, None if s3.anon else keys)


class LakeHealth(NamedTuple):
    """The lake's cursors, its last load, and the size of its last days."""

    positions: dict[Stream, Position]
    last_load: datetime | None
    objects: int
    """The number of objects of the last days."""
    bytes: int
    """Their size."""


def lake_health(account_ids: Sequence[str], now: datetime) -> LakeHealth:
    """The health of the lake of the settings: of these accounts, and of those that it has cursors of.

    Raises:
        TemporaryError: it cannot be reached.
    """
    lake = Lake()
    with lake.translated_errors():
        client: LakeClient = client_of(lake)
        hasten(client)
        positions = positions_of(*client.stored_states())
        accounts = sorted({*account_ids, *(stream.account_id for stream in positions)})
        folders = [day_folder(account_id, now - timedelta(days=n)) for account_id in accounts for n in range(DAYS)]
        with ThreadPoolExecutor(_LISTINGS) as pool:
            sizes = [found.size for listing in pool.map(client.objects.listing, folders) for found in listing.values()]
        # A marker's name ends with the load's id, which is a time.
        loads = [float(marker.rpartition("__")[2].removesuffix(".jsonl")) for marker in client.load_markers()]
        last_load = datetime.fromtimestamp(max(loads), UTC) if loads else None
        return LakeHealth(positions, last_load, len(sizes), sum(sizes))
