"""`python -m benchmarks.years [--days 548] [--write]`: the cost of questions about 18 months of one account.

Makes an object of 100 events an hour, their day copies, and the same events in monthly files, in a folder and on an S3
server (`weed mini`). Asks how often and since when one address occurs: by `audit_logs()`, with and without the copies,
and by what one would build by hand (DuckDB on the monthly files; on S3 over pyarrow's file system); then again, with
nine more such accounts in the lake. Measures the start of `ask.py` against the imports of DuckDB and pyarrow, and a
comparison of a window with events in one day against that day alone. Prints a table; --write puts it into docs/lake.md.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import S3FileSystem

from benchmarks.servers.seaweed import S3_KEYS, Bucket, seaweed
from pipelines.lake.ask.bucket_place import BucketPlace
from pipelines.lake.ask.database import ask_lake
from pipelines.lake.ask.files import LakeFiles
from pipelines.lake.ask.places import Days, FolderPlace, Found, Place
from pipelines.lake.day_copies import write_copy
from pipelines.lake.object_format import encode
from pipelines.lake.objects import Folder
from pipelines.lake.partitions import DAYS_TABLE, Partition
from pipelines.load.store import client_of
from pipelines.settings.settings import PROJECT_ROOT

from .documents import Row, as_markdown, put_into
from .ingest import open_bench
from .lake import Texts

DOCUMENT = PROJECT_ROOT / "docs" / "lake.md"
ACCOUNT = "a" * 32
ADDRESS = "203.0.113.250"
SINCE = datetime(2025, 5, 1, tzinfo=UTC)
QUESTION = f"SELECT count(*), min(\"timestamp\") FROM {{}} WHERE ip_address = '{ADDRESS}'"  # noqa: S608  # ours
REPEATS = 5
COMPARED = 20_000
"""Events of the day that is compared."""

Measured = tuple[float, float]
"""CPU seconds of this process, and seconds."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.years", description=__doc__)
    parser.add_argument("--days", type=int, default=548)
    parser.add_argument("--write", action="store_true", help="put the table into docs/lake.md")
    options = parser.parse_args(arguments)
    compared = compare(options.days)  # first: the settings of the bucket stay in the environment
    with tempfile.TemporaryDirectory(prefix="audit-years-") as name, seaweed(Path(name)) as bucket:
        folder = Path(name)
        make_lakes(folder, bucket, options.days)
        rows = [*measure(folder / "lake" / "cloudflare", folder / "months", bucket), compared]
    where = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    text = as_markdown(rows)
    print(text)
    if options.write:
        put_into(DOCUMENT, "years", f"{text}\nMeasured {where}; {options.days * 24:,} objects of 100 events.\n")


def make_lakes(folder: Path, bucket: Bucket, days: int) -> None:
    """Makes the objects, the copies and the monthly files, in a folder and in the bucket."""
    root, months = folder / "lake" / "cloudflare", folder / "months"
    months.mkdir(parents=True)
    texts, of_month = Texts.make(100), dict[str, list[pa.Table]]()
    for number in range(days * 24):
        partition = Partition(ACCOUNT, SINCE + timedelta(hours=number))
        events = _with_address(texts.of_hour(ACCOUNT, partition.hour)) if number % 571 == 0 else None
        events = texts.of_hour(ACCOUNT, partition.hour) if events is None else events
        (root / partition.path).parent.mkdir(parents=True)
        (root / partition.path).write_bytes(encode(events))
        of_month.setdefault(f"{partition.hour:%Y-%m}", []).append(events)
    for month, tables in of_month.items():
        pq.write_table(pa.concat_tables(tables), months / f"{month}.parquet", compression="zstd")

    def put(file: Path) -> None:
        place = f"cloudflare/{file.relative_to(root)}" if file.is_relative_to(root) else f"months/{file.name}"
        bucket.client.put_object(Bucket=bucket.name, Key=place, Body=file.read_bytes())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, [*root.rglob("*.parquet"), *months.iterdir()]))
    os.environ.update({name: value for name, value in bucket.settings("").items() if value})
    from pipelines.lake.destination import Lake  # noqa: PLC0415  # dlt reads the environment once

    for objects in (Folder(folder / "lake", root), client_of(Lake()).objects):
        for number in range(days):
            write_copy(objects, ACCOUNT, (SINCE + timedelta(days=number)).date())


def _with_address(events: pa.Table) -> pa.Table:
    addresses = [ADDRESS, *events["ip_address"].to_pylist()[1:]]
    return events.set_column(events.column_names.index("ip_address"), events.field("ip_address"), pa.array(addresses))


class _WithoutCopies(BucketPlace):
    def find(self, table: str, days: Days) -> Iterator[Found]:
        return iter(()) if table == DAYS_TABLE else super().find(table, days)


def measure(root: Path, months: Path, bucket: Bucket) -> list[Row]:
    """Measures each question beside its yardstick, in turns; those among other accounts when these are added."""
    endpoint = bucket.endpoint
    access, secret = S3_KEYS.values()
    where: Any = {"endpoint": endpoint, "region": "us-east-1"}
    s3 = S3FileSystem(access_key=access, secret_key=secret, endpoint_override=endpoint, region="us-east-1")
    places: dict[str, Place] = {
        kind: cls("lake", "cloudflare", where, lambda: (access, secret, None))
        for kind, cls in {"S3": BucketPlace, "S3, no copies": _WithoutCopies}.items()
    }

    def dataset(path: str) -> Callable[[], Any]:
        return lambda: _by_hand(ds.dataset(path, filesystem=s3))

    hours = f"lake/cloudflare/audit_logs/account={ACCOUNT}"
    of_one = {"folder": _asked(FolderPlace(root), ACCOUNT), "S3": _asked(places["S3"], ACCOUNT)}
    rows = [
        _row("folder, by monthly files", lambda: _by_hand(f"'{months}/*.parquet'"), _asked(FolderPlace(root))),
        _row("S3, by monthly files", dataset("lake/months"), _asked(places["S3"])),
        _row("S3 without copies, by pyarrow", dataset(hours), _asked(places["S3, no copies"]), repeats=1),
        _start_row(),
    ]
    answers = {kind: asked() for kind, asked in of_one.items()}
    alone = {kind: [_timed(asked) for _ in range(REPEATS)] for kind, asked in of_one.items()}
    add_accounts(root, bucket)
    if {kind: asked() for kind, asked in of_one.items()} != answers:
        raise RuntimeError("the answers differ")
    among = {kind: [_timed(asked) for _ in range(REPEATS)] for kind, asked in of_one.items()}
    return rows + [_as_row(f"{kind}, one of 10 accounts, by it alone", alone[kind], among[kind]) for kind in of_one]


def add_accounts(root: Path, bucket: Bucket) -> None:
    """Adds nine more accounts with the same objects and copies: links in the folder, copies on the server."""
    names = [(file, file.relative_to(root).as_posix()) for file in root.rglob("*.parquet")]
    added = [(file, name, name.replace(ACCOUNT, other * 32)) for file, name in names for other in "123456789"]

    def add(file: Path, name: str, new: str) -> None:
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / new).hardlink_to(file)
        source = {"Bucket": bucket.name, "Key": f"cloudflare/{name}"}
        bucket.client.copy_object(Bucket=bucket.name, Key=f"cloudflare/{new}", CopySource=source)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda names: add(*names), added))


def compare(days: int) -> Row:
    """Measures `reconcile.py --without-api` on a window of which one day has events, beside that day; in turns."""
    with open_bench(COMPARED) as bench:
        environment = bench.environment(bench.fresh())
        bench.run("pipelines/run.py", "--once", environment=environment)
        before = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)

        def cost(since: datetime) -> Measured:
            window = ("--since", since.isoformat(), "--before", before.isoformat())
            done = bench.run("pipelines/reconcile.py", "--without-api", *window, environment=environment)
            return done.client, done.wall

        day, long = bench.since.replace(minute=0, second=0, microsecond=0), before - timedelta(days=days)
        pairs = [(cost(day), cost(long)) for _ in range(REPEATS)]
    what = "`reconcile.py --without-api`, events in one day, by that day alone"
    return _as_row(what, [pair[0] for pair in pairs], [pair[1] for pair in pairs])


def _by_hand(source: Any) -> Any:
    with duckdb.connect() as database:
        return database.execute(QUESTION.format(source if isinstance(source, str) else "source")).fetchall()


def _asked(place: Place, account_id: str = "*") -> Callable[[], Any]:
    def ask(database: duckdb.DuckDBPyConnection, _: LakeFiles) -> Any:
        return database.execute(QUESTION.format(f"audit_logs('{account_id}')")).fetchall()

    return lambda: ask_lake(place, ask)


def _row(what: str, yardstick: Callable[[], Any], asked: Callable[[], Any], repeats: int = REPEATS) -> Row:
    if yardstick() != asked():
        raise RuntimeError("the answers differ")
    pairs = [(_timed(yardstick), _timed(asked)) for _ in range(repeats)]
    return _as_row(what, [pair[0] for pair in pairs], [pair[1] for pair in pairs])


def _timed(work: Callable[[], Any], who: int = resource.RUSAGE_SELF) -> Measured:
    before, begun = resource.getrusage(who), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - begun, resource.getrusage(who)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, seconds


def _start_row() -> Row:
    def run(*command: str) -> Measured:
        work = [sys.executable, *command]
        return _timed(
            lambda: subprocess.run(work, check=True, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL),  # noqa: S603  # ours
            resource.RUSAGE_CHILDREN,
        )

    pairs = [(run("-c", "import duckdb, pyarrow"), run("pipelines/ask.py", "SELECT 1")) for _ in range(REPEATS)]
    return _as_row("start of `ask.py`, by its imports", [pair[0] for pair in pairs], [pair[1] for pair in pairs])


def _as_row(what: str, yardsticks: list[Measured], asked: list[Measured]) -> Row:
    medians = [[statistics.median(run[n] for run in runs) for n in (0, 1)] for runs in (yardsticks, asked)]
    (yard_cpu, yard_wall), (cpu, wall) = medians
    return {
        "question": what,
        "yardstick, CPU (s)": f"{yard_cpu:.2f}",
        "yardstick (s)": f"{yard_wall:.2f}",
        "asked, CPU (s)": f"{cpu:.2f}",
        "asked (s)": f"{wall:.2f}",
        "ratio, CPU": f"{cpu / yard_cpu:.1f}",
        "ratio": f"{wall / yard_wall:.1f}",
    }


if __name__ == "__main__":
    main()
