"""`python -m tests.faults.endurance [--cycles N]`: what grows in a process that loads something in every cycle.

Prints resident memory, open files, threads, files on disk and rows in dlt's own tables ten times; exits 1 if anything
has grown, from the first time to the last, by more than a quarter and what comes between two prunings.
"""

import argparse
import os
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.servers.commands import process_of
from pipelines.load.loader import LOADS_BETWEEN_PRUNINGS
from pipelines.warehouse.embedded import embedded_postgres
from simulator.api import Api
from simulator.server import serving
from simulator.world import World
from tests.conftest import TOKEN
from tests.factory import ACCOUNT, event_at
from tests.stores import Stores

from .soak import scratch_folder

DLT_TABLES = ("_dlt_loads", "_dlt_pipeline_state", "_dlt_version")
ALLOWED_GROWTH = 1.25
OVERLAP = timedelta(minutes=15)
"""The safety lag: each poll reads so much again."""


def main() -> int:
    """Runs the loop for that many cycles with one new event in each."""
    parser = argparse.ArgumentParser(prog="endurance", description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=5000)
    cycles = parser.parse_args().cycles
    with scratch_folder() as folder, ExitStack() as stack:
        server = stack.enter_context(embedded_postgres(folder / "postgres"))
        api = Api(World([ACCOUNT]), token=TOKEN, clock=lambda: datetime.now(UTC))
        api.behaviour.requests_per_window = 1_000_000
        # The overlap is full from the start: what a poll reads again must not look like growth.
        begun = datetime.now(UTC)
        api.world.add(ACCOUNT, "v1", [event_at(begun - OVERLAP * number / cycles) for number in range(1, cycles + 1)])
        environment = {
            "CLOUDFLARE_API_URL": stack.enter_context(serving(api)).url,
            "CLOUDFLARE_API_TOKEN": TOKEN,
            "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
            "POLL_INTERVAL_SECONDS": "0.1",
            "SWEEP_INTERVAL_SECONDS": "60",
            "DATA_DIR": str(folder / "data"),
            "PG_HOST": server.host,
            "PG_PORT": str(server.port),
            "PG_PASSWORD": server.password,
        }
        stores = Stores(server, "public", folder / "data" / "lake")
        log = stack.enter_context((folder / "log").open("wb"))
        process = stack.enter_context(process_of(environment, "pipelines/run.py", output=log))
        early: dict[str, int] = {}
        late: dict[str, int] = {}
        for cycle in range(1, cycles + 1):
            api.world.add(ACCOUNT, "v1", [event_at(datetime.now(UTC) - timedelta(seconds=1))])
            requests = len(api.requests)
            while len(api.requests) == requests:
                if process.poll() is not None:
                    print((folder / "log").read_text()[-3000:])
                    return 1
                time.sleep(0.02)
            if cycle % (cycles // 10) == 0:
                late = _show(cycle, process.pid, folder / "data", stores)
                early = early or late
    grown = {name for name, value in late.items() if value > early[name] * ALLOWED_GROWTH + LOADS_BETWEEN_PRUNINGS}
    print("grown:", ", ".join(sorted(grown)) or "nothing")
    return int(bool(grown))


def _files_in(folder: Path) -> int:
    """The number of files; folders that go meanwhile have none."""
    return sum(len(files) for _, _, files in os.walk(folder))


def _show(cycle: int, pid: int, data: Path, stores: Stores) -> dict[str, int]:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    measured = {
        "resident memory, MB": pages * os.sysconf("SC_PAGE_SIZE") // 2**20,
        "open files": len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208  # names are enough
        "threads": len(os.listdir(f"/proc/{pid}/task")),  # noqa: PTH208
        "files of working directories": _files_in(data / "dlt"),
        "files of the lake": _files_in(data / "lake"),
        **{table: stores.query(f"SELECT count(*) AS n FROM {{schema}}.{table}")[0]["n"] for table in DLT_TABLES},
    }
    events = stores.query("SELECT count(*) AS n FROM {schema}.audit_logs")[0]["n"]
    print(f"after {cycle} cycles, {events} events:")
    print("\n".join(f"  {name:<30} {value:>8}" for name, value in measured.items()), flush=True)
    return measured


if __name__ == "__main__":
    sys.exit(main())
