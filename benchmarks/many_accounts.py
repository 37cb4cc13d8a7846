"""`python -m benchmarks.many_accounts [--accounts 1000] [--latency 0.15] [--minutes 6] [--write]`: many in one process.

Runs the loop at its defaults on simulated accounts, with a PostgreSQL and a folder lake. Each account has a token, a
budget and one event of the last 20 days, and is idle otherwise. Watches the loop for some minutes each: while nothing
happens, while events come to one account of a hundred, and while two of a hundred are broken. --write puts the table
into docs/scale/many.md.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2

from benchmarks.servers.simulated import (
    Asked,
    Simulated,
    cycle_seconds,
    longest_wait_seconds,
    polls_of,
    seconds_between,
    simulated,
)
from pipelines.settings.settings import PROJECT_ROOT, PostgresSettings
from pipelines.warehouse.embedded import embedded_postgres
from simulator.quota import largest_burst

from .documents import Row, as_markdown, put_into
from .processes import descendants_of, peak_memory_of
from .servers.postgres import settings_of
from .servers.watched_loop import Watched, give_up_after, looping

DOCUMENT = PROJECT_ROOT / "docs" / "scale" / "many.md"
HISTORY = ("--events", "1", "--history-hours", "480")
SETTLING_SECONDS = 900
INTERVAL_SECONDS = 30
"""The default of POLL_INTERVAL_SECONDS."""
BUDGET, WINDOW = 1_200, timedelta(minutes=5)
HANG_SECONDS = 120
"""Longer than CLOUDFLARE_REQUEST_TIMEOUT_SECONDS."""


class Bench:
    """A loop of many accounts, with its API and stores."""

    def __init__(self, loop: Watched, api: Simulated, server: PostgresSettings, folder: Path) -> None:
        self._loop, self._api, self._folder = loop, api, folder
        self._dsn = f"postgresql://{server.user}:{server.password}@{server.host}:{server.port}/{server.database}"

    def settle(self) -> float:
        """Waits for each account's first and second poll; returns the seconds until all had their first."""
        begun = time.monotonic()
        while (reading := self._loop.read()).accounts_up < len(self._api.accounts):
            give_up_after(begun + SETTLING_SECONDS, f"{reading.accounts_up:.0f} accounts read")
            time.sleep(5)
        seconds = time.monotonic() - begun
        time.sleep(2 * INTERVAL_SECONDS)
        return seconds

    def watch(self, what: str, seconds: float, accounts: Sequence[str]) -> Row:
        """Watches these accounts from now on; returns a row of the table."""
        begun, before = datetime.now(UTC), self._loop.read()
        time.sleep(seconds)
        return self._row(what, begun, before.cpu, accounts)

    def watch_events(self, what: str, accounts: Sequence[str]) -> Row:
        """Watches all accounts while some get an event each, in turn within two intervals; returns a row."""
        begun, before = datetime.now(UTC), self._loop.read()
        visible: dict[str, datetime] = {}
        stored: dict[str, datetime] = {}
        chosen = {}
        for account_id in accounts:
            event_id, at = self._api.happen(account_id)
            visible[event_id], chosen[event_id] = at, account_id
            self._note_stored(stored, visible, seconds=2 * INTERVAL_SECONDS / len(accounts))
        deadline = time.monotonic() + 10 * INTERVAL_SECONDS
        while stored.keys() != visible.keys():
            give_up_after(deadline, f"{len(stored)} of {len(visible)} events stored")
            self._note_stored(stored, visible, seconds=0.2)
        warehouse = [(stored[event_id] - at).total_seconds() for event_id, at in visible.items()]
        lake = [self._seconds_to_lake(chosen[event_id], at) for event_id, at in visible.items()]
        return {
            **self._row(what, begun, before.cpu, self._api.accounts),
            "visible to warehouse (s)": _middle_and_most(warehouse),
            "to lake (s)": _middle_and_most(lake),
        }

    def break_some(self) -> list[str]:
        """Breaks 20 of 1,000 accounts: 10 refuse the token, 5 answer 500, 5 do not answer. Returns the others."""
        unit = max(1, len(self._api.accounts) // 200)
        refusing, failing, hanging, healthy = (
            self._api.accounts[first:last]
            for first, last in [(0, 2 * unit), (2 * unit, 3 * unit), (3 * unit, 4 * unit), (4 * unit, None)]
        )
        for account_id in refusing:
            self._api.break_account(account_id, status=403, body="{}")
        for account_id in failing:
            self._api.break_account(account_id, status=500, body="{}")
        for account_id in hanging:
            self._api.break_account(account_id, latency_seconds=HANG_SECONDS)
        return list(healthy)

    def _row(self, what: str, begun: datetime, cpu: float, accounts: Sequence[str]) -> Row:
        cpu, ended = self._loop.read().cpu - cpu, datetime.now(UTC)
        asked = self._api.asked()
        polls = polls_of([request for request in asked if request.at >= begun], set(accounts))
        children = sum(map(peak_memory_of, descendants_of(self._loop.pid)))
        return {
            "": what,
            "polls of an account": f"{len(polls) / len(accounts):.1f}",
            "cycle (s)": _middle_and_most(cycle_seconds(polls, accounts)),
            "poll to poll (s)": _middle_and_most(seconds_between(polls)),
            "longest without (s)": f"{longest_wait_seconds(polls, accounts, begun, ended):.0f}",
            f"most requests of a token in 5 min, of {BUDGET:,}": f"{_largest_burst(asked):,}",
            "CPU of a cycle (s)": f"{cpu * len(accounts) / max(1, len(polls)):.2f}",
            "peak memory (MB)": f"{peak_memory_of(self._loop.pid) / 1e6:.0f}"
            + (f" + {children / 1e6:.0f}" * bool(children)),
        }

    def _note_stored(self, stored: dict[str, datetime], visible: dict[str, datetime], *, seconds: float) -> None:
        """Looks every 0.2 seconds which of the events a query finds, and notes when."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.2)
            for event_id in self._ids() & visible.keys() - stored.keys():
                stored[event_id] = datetime.now(UTC)

    def _ids(self) -> set[str]:
        with closing(psycopg2.connect(self._dsn)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT event_id FROM audit_logs WHERE timestamp > now() - interval '1 hour'")
            return {event_id for (event_id,) in cursor.fetchall()}

    def _seconds_to_lake(self, account_id: str, visible: datetime) -> float:
        """Returns when the object of the hour was written. Each of these events is the first one in its object."""
        hour = (
            self._folder / f"lake/cloudflare/audit_logs/account={account_id}/date={visible:%Y-%m-%d}/hour={visible:%H}"
        )
        deadline = time.monotonic() + 10 * INTERVAL_SECONDS
        while not (file := hour / "events.parquet").exists():
            give_up_after(deadline, f"{file}")
            time.sleep(0.1)
        return file.stat().st_mtime - visible.timestamp()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_accounts", description=__doc__)
    parser.add_argument("--accounts", type=int, default=1_000)
    parser.add_argument("--latency", type=float, default=0.15, help="seconds of each answer")
    parser.add_argument("--minutes", type=float, default=6, help="of the watch with nothing new, and with broken ones")
    parser.add_argument("--write", action="store_true", help="put the table into docs/scale/many.md")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="audit-benchmark-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with (
            embedded_postgres(folder / "postgres") as server,
            simulated(folder, options.accounts, options=HISTORY) as api,
        ):
            api.behave(latency_seconds=options.latency)
            with looping(_environment(api, server, folder)) as loop:
                text = _measure(Bench(loop, api, server, folder), api, options.minutes * 60)
    where = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    text += f"{options.accounts:,} accounts, answers after {options.latency:g} s. Measured {where}.\n"
    print(f"\n{text}")
    if options.write:
        put_into(DOCUMENT, "many accounts", text)


def _measure(bench: Bench, api: Simulated, seconds: float) -> str:
    first = bench.settle()
    few = api.accounts[:: max(1, len(api.accounts) // max(10, len(api.accounts) // 100))]
    rows = [
        bench.watch("nothing new", seconds, api.accounts),
        bench.watch_events(f"an event in each of {len(few)}", few),
    ]
    healthy = bench.break_some()
    broken = len(api.accounts) - len(healthy)
    rows.append(bench.watch(f"{broken} broken: the others", seconds, healthy))
    return f"{as_markdown(rows)}\nTwo numbers: the median, and the most. The first poll of all took {first:.0f} s. "


def _environment(api: Simulated, server: PostgresSettings, folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "CLOUDFLARE_API_URL": api.url,
        "ACCOUNTS_FILE": str(api.accounts_file),
        "CLOUDFLARE_API_VERSION": "v1",
        "INITIAL_CHECKPOINT": (datetime.now(UTC) - timedelta(days=21)).isoformat(),
        "DATA_DIR": str(folder),
        **settings_of(server),
    }


def _largest_burst(asked: Sequence[Asked]) -> int:
    """Returns the most requests of any token in 5 minutes."""
    times: defaultdict[str, list[datetime]] = defaultdict(list)
    for request in asked:
        times[request.token].append(request.at)
    return max(largest_burst(its, WINDOW) for its in times.values())


def _middle_and_most(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.1f}, {max(seconds):.1f}" if seconds else ""


if __name__ == "__main__":
    main()
