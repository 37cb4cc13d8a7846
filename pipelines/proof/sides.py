"""The API and the lake as sides of a comparison; `WarehouseReader` is the third by itself. Never writes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime

import pyarrow as pa

from pipelines.fetch.reading import FetchPages, fetch_exactly, within
from pipelines.lake.key_tallies import KEYS, tallies_of
from pipelines.lake.partitions import HOUR, hour_of
from pipelines.lake.reads import LakeReader
from pipelines.load.tally import Tally
from pipelines.warehouse.reads import WarehouseReader
from sources.cloudflare_audit_logs.errors import AuditLogsError, BrokenObjectError, HiddenEventsError
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA
from sources.cloudflare_audit_logs.streams import Stream, Window

_LAKE_READERS = 8
"""Objects read at once: in a bucket, each waits for two answers."""


class ApiSide:
    """The API's side: the events of a stream in a window that was read to its end."""

    def __init__(self, events: Iterable[pa.Table], hidden: Sequence[datetime] = ()) -> None:
        """Takes events or their keys, page by page, and the instants of which the API does not show all events."""
        self.hidden = Counter(instant.replace(minute=0, second=0, microsecond=0) for instant in hidden)
        rows = pa.concat_tables(events)
        # Pages that drift show an event twice; that is the API's way of paging, not a double.
        numbers = pa.array(range(rows.num_rows), pa.int64())
        first = rows.select(KEYS).append_column("row", numbers).group_by(KEYS).aggregate([("row", "min")])
        self._events = rows.take(first["row_min"])

    @classmethod
    def read(cls, fetch_pages: FetchPages, stream: Stream, window: Window, *, with_contents: bool) -> "ApiSide":
        """Asks the API; raises AccountError if the window could not be read to its end."""
        columns = EVENT_SCHEMA.names if with_contents else KEYS
        tables, hidden = [EVENT_SCHEMA.empty_table().select(columns)], list[datetime]()
        try:
            pages = fetch_exactly(fetch_pages)(stream, window, "asc")
            tables.extend(page.events.select(columns) for page in pages)
        except HiddenEventsError as error:
            hidden = error.instants
        return cls(tables, hidden)

    def tallies(self, _: Stream, __: Window) -> dict[datetime, Tally]:
        """Returns those of the whole window that was read."""
        return tallies_of(self._events)

    def keys(self, stream: Stream, window: Window) -> pa.Table:
        """Returns those of a part of the window."""
        return self.events(stream, window).select(KEYS)

    def events(self, _: Stream, window: Window) -> pa.Table:
        """Returns those of a part of the window."""
        return within(self._events, window)


class LakeSide:
    """The lake; notes each hour whose object cannot be read, which then counts as empty."""

    def __init__(self, reader: LakeReader) -> None:
        self._reader = reader
        self.broken: dict[datetime, AuditLogsError] = {}
        self.stray: dict[datetime, int] = {}
        """By hour, the rows of its object that belong into another one."""

    def tallies(self, stream: Stream, window: Window) -> dict[datetime, Tally]:
        """Returns those of the hours that have an object which can be read."""
        hours = self._reader.hours(stream.account_id, window)
        parts = [part for part in window.parts(HOUR) if hour_of(part) in hours]
        if not parts:
            return {}
        with ThreadPoolExecutor(_LAKE_READERS) as pool:
            keys = list(pool.map(lambda part: self.keys(stream, part), parts))
        return tallies_of(pa.concat_tables(keys))

    def keys(self, stream: Stream, window: Window) -> pa.Table:
        """Returns the keys of an hour or less, doubles included."""
        with self._noting_if_broken(window):
            keys, stray = self._reader.keys(stream, window)
            if stray:
                self.stray[hour_of(window)] = stray
            return keys
        return EVENT_SCHEMA.empty_table().select(KEYS)

    def events(self, stream: Stream, window: Window) -> pa.Table:
        """Returns the events of an hour or less, doubles included."""
        with self._noting_if_broken(window):
            return self._reader.events(stream, window)
        return EVENT_SCHEMA.empty_table()

    @contextmanager
    def _noting_if_broken(self, window: Window) -> Iterator[None]:
        try:
            yield
        except BrokenObjectError as error:
            self.broken[hour_of(window)] = error


Side = ApiSide | LakeSide | WarehouseReader
"""A holder of events: its tallies of hours, and the keys or the whole events of an hour or less."""
