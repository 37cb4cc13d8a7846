"""Rehydrates days of accounts from the lake into a table of the warehouse, and drops them: a day is one unit."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from pipelines.warehouse.connection import as_owner, connect, transaction_on
from pipelines.warehouse.destination import Warehouse, open_warehouse
from pipelines.warehouse.statements import sections_of
from pipelines.warehouse.write import load_events
from sources.cloudflare_audit_logs.errors import AuditLogsError, BrokenObjectError
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA
from sources.cloudflare_audit_logs.streams import Window

from .shared import Shared
from .units import BrokenUnitError, open_pool, run_units

AccountDay = tuple[str, Window]
Write = Callable[[pa.Table], None]

TABLE = "audit_logs_rehydrated"
THREADS = min(4, os.cpu_count() or 1)
"""Each with a connection of its own: PostgreSQL does most of the work."""
BATCH_EVENTS = 5_000
"""Rows of one transaction: 7 MB of events of 1.3 KB."""
BATCH_OF_LARGE_EVENTS = 100
DUCKDB_MEMORY = "128MB"

_COLUMNS = ", ".join(f'"{name}"' for name in EVENT_SCHEMA.names)
_WINDOW = f"""FROM read_parquet($1, hive_partitioning = false, schema = {duckdb_schema(EVENT_SCHEMA)})
    WHERE account_id = $2 AND "timestamp" >= $3 AND "timestamp" < $4"""


@dataclass
class Rehydrated:
    """The counts of what was read of the lake, or would be."""

    objects: int = 0
    events: int = 0
    bytes: int = 0
    broken: list[str] = field(default_factory=list)
    """Paths of objects that cannot be read."""
    failed: list[str] = field(default_factory=list)
    """Account and day of units that could not be done."""

    def add(self, other: "Rehydrated") -> None:
        """Adds the result of another unit."""
        self.objects += other.objects
        self.events += other.events
        self.bytes += other.bytes
        self.broken += other.broken
        self.failed += other.failed


def rehydrate_days(
    days: Sequence[AccountDay], settings: Settings, *, is_dry_run: bool, scheduler: str | None
) -> Rehydrated:
    """Rehydrates days of accounts, several side by side; raises the error of a day that the others would meet too."""
    with open_warehouse(settings.stores, takes_lock=False):
        pass  # makes the tables, before several workers would
    total, begun = Rehydrated(), time.monotonic()
    work, title = partial(open_rehydration, is_dry_run=is_dry_run), "counted" if is_dry_run else "rehydrated"

    def progress() -> str:
        return f"{total.events:,} events, {total.events / (time.monotonic() - begun):,.0f} a second"

    with open_pool(scheduler, work, settings, Shared(), threads=THREADS, asks_api=False) as pool:
        for (account_id, window), result in run_units(days, pool, title, progress):
            if isinstance(result, BrokenUnitError):
                day = f"{window.since:%Y-%m-%d}"
                log.error("rehydrate.failed", account=account_id, day=day, error=result)
                total.failed.append(f"{account_id} {day}")
            elif isinstance(result, AuditLogsError):
                raise result
            else:
                total.add(result)
    return total


def drop_window(account_ids: Sequence[str], window: Window, settings: Settings) -> int:
    """Deletes the window from the table, some thousand events at a time, as the owner; returns how many there were."""
    sections = sections_of("rehydrated.sql", schema=settings.stores.postgres_schema)
    statement, dropped = sections["delete some events"][0], 0
    with open_warehouse(settings.stores, takes_lock=False) as (warehouse, client), warehouse.translated_errors():
        owner = as_owner(client.config.credentials, settings.stores.postgres_owner)
        with connect(owner) as connection:
            for account_id in account_ids:
                while count := _drop_some(connection, statement, account_id, window):
                    dropped += count
    return dropped


def _drop_some(connection: Connection, statement: str, account_id: str, window: Window) -> int:
    with transaction_on(connection) as cursor:
        cursor.execute(statement, (account_id, window.since, window.before))
        (count,) = cursor.fetch_arrow_table()["events"].to_pylist()
        return int(count)


@contextmanager
def open_rehydration(
    settings: Settings, shared: Shared, _: str, *, is_dry_run: bool
) -> Iterator[Callable[[AccountDay], Rehydrated]]:
    """Opens what one thread needs, a connection and a DuckDB of its own; yields the function that does a unit."""
    with ExitStack() as stack:
        lake = stack.enter_context(read_lake(must_exist=False))  # the command has looked
        warehouse, client = stack.enter_context(open_warehouse(settings.stores, takes_lock=False))
        with warehouse.translated_errors():
            connection = stack.enter_context(connect(client.config.credentials, autocommit=True))
        write = None if is_dry_run else partial(_write, warehouse, connection, shared)
        database = stack.enter_context(duckdb.connect(config={"memory_limit": DUCKDB_MEMORY, "threads": 1}))
        database.execute("SET TimeZone = 'UTC'")
        yield lambda day: _rehydrate_day(*day, lake, database, write)


def _write(warehouse: Warehouse, connection: Connection, shared: Shared, events: pa.Table) -> None:
    if shared.stop.is_set():
        raise StopRequestedError
    with warehouse.translated_errors():
        for reason in load_events(connection, warehouse.dataset_name, events, table=TABLE)["reason"].to_pylist():
            log.warning("warehouse.quarantined", reason=reason)


def _rehydrate_day(
    account_id: str, window: Window, lake: LakeReader, database: duckdb.DuckDBPyConnection, write: Write | None
) -> Rehydrated:
    """Rehydrates a day's objects, one by one if DuckDB cannot read one of them."""
    sizes = lake.sizes(account_id, window)
    try:
        return _rehydrate_objects(window, sizes, lake, database, write)
    except duckdb.Error:
        done = Rehydrated()
        for partition, size in sizes.items():
            try:
                done.add(_rehydrate_objects(window, {partition: size}, lake, database, write))
            except duckdb.Error:
                done.add(_rehydrate_without_duckdb(window, partition, size, lake, write))
        return done


def _rehydrate_objects(
    window: Window,
    objects: Mapping[Partition, int],
    lake: LakeReader,
    database: duckdb.DuckDBPyConnection,
    write: Write | None,
) -> Rehydrated:
    done = Rehydrated(objects=len(objects), bytes=sum(objects.values()))
    if not objects:
        return done
    with lake.files(objects) as paths:
        _refuse_newer(paths)
        parameters = [paths, next(iter(objects)).account_id, window.since, window.before]
        if write is None:
            ((done.events,),) = database.execute(f"SELECT count(*) {_WINDOW}", parameters).fetchall()
            return done
        for events in _batches(database, parameters):
            write(events)
            done.events += events.num_rows
    return done


def _refuse_newer(paths: list[str]) -> None:
    """Raises duckdb.Error: DuckDB reads columns by their names, whatever a newer release means by them."""
    for path in paths:
        try:
            open_object(path).close()
        except NewerVersionError as error:
            raise duckdb.DataError(str(error)) from error
        except (OSError, ValueError):
            return  # DuckDB names the mistake


def _batches(database: duckdb.DuckDBPyConnection, parameters: list[Any]) -> Iterator[pa.Table]:
    """Yields the events; raises duckdb.Error for a broken object, even where Arrow raises the error on the way."""
    batches: Any = database.sql(f"SELECT {_COLUMNS} {_WINDOW}", params=parameters).to_arrow_reader(BATCH_EVENTS)
    while True:
        try:
            events = pa.Table.from_batches([next(batches)]).cast(EVENT_SCHEMA)
        except StopIteration:
            return
        except (OSError, ValueError, pa.ArrowException) as error:
            raise duckdb.DataError(str(error)) from error
        yield events


def _rehydrate_without_duckdb(
    window: Window, partition: Partition, size: int, lake: LakeReader, write: Write | None
) -> Rehydrated:
    """Names a broken object, and reads one with events of 100 KB, which are too large for DuckDB's memory."""
    done = Rehydrated(1, 0, size)
    try:
        for events in lake.batches(partition, window, BATCH_OF_LARGE_EVENTS):
            if write is not None:
                write(events)
            done.events += events.num_rows
    except BrokenObjectError as error:
        log.error("lake.broken", error=error, path=partition.path)
        return Rehydrated(broken=[partition.path])
    return done
