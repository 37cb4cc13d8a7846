"""Rehydrates days of accounts from the lake into a table of the warehouse, and drops them: a day is one unit."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa
from adbc_driver_manager.dbapi import Connection

from pipelines.fetch.api import StopRequestedError
from pipelines.host.logs import log
from pipelines.lake.ask.database import ask_lake, lake_database
from pipelines.lake.ask.files import SCHEME, LakeFiles
from pipelines.lake.ask.places import Days, Place, open_place
from pipelines.lake.object_format import NewerVersionError, open_object
from pipelines.lake.objects import ConflictError
from pipelines.lake.partitions import Partition, hours_of
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
DUCKDB = {"memory_limit": "128MB", "threads": 1}

_COLUMNS = ", ".join(f'"{name}"' for name in EVENT_SCHEMA.names)
_WINDOW = 'FROM events_in($1, $2) WHERE account_id = $3 AND "timestamp" >= $4 AND "timestamp" < $5'


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
        place = open_place()
        yield lambda day: _rehydrate_day(*day, lake, place, write)


def _write(warehouse: Warehouse, connection: Connection, shared: Shared, events: pa.Table) -> None:
    if shared.stop.is_set():
        raise StopRequestedError
    with warehouse.translated_errors():
        for reason in load_events(connection, warehouse.dataset_name, events, table=TABLE)["reason"].to_pylist():
            log.warning("warehouse.quarantined", reason=reason)


def _rehydrate_day(account_id: str, window: Window, lake: LakeReader, place: Place, write: Write | None) -> Rehydrated:
    """Rehydrates a day, by its copy if it has a whole one; object by object if DuckDB cannot read one of them."""

    def rehydrate(database: duckdb.DuckDBPyConnection, files: LakeFiles) -> Rehydrated:
        plan = files.plan(Days.matching(account_id, f"{window.since:%Y-%m-%d}"))
        of_window = {files.url(Partition(account_id, hour).path) for hour in hours_of(window.since, window.before)}
        hours = {url: size for url, size in plan.hours.items() if url in of_window}
        return _rehydrate_objects((account_id, window), hours, plan.copies, database, files, write)

    try:
        return ask_lake(place, rehydrate, **DUCKDB)
    except duckdb.Error:
        done, files = Rehydrated(), LakeFiles(place)
        with lake_database(files, **DUCKDB) as database:
            for partition, size in lake.sizes(account_id, window).items():
                hour = {files.url(partition.path): size}
                try:
                    done.add(_rehydrate_objects((account_id, window), hour, {}, database, files, write))
                except (duckdb.Error, ConflictError):
                    done.add(_rehydrate_without_duckdb(window, partition, size, lake, write))
        return done


def _rehydrate_objects(  # noqa: PLR0917  # a unit's, and what reads and writes it
    day: AccountDay,
    hours: Mapping[str, int],
    copies: Mapping[str, int],
    database: duckdb.DuckDBPyConnection,
    files: LakeFiles,
    write: Write | None,
) -> Rehydrated:
    objects = {**hours, **copies}
    done = Rehydrated(objects=len(objects), bytes=sum(objects.values()))
    if not objects:
        return done
    files.read_ahead(objects)
    _refuse_newer(files, objects)
    parameters = [list(hours), list(copies), day[0], day[1].since, day[1].before]
    if write is None:
        ((done.events,),) = database.execute(f"SELECT count(*) {_WINDOW}", parameters).fetchall()
        return done
    for events in _batches(database, parameters):
        write(events)
        done.events += events.num_rows
    return done


def _refuse_newer(files: LakeFiles, urls: Iterable[str]) -> None:
    """Raises duckdb.Error: DuckDB reads columns by their names, whatever a newer release means by them."""
    for url in urls:
        try:
            open_object(files.open(url) if url.startswith(f"{SCHEME}://") else url).close()
        except NewerVersionError as error:
            raise duckdb.DataError(str(error)) from error
        except (OSError, ValueError):
            return  # DuckDB names the mistake
        except ConflictError as error:
            raise duckdb.DataError(str(error)) from error


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
