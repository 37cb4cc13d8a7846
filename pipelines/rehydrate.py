"""`python pipelines/rehydrate.py --since T --before T [--account A]… [--dry-run | --drop] [--json]`.

Brings a window of the lake back into the warehouse, table `audit_logs_rehydrated`, each event once however often it
runs; the view `audit_logs_all` has both tables. `--drop` takes it out again. DuckDB reads the objects, whose paths are
reckoned from the window; a day of an account is one unit. May be ended and run again at any time, and runs beside the
loop. Exit codes: 0 done, 1 an object is broken, 2 wrong usage, 75 try again later.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa
from adbc_driver_manager.dbapi import Connection
from tqdm import tqdm

from pipelines.api import utc_now
from pipelines.command import run_window_command
from pipelines.lake_reads import LakeReader, read_lake
from pipelines.logs import log
from pipelines.partitions import Partition
from pipelines.postgres import as_owner, connect, transaction_on
from pipelines.settings import Settings
from pipelines.statements import sections_of
from pipelines.units import run_units
from pipelines.warehouse import Warehouse, open_warehouse
from pipelines.warehouse_load import load_events
from pipelines.windows import accounts_of, add_window_options, days_of, past_window, window_of
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA
from sources.cloudflare_audit_logs.streams import Window

Day = tuple[str, Window]
Write = Callable[[pa.Table], None]

TABLE = "audit_logs_rehydrated"
BATCH_EVENTS = 5_000
"""Rows of one transaction: 7 MB of events of 1.3 KB."""
BATCH_OF_LARGE_EVENTS = 100
DUCKDB_MEMORY = "128MB"
WORKERS = min(4, os.cpu_count() or 1)
"""Days brought side by side, each by a connection of its own: PostgreSQL does most of the work."""

_COLUMNS = ", ".join(f'"{name}"' for name in EVENT_SCHEMA.names)
_WINDOW = """FROM read_parquet($1, hive_partitioning = false)
    WHERE account_id = $2 AND "timestamp" >= $3 AND "timestamp" < $4"""


@dataclass
class Brought:
    """What was read of the lake, or would be."""

    objects: int = 0
    events: int = 0
    bytes: int = 0
    broken: list[str] = field(default_factory=list)

    def add(self, other: "Brought") -> None:
        """Counts the other in."""
        self.objects += other.objects
        self.events += other.events
        self.bytes += other.bytes
        self.broken += other.broken


def main(arguments: Sequence[str] | None = None) -> int:
    """Brings the window back, or says what that would be, or takes it out; returns the exit code."""
    parser = argparse.ArgumentParser(prog="rehydrate.py", description=__doc__)
    add_window_options(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="only say what would be read: objects, events, bytes")
    what.add_argument("--drop", action="store_true", help="take the window out of audit_logs_rehydrated again")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    options = parser.parse_args(arguments)
    window = window_of(parser, options)
    work = drop if options.drop else partial(rehydrate, is_dry_run=options.dry_run)
    return run_window_command(partial(work, window, options.account, as_json=options.json), asks_api=False)


def rehydrate(
    window: Window, chosen: Sequence[str] | None, settings: Settings, *, is_dry_run: bool, as_json: bool
) -> int:
    """The command itself."""
    window = past_window(window, utc_now())
    with ExitStack() as stack:
        lake = stack.enter_context(read_lake())
        accounts = accounts_of(chosen, settings.account_ids, lake.has_account)
        warehouse, client = stack.enter_context(open_warehouse(settings.stores, takes_lock=False))
        days = [(account_id, day) for account_id in accounts for day in days_of(window)]
        total, begun = Brought(), time.monotonic()

        @contextmanager
        def open_worker(_: int) -> Iterator[Callable[[Day], Brought]]:
            with warehouse.translated_errors(), connect(client.config.credentials, autocommit=True) as connection:
                write = None if is_dry_run else partial(_write, warehouse, connection)
                with _duckdb() as database:
                    yield lambda day: _bring(*day, lake, database, write)

        what = "counted" if is_dry_run else "rehydrated"
        with tqdm(total=len(days), unit=" days", desc=what, disable=not sys.stderr.isatty()) as bar:
            for _, result in run_units(days, open_worker, workers=WORKERS, stop=threading.Event()):
                if isinstance(result, AuditLogsError):
                    raise result
                total.add(result)
                bar.update()
                rate = total.events / (time.monotonic() - begun)
                bar.set_postfix_str(f"{total.events:,} events, {rate:,.0f} a second")
    _tell(total, is_dry_run=is_dry_run, as_json=as_json)
    return 1 if total.broken else 0


def drop(window: Window, chosen: Sequence[str] | None, settings: Settings, *, as_json: bool) -> int:
    """`--drop`: some thousand events at a time, as the owner of the tables."""
    accounts = accounts_of(chosen, settings.account_ids, lambda _: True)
    sections = sections_of("rehydrated.sql", schema=settings.stores.postgres_schema)
    dropped = 0
    with open_warehouse(settings.stores, takes_lock=False) as (warehouse, client), warehouse.translated_errors():
        owner = as_owner(client.config.credentials, settings.stores.postgres_owner)
        with connect(owner) as connection:
            for account_id in accounts:
                while count := _drop_some(connection, sections["delete some events"][0], account_id, window):
                    dropped += count
    print(json.dumps({"dropped": dropped}) if as_json else f"{dropped:,} events taken out of {TABLE}")
    return 0


def _drop_some(connection: Connection, statement: str, account_id: str, window: Window) -> int:
    with transaction_on(connection) as cursor:
        cursor.execute(statement, (account_id, window.since, window.before))
        (count,) = cursor.fetch_arrow_table()["events"].to_pylist()
        return int(count)


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
    except TemporaryError:
        raise
    except AuditLogsError as error:
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
        parameters = [paths, next(iter(objects)).account_id, window.since, window.before]
        if write is None:
            ((brought.events,),) = database.execute(f"SELECT count(*) {_WINDOW}", parameters).fetchall()
            return brought
        for events in _batches(database, parameters):
            write(events)
            brought.events += events.num_rows
    return brought


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


def _write(warehouse: Warehouse, connection: Connection, events: pa.Table) -> None:
    with warehouse.translated_errors():
        for reason in load_events(connection, warehouse.dataset_name, events, table=TABLE):
            log.warning("warehouse.quarantined", reason=reason)


@contextmanager
def _duckdb() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"memory_limit": DUCKDB_MEMORY, "threads": 1}) as database:
        database.execute("SET TimeZone = 'UTC'")
        yield database


def _tell(total: Brought, *, is_dry_run: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**asdict(total), "dry_run": is_dry_run}))
        return
    what = "would be read" if is_dry_run else f"were read into {TABLE}"
    broken = f"; {len(total.broken):,} objects are broken, see the log" if total.broken else ""
    print(f"{total.events:,} events of {total.objects:,} objects ({total.bytes:,} bytes) {what}{broken}")


if __name__ == "__main__":
    sys.exit(main())
