"""`python -m tests.faults.soak [--lake folder|bucket] [--kills N] [--seed S]`: the long part of the faults.

Runs the main job again and again, kills it at random moments and named points, and troubles the API, the warehouse
and the lake meanwhile; after every 20 kills all is left alone, and both stores have to hold every event once. Prints
its seed and a table; exits 1 if anything was lost, doubled or stuck.
"""

import argparse
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.servers.commands import process_of
from benchmarks.servers.s3_gate import SLOW_DOWN, Gate, gate_before
from benchmarks.servers.seaweed import seaweed
from pipelines.settings.settings import PROJECT_ROOT
from pipelines.warehouse.embedded import embedded_postgres
from simulator.api import Api, Fault
from simulator.server import serving
from simulator.world import World
from tests.conftest import TOKEN
from tests.factory import ACCOUNT, OTHER_ACCOUNT, event_at
from tests.stores import Stores

from .dying import BUCKET_POINTS, FOLDER_POINTS, POINTS
from .proxy import Proxy

KILLS_BETWEEN_CHECKS = 20
LATENESS = [timedelta(), timedelta(seconds=1), timedelta(minutes=7), timedelta(minutes=30), timedelta(hours=6)]
"""The times between an event and its visibility: within the lag, or within the sweep's window."""

API_FAULTS = [
    Fault(status=429, headers={"Retry-After": "1"}),
    Fault(status=500),
    Fault(status=503),
    Fault(status=520),
    Fault(body="<html>gateway</html>"),
    Fault(body='{"success":false,"errors":[],"result":null}'),
    Fault(cut=50),
]


@dataclass
class Table:
    """The events and faults of a soak so far."""

    kills: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    events: int = 0
    lost: int = 0
    doubled: int = 0
    stuck: int = 0
    restarts: list[float] = field(default_factory=list)
    """Seconds from a start without trouble to the first request."""

    def __str__(self) -> str:
        rows: dict[str, object] = {
            "kills": self.kills,
            **{f"fault: {name}": count for name, count in sorted(self.faults.items())},
            "events": self.events,
            "lost": self.lost,
            "doubled": self.doubled,
            "stuck": self.stuck,
        }
        if self.restarts:
            rows["restart to first poll, median s"] = f"{statistics.median(self.restarts):.2f}"
            rows["restart to first poll, longest s"] = f"{max(self.restarts):.2f}"
        return "\n".join(f"{name:<34} {value:>10}" for name, value in rows.items())


class Soak:
    """One run of it."""

    def __init__(self, folder: Path, lake: str, seed: int, stack: ExitStack) -> None:
        self.table = Table()
        self._dice = random.Random(seed)
        self._folder = folder
        self._server = stack.enter_context(embedded_postgres(folder / "postgres"))
        self._proxy = stack.enter_context(Proxy(self._server.host, self._server.port))
        self._api = Api(World([ACCOUNT, OTHER_ACCOUNT]), token=TOKEN, clock=lambda: datetime.now(UTC))
        self._api.behaviour.requests_per_window = 1_000_000
        server = stack.enter_context(serving(self._api))
        self._gate: Gate | None = None
        self._environment = {
            "CLOUDFLARE_API_URL": server.url,
            "CLOUDFLARE_API_TOKEN": TOKEN,
            "CLOUDFLARE_ACCOUNT_ID": f"{ACCOUNT},{OTHER_ACCOUNT}",
            "CLOUDFLARE_PER_PAGE": "100",
            "CLOUDFLARE_BACKOFF_SECONDS": "0.1",
            "CLOUDFLARE_BACKOFF_MAX_SECONDS": "1",
            "POLL_INTERVAL_SECONDS": "0.2",
            "SWEEP_INTERVAL_SECONDS": "3",
            "INITIAL_CHECKPOINT": (datetime.now(UTC) - timedelta(days=1)).isoformat(),
            "DATA_DIR": str(folder / "data"),
            "PG_HOST": self._server.host,
            "PG_PORT": str(self._proxy.port),
            "PG_PASSWORD": self._server.password,
        }
        if lake == "bucket":
            bucket = stack.enter_context(seaweed(folder))
            self._gate = stack.enter_context(gate_before(bucket.endpoint))
            self._environment |= {**bucket.settings("soak"), "S3_ENDPOINT": self._gate.url}
        self._points = [*POINTS, *(BUCKET_POINTS if lake == "bucket" else FOLDER_POINTS)]
        self._expected: set[str] = set()

    def run(self, kills: int) -> None:
        """Kills that often, and checks."""
        while self.table.kills < kills:
            for _ in range(KILLS_BETWEEN_CHECKS):
                self._kill_once()
            self._check()
            print(f"\n{self.table}", flush=True)

    def _kill_once(self) -> None:
        self._add_events()
        self._end_trouble()
        dice, command = self._dice, ["pipelines/run.py"]
        make_trouble = dice.choice([None, "before", "meanwhile"])
        if make_trouble == "before":
            self._make_trouble()
        at_point = dice.random() < 1 / 3
        if at_point:
            nth = str(dice.choice([1, 1, 2, 3]))
            command = ["-m", "tests.faults.dying", dice.choice(self._points), nth, "KILL", "run"]
        requests = len(self._api.requests)
        with process_of(self._environment, *command) as process:
            started = time.monotonic()
            if _wait(lambda: len(self._api.requests) > requests, process, 5) and make_trouble != "before":
                self.table.restarts.append(time.monotonic() - started)
            self._add_events()
            if make_trouble == "meanwhile":
                self._make_trouble()
            _wait(lambda: False, process, dice.uniform(0, 2.5))
            process.kill()
            process.wait()
            self.table.kills += process.returncode == -signal.SIGKILL

    def _add_events(self) -> None:
        for account, version in [(ACCOUNT, "v1"), (ACCOUNT, "v2"), (OTHER_ACCOUNT, "v1"), (OTHER_ACCOUNT, "v2")]:
            now = datetime.now(UTC)
            times = [now - self._dice.choice(LATENESS) for _ in range(self._dice.randrange(60))]
            events = [event_at(time, visible_at=now, version=version) for time in times]
            self._api.world.add(account, version, events)
            self._expected |= {f"{account} {version} {json.loads(event.raw)['id']}" for event in events}

    def _make_trouble(self) -> None:
        """One of the troubles, which lasts until the next start at the latest."""
        troubles: dict[str, Callable[[], None]] = {
            "API": lambda: self._api.faults.append(replace(self._dice.choice(API_FAULTS), times=4)),
            "warehouse refuses": self._proxy.refuse,
            "warehouse is cut off": lambda: setattr(self._proxy, "cut_after", self._dice.randrange(100_000)),
            "warehouse hangs": self._proxy.hang,
            "working directory gone": lambda: shutil.rmtree(self._folder / "data/dlt", ignore_errors=True),
        }
        if self._gate:
            gate = self._gate
            troubles["bucket is throttled"] = lambda: setattr(
                gate, "refuse", lambda _: SLOW_DOWN if self._dice.random() < 1 / 2 else None
            )
        name = self._dice.choice(sorted(troubles))
        troubles[name]()
        self.table.faults[name] += 1

    def _end_trouble(self) -> None:
        self._api.faults.clear()
        self._proxy.go_on()
        self._proxy.cut_after = None
        self._proxy.accept()
        if self._gate:
            self._gate.refuse = lambda _: None

    def _check(self) -> None:
        """Without trouble, one poll and one sweep make everything good."""
        self._end_trouble()
        time.sleep(3)  # a sweep is due
        environment = {**self._environment, "SWEEP_INTERVAL_SECONDS": "0.1"}
        done = None
        for _ in range(3):  # the server may still hold the lock of a killed connection for a moment
            with process_of(environment, "pipelines/run.py", "--once", output=subprocess.PIPE) as process:
                out, _ = process.communicate(timeout=300)
            done = process.returncode
            if done == 0:
                break
            time.sleep(2)
        else:
            self.table.stuck += 1
            print(out.decode(), f"exit {done}", flush=True)
        stores = Stores(self._server, "public", self._folder / "data" / "lake", self._environment)
        columns = ("account_id", "api_version", "event_id")
        held = {
            "warehouse": stores.query("SELECT account_id, api_version, event_id FROM {schema}.audit_logs"),
            "lake": stores.lake_table().select(columns).to_pylist(),
        }
        self.table.events = len(self._expected)
        for name, rows in held.items():
            counts = Counter(" ".join(row[column] for column in columns) for row in rows)
            lost = self._expected - counts.keys()
            self.table.lost += len(lost)
            self.table.doubled += counts.total() - len(counts)
            if lost:
                print(f"lost in the {name}: {sorted(lost)[:5]}", out.decode()[-5000:], flush=True)


def _wait(is_true: Callable[[], bool], process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        if is_true():
            return True
        time.sleep(0.01)
    return False


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for a while, readable to servers that may not run as root."""
    folder = Path(tempfile.mkdtemp(prefix="audit-soak-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Runs it and prints its table."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.splitlines()[0])
    parser.add_argument("--lake", choices=["folder", "bucket"], default="folder")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.lake} lake, from {PROJECT_ROOT.name}", flush=True)
    with scratch_folder() as folder, ExitStack() as stack:
        soak = Soak(folder, options.lake, options.seed, stack)
        soak.run(options.kills)
    return int(bool(soak.table.lost or soak.table.doubled or soak.table.stuck))


if __name__ == "__main__":
    sys.exit(main())
