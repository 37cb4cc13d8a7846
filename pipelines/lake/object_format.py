"""The bytes of the lake's objects: rows of our columns to Parquet and back, whatever release wrote them. Pure.

The one place that reads an object: a nullable column that it lacks is null, a required one makes it none of ours, and
columns that a newer release added stay in it when rows are added.
"""

from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, SCHEMA_VERSION

ROW_GROUP_EVENTS = 10_000
"""The rows that a reader of a large object holds at once: 4 MB compressed, 13 MB as rows of 1.3 KB."""
_VERSION_KEY = "schema_version"
"""In the key-value metadata of the file. Objects of the first releases have none."""
VERSION_METADATA = {_VERSION_KEY: str(SCHEMA_VERSION)}
LOW_CARDINALITY = [name for name in EVENT_SCHEMA.names if name not in {"event_id", "raw_event", "metadata"}]
"""The columns that are stored by a dictionary."""


class NewerVersionError(ValueError):
    """The object has a schema version that this release does not know."""


def open_object(source: Any, *, pre_buffer: bool = False) -> pq.ParquetFile:
    """Opens an object, of bytes or of a file.

    Raises:
        NewerVersionError: a newer release wrote it in another way.
        ValueError, OSError: it is not Parquet, or two columns have one name: DuckDB reads the first of `raw_event` and
            `RAW_EVENT`, pyarrow the second.
    """
    file = pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source, pre_buffer=pre_buffer)
    version = int((file.metadata.metadata or {}).get(_VERSION_KEY.encode(), b"0"))
    if version > SCHEMA_VERSION:
        msg = f"its schema_version is {version}, and this release knows {SCHEMA_VERSION}"
        raise NewerVersionError(msg)
    names = file.schema_arrow.names
    if len({name.casefold() for name in names}) < len(names):
        msg = "two of its columns have one name"
        raise ValueError(msg)
    return file


def read_rows(file: pq.ParquetFile, schema: pa.Schema) -> pa.Table:
    """Reads the rows of an object in the columns of a schema.

    Raises:
        ValueError, OSError: its bytes are not what they should be.
        LookupError: it lacks a required column.
    """
    return conform(file.read(schema.names), schema)


def read_batches(file: pq.ParquetFile, schema: pa.Schema, rows: int) -> Iterator[pa.Table]:
    """Reads as `read_rows`, some rows at a time."""
    for batch in file.iter_batches(rows, columns=schema.names):
        yield conform(pa.Table.from_batches([batch]), schema)


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Returns the rows with exactly the columns of the schema; raises as `read_rows`."""
    if rows.schema.equals(schema):
        return rows
    for field in schema:
        if field.nullable and field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows.select(schema.names).cast(schema)


def with_others(schema: pa.Schema, held: pa.Schema) -> pa.Schema:
    """The schema, and behind its columns those that only an object has: a newer release added them."""
    others = [field.with_nullable(nullable=True) for field in held if field.name not in schema.names]
    return pa.schema([*schema, *others])


def select_columns(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """The schema of some of its columns."""
    return pa.schema([schema.field(name) for name in names])


def encode(table: pa.Table) -> bytes:
    """The object's bytes. zstd level 1: 20,000 events in 57 ms, in 111 ms at level 3, which makes them no smaller."""
    return encode_all([table], table.schema)


def encode_all(tables: Iterable[pa.Table], schema: pa.Schema) -> bytes:
    """The tables one after the other, a row group in memory at a time, however large the object is."""
    buffer, schema = BytesIO(), schema.remove_metadata()
    low_cardinality = [name for name in schema.names if name in LOW_CARDINALITY]
    pending = schema.empty_table()
    with pq.ParquetWriter(
        buffer,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=low_cardinality,
        write_statistics=low_cardinality,  # the least and greatest JSON text of an hour answer no question
    ) as writer:
        writer.add_key_value_metadata(VERSION_METADATA)
        for table in tables:
            pending = pa.concat_tables([pending, conform(table, schema)])
            while pending.num_rows > ROW_GROUP_EVENTS:
                writer.write_table(pending.slice(0, ROW_GROUP_EVENTS))
                pending = pending.slice(ROW_GROUP_EVENTS)
        writer.write_table(pending)
    return buffer.getvalue()
