"""dlt's part of the source: the resources, which yield the events as files.

A resource yields its events as files, which dlt links into its load package: a load job reads its own file, however
often dlt repeats it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import dlt
import pyarrow as pa
from dlt.extract import DltResource

from . import CURSOR, SOURCE_NAME
from .files import Batch, RowFile
from .schema import EVENT_SCHEMA, EVENTS_TABLE, PRIMARY_KEY, QUARANTINE_KEY, QUARANTINE_SCHEMA, QUARANTINE_TABLE
from .streams import Stream


@dlt.source(name=SOURCE_NAME, section=SOURCE_NAME, max_table_nesting=0)
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
        events = _files(batch.event_files, EVENT_SCHEMA) if lags is None else _polled(batch, lags[stream])
        yield _resource(events, stream.name, EVENTS_TABLE, PRIMARY_KEY)
    quarantined = [file for batch in batches.values() for file in batch.quarantine_files]
    if quarantined:
        yield _resource(_files(quarantined, QUARANTINE_SCHEMA), QUARANTINE_TABLE, QUARANTINE_TABLE, QUARANTINE_KEY)


def _resource(rows: Any, name: str, table: str, key: tuple[str, ...]) -> DltResource:
    insert_only: Any = {"disposition": "merge", "strategy": "insert-only"}  # missing in dlt's own types
    resource: DltResource = dlt.resource(
        rows, name=name, table_name=table, primary_key=key, write_disposition=insert_only, file_format="parquet"
    )
    return resource


def _polled(batch: Batch, lag_seconds: float) -> Callable[..., Iterator[Any]]:
    def audit_logs(
        timestamp: Any = dlt.sources.incremental(CURSOR, initial_value=batch.since, lag=lag_seconds),  # noqa: B008
    ) -> Iterator[Any]:
        # Without this, dlt could not commit the cursor of a window whose events are all known.
        timestamp.get_state()["initial_value"] = batch.since
        timestamp.advance(batch.cursor)
        yield from _files(batch.event_files, EVENT_SCHEMA)

    return audit_logs


def _files(files: Iterable[RowFile], schema: pa.Schema) -> Iterator[Any]:
    """Yields each file as it is; dlt takes the columns from an empty table of the schema."""
    for file in files:
        yield dlt.mark.with_file_import(str(file.path), "parquet", items_count=file.rows, hints=schema.empty_table())
