"""The dlt source `cloudflare_audit_logs`: one resource per API version and account, each with a cursor of its own.

The events are read from the API before dlt is asked for anything (`paging`, `events`): a resource is handed its batch
and yields it. So nothing of dlt runs while the network is read, and both pipelines load the same pages. What a resource
yields are the events' keys, the other columns empty; the rows themselves are `events_of`, and go beside dlt.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import dlt
import pyarrow as pa
from dlt.extract import DltResource

from .events import Page
from .schema import EVENT_SCHEMA, EVENTS_TABLE, PRIMARY_KEY, QUARANTINE_KEY, QUARANTINE_TABLE
from .streams import Stream

SOURCE_NAME = "cloudflare_audit_logs"
CURSOR = "timestamp"

_INSERT_ONLY: Any = {"disposition": "merge", "strategy": "insert-only"}  # missing in dlt's own types


@dataclass
class Batch:
    """What one load brings of one stream: events and quarantined events that the destination lacks, and its cursor."""

    since: datetime
    """Where the stream begins."""
    cursor: datetime
    """The newest event time read, known events included. With `since`, the position that is stored with the load."""
    pages: list[Page] = field(default_factory=list)
    refused: int = 0
    """Of its events, those that the destination refused and quarantined, as its load has shown."""

    def without_events(self) -> "Batch":
        """Its cursor alone."""
        return Batch(self.since, self.cursor)

    @property
    def events(self) -> int:
        """How many it brings."""
        carried: int = sum(page.events.num_rows for page in self.pages)
        return carried - self.refused

    @property
    def quarantined(self) -> int:
        """How many it brings that cannot be placed, or were refused."""
        carried: int = sum(page.quarantined.num_rows for page in self.pages)
        return carried + self.refused


@dlt.source(name=SOURCE_NAME, max_table_nesting=0)
def cloudflare_audit_logs(
    batches: Mapping[Stream, Batch], lags: Mapping[Stream, float] | None
) -> Iterator[DltResource]:
    """Yields the keys of each batch once, and commits each batch's cursor, even for a batch without events.

    Args:
        batches: by stream, what the destination lacks.
        lags: the safety lag of each stream in seconds: its next window starts this much before the cursor. None: the
            batches come from beside the loop (sweep, backfill, repair), and no cursor is read or moved.
    """
    for stream, batch in batches.items():
        yield _polled(stream, batch, lags[stream]) if lags is not None else _late(stream, batch)
    quarantined = [page.quarantined for batch in batches.values() for page in batch.pages if page.quarantined.num_rows]
    if quarantined:
        yield _quarantine(quarantined)


def _polled(stream: Stream, batch: Batch, lag_seconds: float) -> DltResource:
    def audit_logs(
        timestamp: Any = dlt.sources.incremental(CURSOR, initial_value=batch.since, lag=lag_seconds),  # noqa: B008
    ) -> Iterator[pa.Table]:
        # Without this, dlt would drop a late event below its cursor without a word, and could not
        # commit the cursor of a stretch whose events are all known.
        timestamp.get_state()["initial_value"] = batch.since
        timestamp.advance(batch.cursor)
        yield from _keys(batch)

    return _resource(stream, audit_logs)


def _late(stream: Stream, batch: Batch) -> DltResource:
    return _resource(stream, _keys(batch))


def _resource(stream: Stream, rows: Any) -> DltResource:
    resource: DltResource = dlt.resource(
        rows,
        name=stream.name,
        table_name=EVENTS_TABLE,
        primary_key=PRIMARY_KEY,
        write_disposition=_INSERT_ONLY,
        file_format="parquet",
    )
    return resource


def events_of(batches: Mapping[Stream, Batch]) -> pa.Table:
    """The events of the batches, whole."""
    return pa.concat_tables(
        [EVENT_SCHEMA.empty_table(), *(p.events for batch in batches.values() for p in batch.pages)]
    )


def _keys(batch: Batch) -> list[pa.Table]:
    """The events of a batch as one table, with nothing in the columns that are not of the key."""
    if not batch.events:
        return []
    events = pa.concat_tables([page.events for page in batch.pages])
    empty = {field.name: pa.nulls(events.num_rows, field.type) for field in EVENT_SCHEMA if field.nullable}
    empty["raw_event"] = pa.repeat(pa.scalar(""), events.num_rows)
    return [pa.table([empty.get(name, events[name]) for name in EVENT_SCHEMA.names], schema=EVENT_SCHEMA)]


def _quarantine(tables: list[pa.Table]) -> DltResource:
    quarantine: DltResource = dlt.resource(
        [pa.concat_tables(tables)],
        name=QUARANTINE_TABLE,
        primary_key=QUARANTINE_KEY,
        write_disposition=_INSERT_ONLY,
        file_format="parquet",
    )
    return quarantine


class Position(NamedTuple):
    """How far a destination holds a stream, as its dlt state says."""

    begin: datetime
    cursor: datetime


def stored_position(state: Mapping[str, Any], stream: Stream) -> Position | None:
    """The stream's position in the state of a dlt pipeline; None before its first load."""
    node: Any = state
    for key in ("sources", SOURCE_NAME, "resources", stream.name, "incremental", CURSOR):
        node = node.get(key) if node else None
    return Position(_plain(node["initial_value"]), _plain(node["last_value"])) if node else None


def _plain(time: datetime) -> datetime:
    """Dlt hands out subclasses of datetime."""
    return datetime.fromisoformat(time.isoformat()).astimezone(UTC)


__all__ = ["Batch", "Position", "Stream", "cloudflare_audit_logs", "events_of", "stored_position"]
