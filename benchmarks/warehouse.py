"""`python -m benchmarks.warehouse [--rows 1000000,5000000,10000000] [--write]`: what the warehouse costs as it grows.

Fills tables in a plain PostgreSQL (the embedded one, or that of --dsn). If TEST_TIMESCALE_DSN names a server with
TimescaleDB, also fills a hypertable and a compressed one. Events are spread evenly: 10 million are 90 days. A table of
the first size and the growing table are measured in turn, so their ratio is of one run. Prints tables; --write puts
them into docs/warehouse.md.
"""

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
from tqdm import tqdm

from pipelines.settings.settings import PostgresSettings
from pipelines.warehouse.connection import rows_of, transaction, value_of
from pipelines.warehouse.embedded import embedded_postgres
from simulator.world import Plan, build_world
from sources.cloudflare_audit_logs import Stream
from sources.cloudflare_audit_logs.events import decode_page

from .documents import Row, as_markdown, put_into
from .polls import Poller
from .warehouse_table import DOCUMENT, Table, index_statements

ACCOUNT = "b5e2fd7a9c1f4b6e8d0a3c5e7f9b1d3a"
REPEATS = 7
_COMPRESSED = """
    SELECT after_compression_total_bytes::float8 / before_compression_total_bytes
    FROM hypertable_columnstore_stats('{schema}.audit_logs')
"""
SERVER_OPTIONS = ("shared_buffers=2GB", "max_wal_size=8GB", "maintenance_work_mem=1GB")


def batches(size: int, step: int, count: int, before: datetime, seed: int) -> list[pa.Table]:
    """Returns batches of events of the hour before a time. Each begins `step` events after the previous one."""
    plan = Plan((ACCOUNT,), ("v1",), step * count + size, before - timedelta(hours=1), before, seed=seed)
    slices = build_world(plan).raw(ACCOUNT, "v1")
    events = decode_page(slices, Stream(ACCOUNT, "v1"), datetime.now(UTC)).events
    return [events.slice(number * step, size) for number in range(count)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    options = _parse_arguments(arguments)
    sizes = [int(size) for size in options.rows.split(",")]
    now = datetime.now(UTC)
    tables: dict[str, list[Row]] = {name: [] for name in ("merge", "poll", "queries", "indexes", "size")}
    with _servers(options.dsn) as servers:
        for kind, server in servers.items():
            _measure(server, kind, sizes, now, tables)
            for title, rows in tables.items():  # the whole run takes long: shows the results so far
                print(f"\n{title}\n{as_markdown(rows)}", file=sys.stderr)
        tables["indexes"] += _index_costs(servers["plain"], sizes[0], now)
        versions = ", ".join(sorted({_version(Table(server, kind, 0, "public")) for kind, server in servers.items()}))
    where = f"{now:%Y-%m-%d}, {versions}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    for title, rows in tables.items():
        text = as_markdown(rows)
        print(f"\n{title}\n{text}")
        if options.write and rows:
            put_into(DOCUMENT, title, f"{text}\nMeasured {where}.\n")


def _measure(
    server: PostgresSettings, kind: str, sizes: Sequence[int], now: datetime, tables: dict[str, list[Row]]
) -> None:
    empty, small, growing = (Table(server, kind, 0, f"bench_{name}") for name in ("empty", "small", "growing"))
    for table in (empty, small, growing):
        table.prepare()
    small = small.grown(sizes[0], now)
    for size in sizes[1:]:
        growing = growing.grown(size, now)
        tables["merge"] += _merges([empty, small, growing], now, seed=size)
    tables["poll"] += _polls([small, growing], now)
    tables["queries"] += _queries(growing)
    if kind == "plain":
        tables["size"].append({"table": str(growing), "bytes an event": f"{_bytes(growing) / growing.rows:.0f}"})
        return
    tables["size"].append(_conversion(server, sizes[0], now))
    before = _bytes(growing)
    begun = time.monotonic()
    small, growing = small.compressed(), growing.compressed()
    rate = (small.rows + growing.rows) / (time.monotonic() - begun)
    after = _bytes(growing)
    tables["size"] += [
        {"table": f"{growing.rows:,} hypertable", "bytes an event": f"{before / growing.rows:.0f}"},
        {
            "table": str(growing),
            "bytes an event": f"{after / growing.rows:.0f}",
            "against not compressed": f"{after / before:.2f}",
            "its compressed chunks alone": f"{growing.value(_COMPRESSED):.2f}",
            "events a second": f"{rate:,.0f}",
        },
    ]
    tables["merge"] += _merges([replace(empty, kind="compressed"), small, growing], now, seed=1)
    tables["poll"] += _polls([small, growing], now + timedelta(days=1))
    tables["queries"] += _queries(growing)


def _conversion(server: PostgresSettings, rows: int, now: datetime) -> Row:
    """Measures what `pipelines/convert.py` does: turns a plain table into a hypertable, with indexes and the rest."""
    table = Table(server, "plain", 0, "bench_convert")
    table.prepare()
    table = table.grown(rows, now)
    begun = time.monotonic()
    replace(table, kind="hypertable").settle()
    return {"table": f"{table}, made a hypertable", "events a second": f"{rows / (time.monotonic() - begun):,.0f}"}


def _merges(tables: Sequence[Table], now: datetime, seed: int) -> Iterator[Row]:
    """Yields median milliseconds of `load_events` with half of the events known; takes the tables in turn."""
    shapes = {
        "1,000": batches(1_000, 500, REPEATS + 1, now, seed),
        "10,000": batches(10_000, 5_000, REPEATS + 1, now - timedelta(hours=1), seed),
        "1,000 late": batches(1_000, 500, REPEATS + 1, now - timedelta(days=8, hours=6), seed),
    }
    times: dict[tuple[Table, str], list[float]] = {}
    for name, some in shapes.items():
        for number, batch in enumerate(tqdm(some, desc=f"merge {name}", leave=False)):
            for table in tables:
                spent = table.load(batch)
                if number:  # after the first batch, half of the second is known
                    times.setdefault((table, name), []).append(spent * 1000)
    first = tables[1]
    for table in tables:
        medians = {name: statistics.median(times[table, name]) for name in shapes}
        ratio = statistics.median(a / b for a, b in zip(times[table, "1,000"], times[first, "1,000"], strict=True))
        shown = {f"{name} (ms)": f"{median:.0f}" for name, median in medians.items()}
        yield {"table": str(table), **shown, f"1,000 against {first.rows:,} rows": f"{ratio:.2f}"}


def _polls(tables: Sequence[Table], now: datetime) -> Iterator[Row]:
    """Yields median milliseconds of a poll of the main job that finds 500 new events; takes the tables in turn."""
    times: dict[Table, list[float]] = {table: [] for table in tables}
    with tempfile.TemporaryDirectory() as folder:
        pollers = {table: Poller(table.server, table.schema, Path(folder) / table.schema, now) for table in tables}
        for number in tqdm(range(REPEATS + 1), desc="poll", leave=False):
            for table, poller in pollers.items():
                spent = poller.poll(events=500)
                if number:
                    times[table].append(spent * 1000)
    first = tables[0]
    for table in tables:
        ratio = statistics.median(a / b for a, b in zip(times[table], times[first], strict=True))
        yield {
            "table": str(table),
            "poll (ms)": f"{statistics.median(times[table]):.0f}",
            f"against {first.rows:,} rows": f"{ratio:.2f}",
        }


def _queries(table: Table) -> Iterator[Row]:
    """Yields median milliseconds of the questions in the docs, each asked three times after a first time."""
    for title, sql in questions():
        times = []
        for _ in range(4):
            begun = time.perf_counter()
            with transaction(table.credentials) as cursor:
                cursor.execute(f"SET search_path = {table.schema}")
                rows_of(cursor, sql)
            times.append((time.perf_counter() - begun) * 1000)
        yield {"question": title, "table": str(table), "ms": f"{statistics.median(times[1:]):.0f}"}


def questions() -> Iterator[tuple[str, str]]:
    """Yields title and SQL of the docs' example questions."""
    found = re.findall(r"^\*\*([^*]+)\*\*\n\n```sql\n(.+?)```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    for title, sql in found:
        yield title, sql.strip().rstrip(";")


def _index_costs(server: PostgresSettings, rows: int, now: datetime) -> Iterator[Row]:
    """Yields what each index adds to an insert of 1,000 events: time, WAL (undisturbed by other jobs), and its size."""
    table = Table(server, "plain", 0, "bench_indexes")
    table.prepare()
    table = table.grown(rows, now)
    statements = index_statements(table.schema)
    for name in statements:
        table.execute(f"DROP INDEX IF EXISTS {{schema}}.{name}")
    coming = iter(batches(1_000, 1_000, 3 * (len(statements) + 1), now, seed=99))
    yield {"index": "the key alone", **_cost(table, coming)}
    for name, statement in statements.items():
        table.execute(statement)
        size = table.value(f"SELECT pg_relation_size('{{schema}}.{name}')") / rows
        yield {"index": name, **_cost(table, coming), "bytes an event": f"{size:.0f}"}
        table.execute(f"DROP INDEX {{schema}}.{name}")


def _cost(table: Table, coming: Iterator[pa.Table]) -> Row:
    lsn = "SELECT pg_current_wal_insert_lsn() - '0/0'"
    table.execute("CHECKPOINT")
    before = table.value(lsn)
    times = [table.load(next(coming)) for _ in range(3)]
    written = (table.value(lsn) - before) / 3_000
    return {"1,000 new (ms)": f"{statistics.median(times) * 1000:.0f}", "WAL bytes an event": f"{written:.0f}"}


def _bytes(table: Table) -> float:
    if table.kind == "plain":
        return table.value("SELECT pg_total_relation_size('{schema}.audit_logs')")
    return table.value("SELECT hypertable_size('{schema}.audit_logs')")


def _version(table: Table) -> str:
    with transaction(table.credentials) as cursor:
        server = value_of(cursor, "SELECT current_setting('server_version')")
        found = rows_of(cursor, "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
    return f"PostgreSQL {server}" + "".join(f" with TimescaleDB {row['extversion']}" for row in found)


@contextmanager
def _servers(dsn: str | None) -> Iterator[dict[str, PostgresSettings]]:
    """Yields the server of each kind of table."""
    timescale = os.environ.get("TEST_TIMESCALE_DSN")
    servers = {"hypertable": _server_of(timescale)} if timescale else {}
    if not timescale:
        print("TEST_TIMESCALE_DSN is not set: plain tables only", file=sys.stderr)
    if dsn:
        yield {"plain": _server_of(dsn), **servers}
        return
    with tempfile.TemporaryDirectory(prefix="audit-benchmark-") as folder:
        Path(folder).chmod(0o755)
        with embedded_postgres(Path(folder) / "postgres", *SERVER_OPTIONS) as server:
            yield {"plain": server, **servers}


def _server_of(dsn: str) -> PostgresSettings:
    url = urlsplit(dsn)
    database = url.path.lstrip("/") or "postgres"
    return PostgresSettings(url.hostname or "", url.port or 5432, database, url.username or "", url.password or "none")


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warehouse", description=__doc__)
    parser.add_argument("--rows", default="100000,500000", help="sizes, comma separated; the first is compared with")
    parser.add_argument(
        "--dsn", help="a plain PostgreSQL, instead of the embedded one; its schemas bench_… are replaced"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/warehouse.md")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
