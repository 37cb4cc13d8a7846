"""`python -m benchmarks.history [--rows 100000,10000000] [--write]`: what a plain warehouse's history costs a question.

Fills tables of 90 days in an embedded PostgreSQL, has the events of the larger counted as an upgrade does, and asks how
busy 30 days were and who is new this week: by the counts, and without them. Then loads batches with the counts and
without, in turn. Prints tables; --write puts them into docs/warehouse.md.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tqdm import tqdm

from pipelines.settings.settings import PostgresSettings
from pipelines.warehouse.connection import rows_of, transaction
from pipelines.warehouse.embedded import embedded_postgres
from pipelines.warehouse.statements import sections_of

from .documents import Row, as_markdown, put_into
from .processes import cpu_of_server
from .warehouse import SERVER_OPTIONS, batches, questions
from .warehouse_table import DOCUMENT, Table

REPEATS = 5
BUSY = "How busy was each account in 30 days, hour by hour?"
_BUSY = """
    SELECT hour, account_id, sum(events) AS events, sum(events) FILTER (WHERE action_result = 'failure') AS failures
    FROM audit_activity_hourly WHERE hour >= now() - INTERVAL '30 days' GROUP BY 1, 2 ORDER BY 1 DESC, 2
"""
_INDEXES = "timestamp", "actor", "resource", "failure", "month_event_id"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("--rows", default="10000,100000", help="of the tables; the first is compared with")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/warehouse.md")
    options = parser.parse_args(arguments)
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="audit-benchmark-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with embedded_postgres(folder / "postgres", *SERVER_OPTIONS) as server:
            tables = [filled(server, int(rows), now) for rows in options.rows.split(",")]
            postmaster = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
            measured = {"history": asked(tables), "counted loads": loaded(server, postmaster, now)}
            for title, rows in measured.items():
                text = as_markdown(list(rows))
                print(f"\n{title}\n{text}", flush=True)
                where = f"{now:%Y-%m-%d}, PostgreSQL 18, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
                if options.write:
                    put_into(DOCUMENT, title, f"{text}\nMeasured {where} at the end.\n")


def filled(server: PostgresSettings, rows: int, now: datetime) -> Table:
    """Returns a table of so many events, made as one of an older release is: first filled, then counted."""
    table = Table(server, "plain", rows, f"history_{rows}")
    table.prepare()
    table.execute("DROP FUNCTION {schema}.audit_count_events(), {schema}.audit_forget_counts() CASCADE")
    indexes = (f"{{schema}}.audit_logs_{name}" for name in _INDEXES)
    table.execute(f"DROP INDEX {', '.join(indexes)}", "SELECT setseed(0.5)")
    text = Path(__file__).with_suffix(".sql").read_text()
    for name, value in {"schema": table.schema, "events": rows, "before": now.isoformat()}.items():
        text = text.replace(f"{{{name}}}", str(value))
    table.execute(text, "VACUUM (ANALYZE) {schema}.audit_logs")
    _settle(table)
    return table


def _settle(table: Table) -> None:
    """Makes what is missing; the events are counted last, and what that takes is printed."""
    for name in _INDEXES:
        section = sections_of("after_load.sql", schema=table.schema)[f"index {name}"]
        table.execute(*[sql for sql in section if "rehydrated" not in sql])
    begun = time.perf_counter()
    table.settle()
    tqdm.write(f"{table}: counted in {time.perf_counter() - begun:.1f} s")
    table.execute("VACUUM (ANALYZE) {schema}.audit_hourly_counts")


def asked(tables: Sequence[Table]) -> Iterator[Row]:
    """Yields median milliseconds of the questions, by the counts and without them; asks the tables in turn."""
    never_seen = next((title, sql) for title, sql in questions() if "never seen" in title)
    for title, sql in ((BUSY, _BUSY), never_seen):
        times = {table: [_milliseconds(table, sql) for _ in range(REPEATS)] for table in tables}
        medians = {table: statistics.median(its[1:]) for table, its in times.items()}
        for table in tables:
            without = statistics.median(_milliseconds(table, _counting_when_asked(table, sql)) for _ in range(2))
            yield {
                "question": title,
                "events": f"{table.rows:,}",
                "by the counts (ms)": f"{medians[table]:.0f}",
                f"against {tables[0].rows:,}": f"{medians[table] / medians[tables[0]]:.1f}",
                "counted when asked (ms)": f"{without:.0f}",
            }


def _counting_when_asked(table: Table, sql: str) -> str:
    """Returns the question with the views as they are without counts."""
    for view in ("audit_activity_hourly", "audit_seen_hourly"):
        made = sections_of("after_load.sql", schema=table.schema)[f"view {view}"][0]
        sql = sql.replace(f"FROM {view}", f"FROM ({made.partition(' AS')[2]}) AS counted")
    return sql


def _milliseconds(table: Table, sql: str) -> float:
    begun = time.perf_counter()
    with transaction(table.credentials) as cursor:
        cursor.execute(f"SET search_path = {table.schema}")
        rows_of(cursor, sql)
    return (time.perf_counter() - begun) * 1000


def loaded(server: PostgresSettings, postmaster: int, now: datetime) -> Iterator[Row]:
    """Yields PostgreSQL's CPU for loads of new events, with the counts and without; loads the tables in turn."""
    counted, plain = (Table(server, "plain", 0, f"history_{name}") for name in ("counted", "not_counted"))
    for table in (counted, plain):
        table.prepare()
    plain.execute("DROP FUNCTION {schema}.audit_count_events(), {schema}.audit_forget_counts() CASCADE")
    for size, number in ((50_000, 4), (10_000, 6), (1_000, 10), (10, 20)):
        spent = {counted: [0.0, 0.0], plain: [0.0, 0.0]}
        before = now - timedelta(hours=size // 1_000)
        for turn, batch in enumerate(tqdm(batches(size, size, number, before, seed=size), desc="load", leave=False)):
            for table in (counted, plain)[:: 1 if turn % 2 else -1]:
                server_before, own_before = cpu_of_server(postmaster), time.process_time()
                table.load(batch)
                spent[table][0] += cpu_of_server(postmaster) - server_before
                spent[table][1] += time.process_time() - own_before
        yield {
            "new events": f"{size:,}",
            "PostgreSQL, with counts (ms)": f"{spent[counted][0] / number * 1000:.0f}",
            "without (ms)": f"{spent[plain][0] / number * 1000:.0f}",
            "ratio": f"{spent[counted][0] / spent[plain][0]:.2f}",
        }


if __name__ == "__main__":
    main()
