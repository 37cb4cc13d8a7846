"""`python -m benchmarks.cluster [--events 2000000] [--repeats 3] [--write]`: two Dask workers against one on rehydrate.

Makes a folder lake of ten accounts with objects of 1,000 events, and brings it into a PostgreSQL on this host with one
worker and with two, in turn, each a process with one thread. Prints the ratio of the wall times, each part's CPU, and
the limit that was met. --write puts the table into docs/scale/dask.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import psycopg2
from tqdm import tqdm

from benchmarks.servers.dask import dask_cluster
from pipelines.lake.object_format import encode
from pipelines.lake.partitions import Partition
from pipelines.settings.settings import PROJECT_ROOT, PostgresSettings
from pipelines.warehouse.embedded import embedded_postgres

from .documents import Row, as_markdown, put_into
from .lake import ACCOUNTS, EVENTS_AN_OBJECT, SERVER_OPTIONS, SINCE, TABLE, Texts
from .processes import cpu_of, cpu_of_server
from .servers.postgres import settings_of

DOCUMENT = PROJECT_ROOT / "docs" / "scale" / "dask.md"
SPENT = 0.9
"""Share of the cores. A run that used more of them was limited by CPU."""


class Run(NamedTuple):
    """Seconds of one rehydration: wall time, and CPU of each part."""

    wall: float
    postgres: float
    workers: float
    client: float


class Bench:
    """A PostgreSQL and a lake."""

    def __init__(self, server: PostgresSettings, folder: Path, events: int) -> None:
        self._dsn = f"postgresql://{server.user}:{server.password}@{server.host}:{server.port}/{server.database}"
        self._postmaster = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
        self._folder, self._events, self._runs = folder, events, 0
        hours = -(-events // EVENTS_AN_OBJECT // len(ACCOUNTS))
        self._window = ["--since", SINCE.isoformat(), "--before", (SINCE + timedelta(hours=hours)).isoformat()]
        self._environment = {
            **os.environ,
            "CLOUDFLARE_ACCOUNT_ID": ",".join(ACCOUNTS),
            "DATA_DIR": str(folder),
            **settings_of(server),
        }

    def make_lake(self) -> None:
        """Writes the lake's objects."""
        texts = Texts.make(EVENTS_AN_OBJECT)
        for number in tqdm(range(self._events // EVENTS_AN_OBJECT), desc="objects"):
            partition = Partition(ACCOUNTS[number % len(ACCOUNTS)], SINCE + timedelta(hours=number // len(ACCOUNTS)))
            path = self._folder / "lake" / "cloudflare" / partition.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(texts.of_hour(partition.account_id, partition.hour)))

    def run(self, workers: int) -> Run:
        """Brings the whole lake into an empty table, with workers that are warm."""
        self._runs += 1
        with dask_cluster(self._folder / f"cluster{self._runs}", *[self._environment] * workers) as cluster:
            self._rehydrate(cluster.url, "--dry-run")
            self._empty()
            pids = [worker.pid for worker in cluster.workers]
            before, cpu_before = (cpu_of_server(self._postmaster), sum(map(cpu_of, pids))), os.times()
            begun = time.perf_counter()
            self._rehydrate(cluster.url)
            wall = time.perf_counter() - begun
            postgres, crew = cpu_of_server(self._postmaster) - before[0], sum(map(cpu_of, pids)) - before[1]
            after = os.times()
        client = after.children_user + after.children_system - cpu_before.children_user - cpu_before.children_system
        return Run(wall, postgres, crew, client)

    def _rehydrate(self, url: str, *options: str) -> None:
        command = [sys.executable, "pipelines/rehydrate.py", *self._window, "--scheduler", url, "--json", *options]
        done = subprocess.run(  # noqa: S603  # the project's command
            command, cwd=PROJECT_ROOT, env=self._environment, stdout=subprocess.PIPE, check=True
        )
        if (events := json.loads(done.stdout)["events"]) != self._events // EVENTS_AN_OBJECT * EVENTS_AN_OBJECT:
            msg = f"{events:,} events came back"
            raise RuntimeError(msg)

    def _empty(self) -> None:
        with closing(psycopg2.connect(self._dsn)) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute(f"TRUNCATE {TABLE}")
            cursor.execute("CHECKPOINT")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--events", type=int, default=50_000, help="whole thousands")
    parser.add_argument("--repeats", type=int, default=3, help="of one worker and two, in turn")
    parser.add_argument("--write", action="store_true", help="put the table into docs/scale/dask.md")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="audit-benchmark-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with embedded_postgres(folder / "postgres", *SERVER_OPTIONS) as server:
            bench = Bench(server, folder, options.events)
            bench.make_lake()
            pairs = [(bench.run(1), bench.run(2)) for _ in range(options.repeats)]
    ratio = statistics.median(two.wall / one.wall for one, two in pairs)
    text = as_markdown([_row(workers, [pair[workers - 1] for pair in pairs], options.events) for workers in (1, 2)])
    where = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    text += f"\n{options.events:,} events; two workers take {ratio:.2f} of the wall of one. Measured {where}.\n"
    print(f"\n{text}")
    if options.write:
        put_into(DOCUMENT, "two workers", text)


def _row(workers: int, runs: Sequence[Run], events: int) -> Row:
    run = sorted(runs)[len(runs) // 2]
    return {
        "workers": str(workers),
        "wall (s)": f"{run.wall:.1f}",
        "events/s": f"{events / run.wall:,.0f}",
        "cores: PostgreSQL": f"{run.postgres / run.wall:.2f}",
        "workers'": f"{run.workers / run.wall:.2f}",
        "client": f"{run.client / run.wall:.2f}",
        "limit": _limit(run, workers),
    }


def _limit(run: Run, workers: int) -> str:
    """Names the limit: the host's cores, or each worker's one thread, which works or waits for PostgreSQL."""
    cores, busy = os.cpu_count() or 1, (run.postgres + run.workers + run.client) / run.wall
    most = "PostgreSQL" if run.postgres > run.workers else "the workers"
    if busy >= SPENT * cores:
        return f"the {cores} cores of this host, most of them used by {most}"
    if (run.postgres + run.workers) / run.wall >= SPENT * workers:
        return f"the workers' threads, which mostly {'wait for PostgreSQL' if most == 'PostgreSQL' else 'compute'}"
    return f"neither: {cores - busy:.1f} cores were idle (disk, start, or other work on this host)"


if __name__ == "__main__":
    main()
