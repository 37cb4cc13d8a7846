"""`python -m benchmarks.ingest [--events N,…] [--repeats 3] [--write]`: the cost from the API to both stores.

Runs the main job and the yardstick (`plain_loop`) in turn, each as a process of its own, against the same prepared
API, the same PostgreSQL and a folder. Then measures idle and warm cycles, and how long an event takes to be queryable.
Prints ratios to the yardstick in the same run; --write puts them into docs/benchmarks.md.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psycopg2
from tqdm import tqdm

from benchmarks.servers.seaweed import seaweed
from pipelines.settings.settings import PROJECT_ROOT, PostgresSettings
from pipelines.warehouse.embedded import embedded_postgres

from .documents import Row, as_markdown, put_into
from .processes import cpu_of, cpu_of_server
from .servers.postgres import settings_of

DOCUMENT = PROJECT_ROOT / "docs" / "benchmarks.md"
ACCOUNT, IDLE_ACCOUNT = "a" * 32, "b" * 32
HOURS = 20.0
"""The events are spread over less than a day, so that no comparison is due meanwhile."""
REPEATED = 100_000
"""Larger sizes are run once, and not on S3."""


@dataclass(frozen=True)
class Cost:
    """The cost of one run, in seconds and MB."""

    wall: float
    client: float
    """CPU seconds of the process, its start included."""
    server: float
    """CPU seconds of PostgreSQL."""
    api: float
    memory_mb: float
    log: str


class Bench:
    """A PostgreSQL, an API, and a folder for each run."""

    def __init__(self, server: PostgresSettings, postmaster: int, url: str, api_pid: int, folder: Path) -> None:
        self.server, self.url, self.folder = server, url, folder
        self._postmaster, self._api_pid, self._runs = postmaster, api_pid, 0
        self.since = datetime.now(UTC) - timedelta(hours=HOURS + 1)

    @property
    def dsn(self) -> str:
        """The URL of the database."""
        server = self.server
        return f"postgresql://{server.user}:{server.password}@{server.host}:{server.port}/{server.database}"

    def query(self, sql: str) -> Any:
        """Returns the first value that a query yields, if any."""
        with closing(psycopg2.connect(self.dsn)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()[0] if cursor.description else None

    def fresh(self) -> Path:
        """Empties the schema; returns an empty folder."""
        self.query("DROP SCHEMA public CASCADE; CREATE SCHEMA public; CHECKPOINT")
        self._runs += 1
        folder = self.folder / f"run{self._runs}"
        folder.mkdir()
        return folder

    def environment(self, folder: Path, **changes: str) -> dict[str, str]:
        """Returns the settings of the main job."""
        own = {
            "CLOUDFLARE_API_URL": self.url,
            "CLOUDFLARE_API_TOKEN": "simulated",
            "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
            "CLOUDFLARE_API_VERSION": "v1",
            "INITIAL_CHECKPOINT": self.since.isoformat(),
            "DATA_DIR": str(folder),
            **settings_of(self.server),
        }
        return {**os.environ, **own, **changes}

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> Cost:
        """Runs a command to its end; returns its cost."""
        before, api_before = self.server_cpu(), cpu_of(self._api_pid)
        begun = time.perf_counter()
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=PROJECT_ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=log
            )
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - begun
            process.returncode = os.waitstatus_to_exitcode(status)
            log.seek(0)
            text = log.read()
        if process.returncode:
            msg = f"{command} ended with {process.returncode}: {text[-2000:]}"
            raise RuntimeError(msg)
        client = usage.ru_utime + usage.ru_stime
        server, api = self.server_cpu() - before, cpu_of(self._api_pid) - api_before
        return Cost(wall, client, server, api, usage.ru_maxrss / 1024, text)

    def ours(self, **changes: str) -> Cost:
        """Runs the main job once, from nothing."""
        environment = self.environment(self.fresh(), **changes)
        return self.run("pipelines/run.py", "--once", environment=environment)

    def plain(self) -> Cost:
        """Runs the yardstick, from nothing."""
        folder = self.fresh()
        since = f"{self.since:%Y-%m-%dT%H:%M:%S.%fZ}"
        return self.run("-m", "benchmarks.plain_loop", self.url, ACCOUNT, self.dsn, str(folder), since)

    def happen(self, account_id: str, events: int) -> None:
        """Adds events of now."""
        body = json.dumps({"account_id": account_id, "events": events}).encode()
        urlopen(Request(f"{self.url}/add", body)).close()  # noqa: S310  # our own server

    def server_cpu(self) -> float:
        """Returns PostgreSQL's CPU seconds."""
        return cpu_of_server(self._postmaster)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    parser.add_argument("--events", default="20000", help="sizes, comma separated")
    parser.add_argument("--repeats", type=int, default=3, help="of each size up to 100,000; larger ones run once")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args(arguments)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled modules are kept, as on any installation
    tables: dict[str, list[Row]] = {"ingest": [], "cycles": []}
    for size in map(int, options.events.split(",")):
        with open_bench(size) as bench:
            tables["ingest"] += _ingest(bench, size, options.repeats if size <= REPEATED else 1)
    with open_bench(2_000) as bench:
        tables["cycles"] += _cycles(bench)
    where = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    for title, rows in tables.items():
        text = as_markdown(rows)
        print(f"\n{title}\n{text}")
        if options.write:
            put_into(DOCUMENT, title, f"{text}\nMeasured {where}.\n")


def _ingest(bench: Bench, size: int, repeats: int) -> Iterator[Row]:
    """Runs the main job and the yardstick in turn; yields medians."""
    ours, plain, on_s3 = list[Cost](), list[Cost](), list[Cost]()
    for _ in tqdm(range(repeats), desc=f"{size:,} events", leave=False):
        for run, costs in (bench.plain, plain), (bench.ours, ours):
            costs.append(run())
            if bench.query("SELECT count(*) FROM audit_logs") != size:
                raise RuntimeError("not every event is in the warehouse")
    if size <= REPEATED:
        with tempfile.TemporaryDirectory() as folder, seaweed(Path(folder)) as bucket:
            on_s3 = [bench.ours(**bucket.settings(f"run{number}")) for number in range(repeats)]
    for name, costs in {"plain loop": plain, "run.py --once": ours, "the same, S3": on_s3}.items():
        if costs:
            yield {
                "events": f"{size:,}",
                "": name,
                "client CPU (s)": f"{_median(costs, lambda c: c.client):.1f}",
                "ratio": f"{_ratio(costs, plain, lambda c: c.client):.2f}",
                "wall (s)": f"{_median(costs, lambda c: c.wall):.1f}",
                "wall ratio": f"{_ratio(costs, plain, lambda c: c.wall):.2f}",
                "PostgreSQL CPU (s)": f"{_median(costs, lambda c: c.server):.1f}",
                "PostgreSQL ratio": f"{_ratio(costs, plain, lambda c: c.server):.2f}",
                "peak memory (MB)": f"{max(c.memory_mb for c in costs):.0f}",
                "API's CPU (s)": f"{_median(costs, lambda c: c.api):.1f}",
                "last tenth against first": _steadiness(costs[0].log),
            }


def _steadiness(log: str) -> str:
    """Returns the ratio of the rates of the last and the first tenth of the warehouse's loads."""
    loads = [
        (datetime.fromisoformat(time.replace(",", ".")), int(new))
        for time, new in re.findall(
            r"^(\S+ \S+) INFO load\.finished destination=warehouse new=(\d+)", log, re.MULTILINE
        )
    ]
    tenth = len(loads) // 10
    if tenth <= 1:
        return ""
    first, last = loads[: tenth + 1], loads[-tenth - 1 :]
    rates = [sum(n for _, n in part[1:]) / (part[-1][0] - part[0][0]).total_seconds() for part in (first, last)]
    return f"{rates[1] / rates[0]:.2f}"


def _cycles(bench: Bench) -> Iterator[Row]:
    """Measures a loop of two accounts: CPU of an idle cycle and of 10 new events; time from visible to queryable."""
    imports = [bench.run("-c", "import dlt, pyarrow").client for _ in range(3)]
    environment = bench.environment(bench.fresh(), CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},{IDLE_ACCOUNT}")
    bench.run("pipelines/run.py", "--once", environment=environment)
    cold = [bench.run("pipelines/run.py", "--once", environment=environment).client for _ in range(3)]
    yield {
        "what": "`run.py --once` with nothing new, CPU (s)",
        "median": f"{statistics.median(cold):.2f}",
        "against": f"{statistics.median(cold) / statistics.median(imports):.2f} of `import dlt, pyarrow`",
    }
    with _loop(environment, POLL_INTERVAL_SECONDS="0.5") as pid:
        time.sleep(6)
        before = cpu_of(pid)
        time.sleep(20)
        idle = (cpu_of(pid) - before) / 40
        yield {"what": "idle cycle, two accounts, CPU (ms)", "median": f"{idle * 1000:.0f}"}
    with _loop(environment, POLL_INTERVAL_SECONDS="2") as pid:
        time.sleep(5)
        costs, delays = [], []
        for _ in tqdm(range(15), desc="cycles", leave=False):
            before, rows = cpu_of(pid), bench.query("SELECT count(*) FROM audit_logs")
            bench.happen(ACCOUNT, 10)
            happened = time.perf_counter()
            while bench.query("SELECT count(*) FROM audit_logs") < rows + 10:
                time.sleep(0.02)
            delays.append(time.perf_counter() - happened)
            time.sleep(2.5)
            costs.append(cpu_of(pid) - before)
    yield {
        "what": "cycle with 10 new events, both stores, CPU (ms)",
        "median": f"{statistics.median(costs) * 1000:.0f}",
    }
    yield {"what": "visible to queryable, polled every 2 s (s)", "median": f"{statistics.median(delays):.1f}"}


@contextmanager
def _loop(environment: Mapping[str, str], **changes: str) -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "pipelines/run.py"],
        cwd=PROJECT_ROOT,
        env={**environment, **changes},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def open_bench(events: int) -> Iterator[Bench]:
    """Opens a PostgreSQL and an API with so many events, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="audit-benchmark-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with (
            embedded_postgres(folder / "postgres", "max_wal_size=8GB") as server,
            prepared_api(events, (ACCOUNT, IDLE_ACCOUNT)) as (url, pid),
        ):
            postmaster = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
            yield Bench(server, postmaster, url, pid, folder)


@contextmanager
def prepared_api(events: int, account_ids: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Runs the API; yields its URL and process id. The first account has the events."""
    accounts = [text for account_id in account_ids for text in ("--account", account_id)]
    command = ["-m", "benchmarks.servers.prepared_api", "--events", str(events), "--hours", str(HOURS), *accounts]
    process = subprocess.Popen(
        [sys.executable, *command], cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        url = process.stdout.readline().strip() if process.stdout else ""
        yield url, process.pid
    finally:
        process.kill()
        process.wait()


def _median(costs: Sequence[Cost], of: Callable[[Cost], float]) -> float:
    return statistics.median(map(of, costs))


def _ratio(costs: Sequence[Cost], others: Sequence[Cost], of: Callable[[Cost], float]) -> float:
    """Returns the median of the ratios of runs that followed each other."""
    return statistics.median(of(a) / of(b) for a, b in zip(costs, others, strict=True))


if __name__ == "__main__":
    main()
