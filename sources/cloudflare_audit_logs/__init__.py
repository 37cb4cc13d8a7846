"""The dlt source `cloudflare_audit_logs`: one resource per API version and account, each with a cursor of its own.

The events are read from the API before dlt is asked for anything (`paging`, `events`): a resource is handed its batch
and yields it. So nothing of dlt runs while the network is read, and both pipelines load the same pages.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import dlt
import pyarrow as pa
from dlt.extract import DltResource

from .schema import EVENTS_TABLE, PRIMARY_KEY, QUARANTINE_KEY, QUARANTINE_TABLE
from .streams import Stream

SOURCE_NAME = "cloudflare_audit_logs"
CURSOR = "timestamp"

_INSERT_ONLY: Any = {"disposition": "merge", "strategy": "insert-only"}  # missing in dlt's own types


@dataclass
class Batch:
    """What one load brings of one stream: events and quarantined events that the destination lacks, and its cursor."""

    since: datetime
    """Where the stream begins: stored at its first load, never moved after."""
    cursor: datetime
    """The newest event time read, known events included."""
    events: list[pa.Table] = field(default_factory=list)
    quarantined: list[pa.Table] = field(default_factory=list)


@dlt.source(name=SOURCE_NAME, max_table_nesting=0)
def cloudflare_audit_logs(batches: Mapping[Stream, Batch], lag_seconds: float) -> Iterator[DltResource]:
    """Yields the events of each batch once, and commits each batch's cursor, even for a batch without events.

    Args:
        batches: by stream, what the destination lacks.
        lag_seconds: the safety lag: the next window starts this much before the cursor.
    """
    for stream, batch in batches.items():
        yield _audit_logs(stream, batch, lag_seconds)
    quarantined = [table for batch in batches.values() for table in batch.quarantined]
    if quarantined:
        yield _quarantine(quarantined)


def _audit_logs(stream: Stream, batch: Batch, lag_seconds: float) -> DltResource:
    @dlt.resource(
        name=stream.name,
        table_name=EVENTS_TABLE,
        primary_key=PRIMARY_KEY,
        write_disposition=_INSERT_ONLY,
        file_format="parquet",
    )
    def audit_logs(
        timestamp: Any = dlt.sources.incremental(CURSOR, initial_value=batch.since, lag=lag_seconds),  # noqa: B008
    ) -> Iterator[pa.Table]:
        # Without this, dlt would drop a late event below its cursor without a word, and could not
        # commit the cursor of a stretch whose events are all known.
        timestamp.advance(max(batch.cursor, timestamp.get_state()["last_value"]))
        yield from batch.events

    return audit_logs


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


__all__ = ["Batch", "Position", "Stream", "cloudflare_audit_logs", "stored_position"]
