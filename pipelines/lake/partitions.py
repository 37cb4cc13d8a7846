"""The lake's objects: the path for the events of one account and hour, and the merge of new ones by key. Pure.

The one module that knows object paths. Paths are relative to the dlt dataset `cloudflare`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.load.held_keys import is_ascending
from sources.cloudflare_audit_logs.schema import (
    EVENT_SCHEMA,
    EVENTS_TABLE,
    PRIMARY_KEY,
    QUARANTINE_KEY,
    QUARANTINE_SCHEMA,
    QUARANTINE_TABLE,
    TIME,
)
from sources.cloudflare_audit_logs.streams import Window

from .object_format import (
    conform,
    encode,
    encode_all,
    open_object,
    read_batches,
    read_rows,
    select_columns,
    with_others,
)

DAYS_TABLE = "audit_logs_days"
"""The folder of the day copies, which are no table of dlt's."""
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MOST_PENDING_EVENTS = 10_000
"""New events of an hour that are written at once, if they come in several groups; 13 MB."""
_PART_EVENTS = 1_000
_PLACE = re.compile(
    r"\w+/account=(?P<account>[^/]+)/(?:date=(?P<day>\d{4}-\d\d-\d\d)/)?(?:hour=(?P<hour>\d\d)/)?events\.parquet"
)

_ORDER = ("timestamp", "event_id", "api_version")


@dataclass(frozen=True, order=True)
class Partition:
    """The events of one account in one hour (UTC), in one object."""

    account_id: str
    hour: datetime

    @property
    def path(self) -> str:
        """The object's path. `account=` is not a column's name: readers that infer hive keys would clash with it."""
        return f"{day_folder(self.account_id, self.hour)}/{self.hour:hour=%H}/events.parquet"


def quarantine_path(account_id: str, received: datetime) -> str:
    """The object of the events of an account that were received and quarantined on a day."""
    return f"{quarantine_folder(account_id)}/{received.astimezone(UTC):date=%Y-%m-%d}/events.parquet"


def quarantine_paths(account_id: str, received: Window) -> list[str]:
    """The objects of each day of a window of receptions, and the one that the first releases wrote."""
    days = range((received.before.date() - received.since.date()).days + 1)
    of_days = [quarantine_path(account_id, received.since + DAY * day) for day in days]
    return [f"{quarantine_folder(account_id)}/events.parquet", *of_days]


def quarantine_folder(account_id: str) -> str:
    """The folder of an account's quarantine."""
    return f"{QUARANTINE_TABLE}/account={account_id}"


def place_of(path: str) -> tuple[str, Window | None] | None:
    """The account of the object of a path, and its window; None if it is none of ours.

    The window is the hour of its events, or the day on which they were received and quarantined; None: any day.
    """
    found = _PLACE.fullmatch(path)
    if found is None or found["day"] is None:
        return found and (found["account"], None)
    try:
        since = datetime.fromisoformat(f"{found['day']}T{found['hour'] or '00'}:00+00:00")
        return found["account"], Window(since, since + (HOUR if found["hour"] else DAY))
    except (ValueError, OverflowError):  # a folder of somebody else's; the calendar's last hour has no end
        return None


def partition_of(path: str) -> Partition | None:
    """The partition whose object has this path; None if none has."""
    place = place_of(path)
    found = Partition(place[0], place[1].since) if place and place[1] else None
    return found if found and found.path == path else None


def account_folder(account_id: str) -> str:
    """The folder of an account's events."""
    return f"{EVENTS_TABLE}/account={account_id}"


def day_folder(account_id: str, day: datetime) -> str:
    """The folder of an account's events of a day (UTC)."""
    return f"{account_folder(account_id)}/{day.astimezone(UTC):date=%Y-%m-%d}"


def copies_folder(account_id: str) -> str:
    """The folder of an account's day copies."""
    return f"{DAYS_TABLE}/account={account_id}"


def copy_path(account_id: str, day: date) -> str:
    """The copy of an account's objects of a day (UTC)."""
    return f"{copies_folder(account_id)}/{day:date=%Y-%m-%d}/events.parquet"


def hours_of(since: datetime, before: datetime) -> Iterator[datetime]:
    """The hours that `[since, before)` touches."""
    hour = since.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    while hour < before:
        yield hour
        hour += HOUR


def hour_of(window: Window) -> datetime:
    """The hour that a window of at most an hour lies in."""
    return next(hours_of(window.since, window.before))


def split(events: pa.Table) -> Iterator[tuple[Partition, pa.Table]]:
    """The events by partition, in the order of account and hour. They come in runs of an hour, which are not copied."""
    if not events.num_rows:
        return
    accounts = events["account_id"].combine_chunks()
    hours = pc.floor_temporal(events["timestamp"], unit="hour").combine_chunks()
    differs = pc.or_(pc.not_equal(hours[1:], hours[:-1]), pc.not_equal(accounts[1:], accounts[:-1]))
    begins = [0, *(index + 1 for index in pc.indices_nonzero(differs).to_pylist())]
    runs: dict[Partition, list[pa.Table]] = {}
    for begin, end in zip(begins, [*begins[1:], events.num_rows], strict=True):
        partition = Partition(accounts[begin].as_py(), hours[begin].as_py().astimezone(UTC))
        runs.setdefault(partition, []).append(events.slice(begin, end - begin))
    for partition in sorted(runs):
        yield partition, pa.concat_tables(runs[partition])


def by_partition(groups: Iterable[pa.Table]) -> Iterator[tuple[Partition, pa.Table]]:
    """The events of all groups by partition. They mostly come in order, so the latest waits for the next group's."""
    pending = EVENT_SCHEMA.empty_table()
    for group in groups:
        *whole, (partition, events) = split(pa.concat_tables([pending, group]))
        yield from whole
        pending = events if events.num_rows < MOST_PENDING_EVENTS else EVENT_SCHEMA.empty_table()
        if not pending.num_rows:
            yield partition, events
    yield from split(pending)


def split_quarantined(rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The quarantined events by the path of their object."""
    days = pc.floor_temporal(rows["received_at"], unit="day").cast(TIME)
    places = pa.table({"account": rows["account_id"], "day": days})
    for place in places.group_by(places.column_names).aggregate([]).sort_by("day").to_pylist():
        is_there = pc.and_(pc.equal(places["account"], place["account"]), pc.equal(days, pa.scalar(place["day"], TIME)))
        yield quarantine_path(place["account"], place["day"]), rows.filter(is_there)


def add_events(body: bytes | None, new: pa.Table) -> bytes | None:
    """The object with the new events in it, as `merge_events`."""
    held = None if body is None else open_object(body)
    times = [] if held is None else held.read(["timestamp"])["timestamp"].chunks
    if new.num_rows and is_ascending(pa.chunked_array([*times, *new["timestamp"].chunks])):
        # Nearly always: what is new is newer, and no two events are of one microsecond, so none is there twice.
        return _append(held, new, EVENT_SCHEMA)
    existing = None if held is None else read_rows(held, with_others(EVENT_SCHEMA, held.schema_arrow))
    merged = merge_events(existing, new)
    return None if merged is None else encode(merged)


def add_quarantined(body: bytes | None, new: pa.Table) -> bytes | None:
    """The object with the quarantined events that it lacks behind its own, each once; None if it lacks none.

    Only the keys of its own events are compared; the rest is copied, some rows at a time.
    """
    held = None if body is None else open_object(body)
    keys = select_columns(QUARANTINE_SCHEMA, QUARANTINE_KEY)
    there = keys.empty_table() if held is None else read_rows(held, keys)
    both = pa.concat_tables([there, conform(new.select(keys.names), keys)])
    first = _first_rows(both, QUARANTINE_KEY)
    lacking = pc.subtract(first.filter(pc.greater_equal(first, there.num_rows)), there.num_rows).sort()
    return _append(held, new.take(lacking), QUARANTINE_SCHEMA) if len(lacking) else None


def share_out(rows: pa.Table, paths: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """The quarantined events, each once, by object: those of its day, and in the first one all others as well."""
    days = dict(split_quarantined(rows.take(_first_rows(rows, QUARANTINE_KEY).sort())))
    home = {day: day if day in paths else paths[0] for day in days}
    for path in paths:
        its_rows = [rows for day, rows in days.items() if home[day] == path]
        yield path, pa.concat_tables([QUARANTINE_SCHEMA.empty_table(), *its_rows])


def _append(held: pq.ParquetFile | None, new: pa.Table, schema: pa.Schema) -> bytes:
    if held is None:
        return encode_all([new], schema)
    schema = with_others(schema, held.schema_arrow)
    return encode_all(chain(read_batches(held, schema, _PART_EVENTS), [new]), schema)


def merge_events(existing: pa.Table | None, new: pa.Table) -> pa.Table | None:
    """The partition with the new events in it, each once and as it was first; None if that changes nothing.

    Columns that only the partition has stay: a newer release made them.
    """
    existing = EVENT_SCHEMA.empty_table() if existing is None else existing
    schema = with_others(EVENT_SCHEMA, existing.schema)
    both = pa.concat_tables([conform(existing, schema), conform(new, schema)])
    first = _first_rows(both, PRIMARY_KEY)
    has_new = pc.any(pc.greater_equal(first, existing.num_rows)).as_py()
    if not has_new and len(first) == existing.num_rows:  # and no double to take out
        return None
    return both.take(first).sort_by([(name, "ascending") for name in _ORDER])


def _first_rows(rows: pa.Table, key: Sequence[str]) -> pa.Array:
    """The number of the first row of each key."""
    numbered = rows.select(key).append_column("row", pa.array(range(rows.num_rows), pa.int64()))
    return numbered.group_by(list(key)).aggregate([("row", "min")])["row_min"].combine_chunks()


def only_of(partition: Partition, held: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows of an object that belong into it, and those that do not."""
    hours = pc.floor_temporal(held["timestamp"], unit="hour")
    belongs = pc.and_(pc.equal(held["account_id"], partition.account_id), pc.equal(hours, partition.hour))
    return held.filter(belongs), held.filter(pc.invert(belongs))


def replace_events(existing: pa.Table, right: pa.Table) -> pa.Table:
    """The partition with some of its events replaced by the right ones, which keep the time when they were first seen.

    And the columns of a newer release, which only the partition has.
    """
    schema = with_others(EVENT_SCHEMA, existing.schema)
    existing = conform(existing, schema)
    key, own = list(PRIMARY_KEY), [name for name in schema.names if name not in EVENT_SCHEMA.names]
    seen = existing.group_by(key, use_threads=False).aggregate(
        [("ingestion_time", "min"), *((name, "first") for name in own)]
    )
    seen = seen.rename_columns([*key, "ingestion_time", *own])
    replaced = right.drop_columns(["ingestion_time"]).join(seen, key, join_type="inner").select(schema.names)
    # Joined as Arrow joins: without strings of more than 2 GB, which an hour's object is far from.
    others = existing.join(right.select(key), key, join_type="left anti")
    both = pa.concat_tables([others.select(schema.names), replaced]).cast(schema)
    return both.sort_by([(name, "ascending") for name in _ORDER])
