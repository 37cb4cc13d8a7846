"""Rows on their way into the stores: Parquet files that dlt takes into its load package as they are. Knows no dlt.

Written and read a row group at a time, so that a file may be larger than memory. Uncompressed, because it lives for
seconds: 100,000 events (151 MB) cost 0.1 CPU s to write and 0.1 to read, which compression multiplies.
"""

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from .events import KEY_COLUMNS
from .schema import EVENT_SCHEMA, QUARANTINE_SCHEMA

_UNIQUE = ("event_id", "timestamp", "metadata", "raw_event", "digest")
"""Columns that a dictionary makes no smaller."""
_ONE_PAGE = 1 << 30
"""Bytes: a column in many pages is read three times as slowly."""


class RowFile:
    """The file is removed when nobody refers to this object any more; dlt has its own link to it by then."""

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.rows = path, rows
        weakref.finalize(self, path.unlink, missing_ok=True)

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all rows."""
        return pq.ParquetFile(self.path).read(columns)


class RowWriter:
    """Writes one file in a folder, each table a row group; the file is there when the block has ended well."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._path, self._schema, self._rows = folder / f"{uuid4().hex}.parquet", schema, 0
        self._writer: pq.ParquetWriter | None = None
        self.files: list[RowFile] = []
        """The one file; none if nothing was written."""

    def __enter__(self) -> Self:
        return self

    def write(self, table: pa.Table) -> None:
        """Adds rows.

        Raises:
            OSError: the folder cannot be written, or has no space.
        """
        if not table.num_rows:
            return
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)  # someone may have removed it under us
            self._writer = pq.ParquetWriter(
                self._path,
                self._schema,
                compression="none",
                use_dictionary=[name for name in self._schema.names if name not in _UNIQUE],
                write_statistics=False,
                data_page_size=_ONE_PAGE,
            )
        self._writer.write_table(table)
        self._rows += table.num_rows

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._writer is None:
            return
        try:
            self._writer.close()
        finally:
            if kind is not None:
                self._path.unlink(missing_ok=True)
        if kind is None:
            self.files.append(RowFile(self._path, self._rows))


def read_groups(path: Path | str, schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of such a file in the columns of a schema, a row group at a time.

    Where a newer release has added a column to dlt's schema, dlt writes the file anew, with that column.
    """
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns=schema.names).select(schema.names).cast(schema)


class PageFile(NamedTuple):
    """A page on disk, of any size; reads as a `Page` does."""

    event_files: Sequence[RowFile]
    quarantine_files: Sequence[RowFile]

    @property
    def keys(self) -> pa.Table:
        """The events' `KEY_COLUMNS`, read anew."""
        empty = EVENT_SCHEMA.empty_table().select(KEY_COLUMNS)
        return pa.concat_tables([empty, *(file.read(KEY_COLUMNS) for file in self.event_files)])

    def event_groups(self) -> Iterator[pa.Table]:
        """The events, some at a time."""
        return chain.from_iterable(read_groups(file.path, EVENT_SCHEMA) for file in self.event_files)

    def quarantine_groups(self) -> Iterator[pa.Table]:
        """The quarantined events, some at a time."""
        return chain.from_iterable(read_groups(file.path, QUARANTINE_SCHEMA) for file in self.quarantine_files)


@dataclass
class Batch:
    """The events and quarantined events of one stream that a load brings to a destination, and the stream's cursor."""

    since: datetime
    """Where the stream begins."""
    cursor: datetime
    """The newest event time read, known events included. With `since`, the position that is stored with the load."""
    event_files: list[RowFile] = field(default_factory=list)
    quarantine_files: list[RowFile] = field(default_factory=list)
    refused: int = 0
    """Events that the destination refused and quarantined during the load."""

    @property
    def events(self) -> int:
        """The number of events that it brings."""
        return sum(file.rows for file in self.event_files) - self.refused

    @property
    def quarantined(self) -> int:
        """The number of events that have no readable time, or were refused."""
        return sum(file.rows for file in self.quarantine_files) + self.refused
