"""The dlt source `cloudflare_audit_logs`: one resource per API version and account, each with a cursor of its own.

The events are read from the API before dlt is asked for anything (`paging`, `events`), so nothing of dlt runs while the
network is read, and both pipelines load the same pages. A resource yields its events as files, which dlt links into its
load package: a load job reads its own file, however often dlt repeats it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import dlt
import pyarrow as pa
from dlt.extract import DltResource

from .files import RowFile
from .schema import EVENT_SCHEMA, EVENTS_TABLE, PRIMARY_KEY, QUARANTINE_KEY, QUARANTINE_SCHEMA, QUARANTINE_TABLE
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
    event_files: list[RowFile] = field(default_factory=list)
    quarantine_files: list[RowFile] = field(default_factory=list)
    refused: int = 0
    """Of its events, those that the destination refused and quarantined, as its load has shown."""

    @property
    def events(self) -> int:
        """How many it brings."""
        return sum(file.rows for file in self.event_files) - self.refused

    @property
    def quarantined(self) -> int:
        """How many it brings that cannot be placed, or were refused."""
        return sum(file.rows for file in self.quarantine_files) + self.refused


@dlt.source(name=SOURCE_NAME, max_table_nesting=0)
def cloudflare_audit_logs(
    batches: Mapping[Stream, Batch], lags: Mapping[Stream, float] | None
) -> Iterator[DltResource]:
    """Yields the events of each batch once, and commits each batch's cursor, even for a batch without events.

    Args:
        batches: by stream, what the destination lacks.
        lags: the safety lag of each stream in seconds: its next window starts this much before the cursor. None: the
            batches come from beside the loop (sweep, backfill, repair), and no cursor is read or moved.
    """
    for stream, batch in batches.items():
        yield _polled(stream, batch, lags[stream]) if lags is not None else _late(stream, batch)
    quarantined = [file for batch in batches.values() for file in batch.quarantine_files]
    if quarantined:
        yield _quarantine(quarantined)


def _polled(stream: Stream, batch: Batch, lag_seconds: float) -> DltResource:
    def audit_logs(
        timestamp: Any = dlt.sources.incremental(CURSOR, initial_value=batch.since, lag=lag_seconds),  # noqa: B008
    ) -> Iterator[Any]:
        # Without this, dlt could not commit the cursor of a stretch whose events are all known.
        timestamp.get_state()["initial_value"] = batch.since
        timestamp.advance(batch.cursor)
        yield from _imported(batch.event_files, EVENT_SCHEMA)

    return _resource(stream, audit_logs)


def _late(stream: Stream, batch: Batch) -> DltResource:
    return _resource(stream, _imported(batch.event_files, EVENT_SCHEMA))


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


def _quarantine(files: Iterable[RowFile]) -> DltResource:
    quarantine: DltResource = dlt.resource(
        _imported(files, QUARANTINE_SCHEMA),
        name=QUARANTINE_TABLE,
        primary_key=QUARANTINE_KEY,
        write_disposition=_INSERT_ONLY,
        file_format="parquet",
    )
    return quarantine


def _imported(files: Iterable[RowFile], schema: pa.Schema) -> Iterator[Any]:
    """Each file as it is; dlt takes the columns from an empty table of the schema."""
    for file in files:
        yield dlt.mark.with_file_import(str(file.path), "parquet", items_count=file.rows, hints=schema.empty_table())


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


__all__ = ["Batch", "Position", "Stream", "cloudflare_audit_logs", "stored_position"]
