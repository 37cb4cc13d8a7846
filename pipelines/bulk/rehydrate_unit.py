"""One unit of a rehydration: a day of an account, from the lake into a table of the warehouse.

A module of its own because a Dask worker imports it by this name; what runs as `__main__` has another one there.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa
from adbc_driver_manager.dbapi import Connection

from pipelines.fetch.api import StopRequestedError
from pipelines.host.logs import log
from pipelines.lake.database import duckdb_schema
from pipelines.lake.object_format import NewerVersionError, open_object
from pipelines.lake.partitions import Partition
from pipelines.lake.reads import LakeReader, read_lake
from pipelines.settings.settings import Settings
from pipelines.warehouse.connection import connect
from pipelines.warehouse.destination import Warehouse, open_warehouse
from pipelines.warehouse.write import load_events
from sources.cloudflare_audit_logs.errors import BrokenObjectError
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA
from sources.cloudflare_audit_logs.streams import Window

from .units import Shared

Day = tuple[str, Window]
Write = Callable[[pa.Table], None]

TABLE = "audit_logs_rehydrated"
BATCH_EVENTS = 5_000
"""Rows of one transaction: 7 MB of events of 1.3 KB."""
BATCH_OF_LARGE_EVENTS = 100
DUCKDB_MEMORY = "128MB"

_COLUMNS = ", ".join(f'"{name}"' for name in EVENT_SCHEMA.names)
_WINDOW = f"""FROM read_parquet($1, hive_partitioning = false, schema = {duckdb_schema(EVENT_SCHEMA)})
    WHERE account_id = $2 AND "timestamp" >= $3 AND "timestamp" < $4"""


@dataclass
class Brought:
    """What was read of the lake, or would be."""

    objects: int = 0
    events: int = 0
    bytes: int = 0
    broken: list[str] = field(default_factory=list)
    """Objects."""
    failed: list[str] = field(default_factory=list)
    """Account and day of units that could not be done."""

    def add(self, other: "Brought") -> None:
        """Counts the other in."""
        self.objects += other.objects
        self.events += other.events
        self.bytes += other.bytes
        self.broken += other.broken
        self.failed += other.failed


@contextmanager
def open_rehydration(
    settings: Settings, shared: Shared, _: str, *, is_dry_run: bool
) -> Iterator[Callable[[Day], Brought]]:
    """What one thread needs, and how it does a unit: stores, a connection and a DuckDB of its own."""
    with ExitStack() as stack:
        lake = stack.enter_context(read_lake(must_exist=False))  # whoever gave the command has looked
        warehouse, client = stack.enter_context(open_warehouse(settings.stores, takes_lock=False))
        with warehouse.translated_errors():
            connection = stack.enter_context(connect(client.config.credentials, autocommit=True))
        write = None if is_dry_run else partial(_write, warehouse, connection, shared)
        database = stack.enter_context(_duckdb())
        yield lambda day: _bring(*day, lake, database, write)


def _bring(
    account_id: str, window: Window, lake: LakeReader, database: duckdb.DuckDBPyConnection, write: Write | None
) -> Brought:
    """Brings a day's objects, one by one if one of them cannot be read."""
    sizes = lake.sizes(account_id, window)
    try:
        return _bring_objects(window, sizes, lake, database, write)
    except duckdb.Error:
        brought = Brought()
        for partition, size in sizes.items():
            try:
                brought.add(_bring_objects(window, {partition: size}, lake, database, write))
            except duckdb.Error:
                brought.add(_bring_without_duckdb(window, partition, size, lake, write))
        return brought


def _bring_without_duckdb(
    window: Window, partition: Partition, size: int, lake: LakeReader, write: Write | None
) -> Brought:
    """Brings an object that DuckDB cannot read: a broken one is named; one with events of 100 KB is too much for it."""
    brought = Brought(1, 0, size)
    try:
        for events in lake.batches(partition, window, BATCH_OF_LARGE_EVENTS):
            if write is not None:
                write(events)
            brought.events += events.num_rows
    except BrokenObjectError as error:
        log.error("lake.broken", error=error, path=partition.path)
        return Brought(broken=[partition.path])
    return brought


def _bring_objects(
    window: Window,
    objects: Mapping[Partition, int],
    lake: LakeReader,
    database: duckdb.DuckDBPyConnection,
    write: Write | None,
) -> Brought:
    brought = Brought(objects=len(objects), bytes=sum(objects.values()))
    if not objects:
        return brought
    with lake.files(objects) as paths:
        _refuse_newer(paths)
        parameters = [paths, next(iter(objects)).account_id, window.since, window.before]
        if write is None:
            ((brought.events,),) = database.execute(f"SELECT count(*) {_WINDOW}", parameters).fetchall()
            return brought
        for events in _batches(database, parameters):
            write(events)
            brought.events += events.num_rows
    return brought


def _refuse_newer(paths: list[str]) -> None:
    """DuckDB reads columns by their names, whatever a newer release means by them; raises duckdb.Error."""
    for path in paths:
        try:
            open_object(path).close()
        except NewerVersionError as error:
            raise duckdb.DataError(str(error)) from error
        except (OSError, ValueError):
            return  # DuckDB says what is wrong


def _batches(database: duckdb.DuckDBPyConnection, parameters: list[Any]) -> Iterator[pa.Table]:
    """The events; raises duckdb.Error whether DuckDB meets a broken object at once or on the way, as Arrow tells it."""
    batches: Any = database.sql(f"SELECT {_COLUMNS} {_WINDOW}", params=parameters).to_arrow_reader(BATCH_EVENTS)
    while True:
        try:
            events = pa.Table.from_batches([next(batches)]).cast(EVENT_SCHEMA)
        except StopIteration:
            return
        except (OSError, ValueError, pa.ArrowException) as error:
            raise duckdb.DataError(str(error)) from error
        yield events


def _write(warehouse: Warehouse, connection: Connection, shared: Shared, events: pa.Table) -> None:
    if shared.stop.is_set():
        raise StopRequestedError
    with warehouse.translated_errors():
        for reason in load_events(connection, warehouse.dataset_name, events, table=TABLE)["reason"].to_pylist():
            log.warning("warehouse.quarantined", reason=reason)


@contextmanager
def _duckdb() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"memory_limit": DUCKDB_MEMORY, "threads": 1}) as database:
        database.execute("SET TimeZone = 'UTC'")
        yield database
