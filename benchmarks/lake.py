"""`python -m benchmarks.lake [--objects 2000] [--write]`: the cost of bringing events back and comparing.

Makes objects of 1,000 events for ten accounts, in a folder and on an S3 server (`weed mini`), and a day of 100,000
events in 24 objects. Measures rehydrate against a bare COPY of the same rows into the same table with the same keys,
the peak memory of rehydrate, the comparison of the day, and a question about one day. Prints tables; --write puts them
into docs/lake.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
from tqdm import tqdm

from benchmarks.servers.seaweed import Bucket as S3Bucket
from benchmarks.servers.seaweed import seaweed
from pipelines.lake.ask.database import lake_database
from pipelines.lake.ask.files import LakeFiles
from pipelines.lake.ask.places import open_place
from pipelines.lake.bucket import Bucket
from pipelines.lake.object_format import encode
from pipelines.lake.partitions import Partition
from pipelines.proof.both_stores import Copies, open_copies
from pipelines.proof.compare import Completeness
from pipelines.settings.settings import PROJECT_ROOT, PostgresSettings, read_environment, read_store_settings
from pipelines.warehouse.connection import connect
from pipelines.warehouse.embedded import embedded_postgres
from pipelines.warehouse.write import load_events
from simulator.world import Plan, build_world
from sources.cloudflare_audit_logs.events import decode_page
from sources.cloudflare_audit_logs.streams import Stream, Window

from .documents import Row, as_markdown, put_into
from .servers.postgres import settings_of

DOCUMENT = PROJECT_ROOT / "docs" / "lake.md"
EVENTS_AN_OBJECT = 1_000
ACCOUNTS = [f"{number:032x}" for number in range(10)]
BUSY = "b" * 32
"""The account of the day that is compared."""
SINCE = datetime(2026, 11, 1, tzinfo=UTC)
DAY = Window(SINCE, SINCE + timedelta(days=1))
SERVER_OPTIONS = ("shared_buffers=2GB", "max_wal_size=8GB")
TABLE = "public.audit_logs_rehydrated"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lake", description=__doc__)
    parser.add_argument("--objects", type=int, default=200, help="of 1,000 events each")
    parser.add_argument("--busy-events", type=int, default=100_000, help="of the day that is compared")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/lake.md")
    options = parser.parse_args(arguments)
    tables: dict[str, list[Row]] = {name: [] for name in ("rehydrate", "reconcile", "one day")}
    with tempfile.TemporaryDirectory(prefix="audit-benchmark-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with embedded_postgres(folder / "postgres", *SERVER_OPTIONS) as server, seaweed(folder) as bucket:
            objects = _objects(options.objects, options.busy_events)
            _write(tqdm(objects, total=options.objects + 24, desc="objects"), folder / "lake" / "cloudflare", bucket)
            for kind, settings in {"folder": {}, "S3": bucket.settings("")}.items():
                _configure(server, folder, {name: value for name, value in settings.items() if value})
                hours = -(-options.objects // len(ACCOUNTS))
                _measure(kind, Window(SINCE, SINCE + timedelta(hours=hours)), options.busy_events, tables)
    where = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    for title, rows in tables.items():
        text = as_markdown(rows)
        print(f"\n{title}\n{text}")
        if options.write:
            put_into(DOCUMENT, title, f"{text}\nMeasured {where}; {options.objects:,} objects.\n")


# --- the lake --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """Events of the simulator, each cut at its id, so that copies can have ids of their own."""

    events: pa.Table
    heads: pa.Array
    tails: pa.Array

    @classmethod
    def make(cls, count: int) -> "Texts":
        """Makes so many events."""
        plan = Plan((ACCOUNTS[0],), ("v1",), count, SINCE, SINCE + timedelta(hours=1), seed=1)
        events = decode_page(build_world(plan).raw(ACCOUNTS[0], "v1"), Stream(ACCOUNTS[0], "v1"), SINCE).events
        cut = [
            raw.partition(key)
            for raw, key in zip(*(events[n].to_pylist() for n in ("raw_event", "event_id")), strict=True)
        ]
        return cls(events, pa.array([head for head, _, _ in cut]), pa.array([tail for _, _, tail in cut]))

    def of_hour(self, account_id: str, hour: datetime) -> pa.Table:
        """Returns as many events for an account and hour."""
        count = self.events.num_rows
        ids = pa.array([str(uuid.uuid4()) for _ in range(count)])
        step = timedelta(hours=1) / count
        times = pa.array([hour + number * step for number in range(count)], pa.timestamp("us", tz="UTC"))
        columns = {
            "event_id": ids,
            "timestamp": times,
            "account_id": pa.array([account_id] * count),
            "raw_event": pc.binary_join_element_wise(self.heads, ids, self.tails, ""),
        }
        names = self.events.column_names
        return pa.table([columns.get(name, self.events[name]) for name in names], schema=self.events.schema)


def _objects(count: int, busy_events: int) -> Iterator[tuple[str, bytes]]:
    texts, busy = Texts.make(EVENTS_AN_OBJECT), Texts.make(busy_events // 24)
    for number in range(count):
        partition = Partition(ACCOUNTS[number % len(ACCOUNTS)], SINCE + timedelta(hours=number // len(ACCOUNTS)))
        yield partition.path, encode(texts.of_hour(partition.account_id, partition.hour))
    for number in range(24):
        partition = Partition(BUSY, SINCE + timedelta(hours=number))
        yield partition.path, encode(busy.of_hour(BUSY, partition.hour))


def _write(objects: Any, root: Path, bucket: S3Bucket) -> None:
    """Writes the same bytes into both lakes."""

    def write(item: tuple[str, bytes]) -> None:
        path, body = item
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(body)
        bucket.client.put_object(Bucket=bucket.name, Key=f"cloudflare/{path}", Body=body)

    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(write, objects):
            pass


def _configure(server: PostgresSettings, folder: Path, lake: Mapping[str, str]) -> None:
    for name in [name for name in os.environ if name.startswith("S3_")]:
        del os.environ[name]
    os.environ.update(
        {
            "CLOUDFLARE_ACCOUNT_ID": ",".join(ACCOUNTS),
            "DATA_DIR": str(folder),
            **settings_of(server),
            **lake,
        }
    )
    Container()[PluggableRunContext].reload(str(PROJECT_ROOT))


# --- the measurements ------------------------------------------------------------------------------------------------


def _measure(kind: str, window: Window, busy_events: int, tables: dict[str, list[Row]]) -> None:
    with open_copies(read_store_settings(read_environment())) as copies:
        tables["one day"].append(_one_day(kind))
        tables["reconcile"].append(_reconcile(kind, copies, busy_events))
        tables["rehydrate"] += _rehydrate(kind, copies, window)


def _rehydrate(kind: str, copies: Copies, window: Window) -> Iterator[Row]:
    """Measures the command, and a bare COPY of the same rows, read in advance, into the same table."""
    command = ["pipelines/rehydrate.py", "--since", window.since.isoformat(), "--before", window.before.isoformat()]
    report, seconds, memory = _run(*command, "--json")
    events = report["events"]
    connection = psycopg2.connect(copies.owner.to_native_representation())
    connection.autocommit = True
    with closing(connection), connection.cursor() as cursor, tempfile.NamedTemporaryFile(suffix=".csv") as rows:
        cursor.execute("SELECT count(*) FROM audit_logs_rehydrated")
        if cursor.fetchone() != (events,):
            raise RuntimeError("not every event came back")
        cursor.copy_expert(f"COPY {TABLE} TO STDOUT (FORMAT csv)", rows)
        cursor.execute(f"TRUNCATE {TABLE}")
        rows.seek(0)
        begun = time.perf_counter()
        cursor.copy_expert(f"COPY {TABLE} FROM STDIN (FORMAT csv)", rows)
        copied = time.perf_counter() - begun
        cursor.execute(f"TRUNCATE {TABLE}")
    yield {
        "lake": kind,
        "events": f"{events:,}",
        "rehydrate (events/s)": f"{events / seconds:,.0f}",
        "bare COPY (events/s)": f"{events / copied:,.0f}",
        "ratio": f"{copied / seconds:.2f}",
        "peak memory (MB)": f"{memory:.0f}",
    }


def _reconcile(kind: str, copies: Copies, busy_events: int) -> Row:
    """Measures a clean day without the API, in this process and as a command, and the bytes read from the lake."""
    stream = Stream(BUSY, "v1")
    hours = [Window(SINCE + timedelta(hours=n), SINCE + timedelta(hours=n + 1)) for n in range(24)]
    with connect(copies.owner, autocommit=True) as connection:
        for hour in hours:
            load_events(connection, copies.schema, copies.lake.events(stream, hour))
    completeness = Completeness(copies.warehouse, copies.lake, clock=lambda: datetime.now(UTC))
    times = []
    with _bytes_read(copies) as read:
        for _ in range(3):
            begun = time.perf_counter()
            checks = completeness.check(stream, DAY, None)
            times.append(time.perf_counter() - begun)
            if any(check.is_gap for check in checks):
                raise RuntimeError("the day is not clean")
        bytes_read = read() / 3
    options = ["--since", DAY.since.isoformat(), "--before", DAY.before.isoformat(), "--account", BUSY, "--without-api"]
    os.environ["CLOUDFLARE_ACCOUNT_ID"] = BUSY
    _, whole, _ = _run("pipelines/reconcile.py", *options, "--json")
    os.environ["CLOUDFLARE_ACCOUNT_ID"] = ",".join(ACCOUNTS)
    ids = sum(len(key) for hour in hours[:1] for key in copies.lake.keys(stream, hour)[0]["event_id"].to_pylist())
    ids_an_event = ids / (busy_events // 24)
    return {
        "lake": kind,
        "events": f"{busy_events // 24 * 24:,}",
        "compared in (s)": f"{statistics.median(times):.2f}",
        "whole command (s)": f"{whole:.2f}",
        "read of the lake, bytes an event": f"{bytes_read / busy_events:.0f}",
        "of which ids": f"{ids_an_event:.0f}",
    }


def _one_day(kind: str) -> Row:
    """Measures a question about one day of one account, in a new DuckDB each time."""
    times = []
    for account_id in ACCOUNTS[:3]:
        with lake_database(LakeFiles(open_place())) as database:
            begun = time.perf_counter()
            question = f"SELECT action_type, count(*) FROM audit_logs('{account_id}', '{SINCE:%Y-%m-%d}') GROUP BY 1"  # noqa: S608
            database.execute(question).fetchall()
            times.append(time.perf_counter() - begun)
    return {"lake": kind, "one day of one account (s)": f"{statistics.median(times):.2f}"}


def _run(*command: str) -> tuple[dict[str, Any], float, float]:
    """Returns what a command reports, its seconds, and its peak memory in MB."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True)
    out = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begun
    if process.returncode:
        msg = f"{command} ended with {process.returncode}"
        raise RuntimeError(msg)
    return json.loads(out), seconds, usage.ru_maxrss / 1024


@contextmanager
def _bytes_read(copies: Copies) -> Iterator[Callable[[], int]]:
    """Counts bytes read from the lake: of a bucket the bodies, of a folder the kernel's count."""
    objects = copies.lake.objects
    if not isinstance(objects, Bucket):
        before = _io_read()
        yield lambda: _io_read() - before
        return
    counted, s3 = [0], objects._s3  # noqa: SLF001  # no other place sees the bytes
    get_part = s3.get_part

    def counting(*arguments: Any, **named: Any) -> Any:
        got = get_part(*arguments, **named)
        counted[0] += len(got.body)
        return got

    s3.get_part = counting
    yield lambda: counted[0]
    s3.get_part = get_part


def _io_read() -> int:
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


if __name__ == "__main__":
    main()
