"""An hour's object as the seals see it: its leaves, when they were first seen, its bytes."""

import os
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple

import pyarrow as pa

from pipelines.lake.object_format import conform, open_object
from pipelines.lake.object_rows import NewerObjectError, reading
from pipelines.lake.objects import Folder, Objects
from pipelines.lake.partitions import HOUR, Partition
from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.schema import PRIMARY_KEY

from .pure.entries import ObjectSeen
from .pure.event_set import LEAF_SCHEMA, leaves_of
from .pure.verdicts import Held

Leaves = Callable[[pa.Table], list[bytes]]


class HourObject(NamedTuple):
    """The contents of an hour's object, and its bytes' description; None: there is none."""

    held: Held
    seen: ObjectSeen | None


ABSENT = HourObject(Held(), None)


def read_hour(objects: Objects, partition: Partition) -> HourObject:
    """Reads an hour's object. Raises NewerObjectError if a newer release has written it."""
    found = _read(objects, partition.path)
    return hour_object(partition, *found) if found else ABSENT


def hour_object(partition: Partition, body: bytes, version: str) -> HourObject:
    """Takes the bytes of an hour's object. Raises as above."""
    seen = ObjectSeen(len(body), sha256(body).hexdigest(), version.strip('"'))
    try:
        with reading(partition.path):
            rows = leaf_rows(body)
    except NewerObjectError:
        raise
    except AuditLogsError as error:
        return HourObject(Held(sha256=seen.sha256, broken=f"{error.message}: {error.detail}"), seen)
    return HourObject(held_in(partition, rows, seen.sha256), seen)


def leaf_rows(body: bytes) -> pa.Table:
    """Reads the columns that leaves are made of; raises as `object_format` does."""
    file = open_object(body)
    # Without what the engine would start for it: an hour's columns are small.
    return conform(file.read(LEAF_SCHEMA.names, use_threads=False), LEAF_SCHEMA)


def held_in(partition: Partition, rows: pa.Table, digest: str) -> Held:
    """Returns what rows hold, as the object of that hour."""
    seen, ids = rows["ingestion_time"], rows["event_id"].to_pylist()
    doubled = 0 if len(set(ids)) == len(ids) else _doubled(rows)
    return Held(leaves_of(rows), seen.to_pylist, digest, _stray(partition, rows), doubled)


def _doubled(rows: pa.Table) -> int:
    """The number of rows beyond one of each key."""
    return int(rows.num_rows - rows.group_by(list(PRIMARY_KEY)).aggregate([]).num_rows)


def _stray(partition: Partition, rows: pa.Table) -> int:
    """The number of rows that belong into another object."""
    since = int(partition.hour.timestamp()) * 1_000_000
    before = since + 3_600 * 1_000_000
    times = [time for chunk in rows["timestamp"].chunks for time in chunk.view(pa.int64()).to_pylist()]
    belong: list[bool] = [
        since <= time < before and account == partition.account_id
        for time, account in zip(times, rows["account_id"].to_pylist(), strict=True)
    ]
    return sum(not one for one in belong)


def _read(objects: Objects, path: str) -> tuple[bytes, str] | None:
    """The bytes, and the version that a listing would show."""
    if isinstance(objects, Folder):
        file = objects.open(path)
        if file is None:
            return None
        with file:
            return file.read(), str(os.fstat(file.fileno()).st_mtime_ns)
    stored = objects.read(path)
    return stored and (stored.body, stored.version)


def whole_hours(since: datetime, before: datetime, most: int) -> list[datetime]:
    """Returns the first hours that lie whole in `[since, before)`."""
    hour = since.replace(minute=0, second=0, microsecond=0)
    hour += HOUR if hour < since else hour - hour
    count = max(0, (before - hour) // HOUR)
    return [hour + HOUR * number for number in range(min(count, most))]
