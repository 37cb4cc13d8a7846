"""A worker of a Dask cluster that is lost loses nothing and doubles nothing; a unit that kills is given up."""

import random
import secrets
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished, process_of, wait_until
from benchmarks.servers.dask import dask_cluster
from simulator.api import Api
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ids, spread
from tests.stores import Stores

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=9)
WINDOW = ("--since", DAY.isoformat(), "--before", (DAY + timedelta(days=6)).isoformat())
BACKFILL, REHYDRATE = ("pipelines/backfill.py", *WINDOW), ("pipelines/rehydrate.py", *WINDOW)
REHYDRATED = "SELECT account_id, event_id FROM {schema}.audit_logs_rehydrated ORDER BY 2"


@pytest.fixture
def wanted(api: Api, environment: dict[str, str]) -> list[str]:
    """The ids of 6,000 events of two accounts."""
    environment["CLOUDFLARE_ACCOUNT_ID"] = f"{ACCOUNT},{OTHER_ACCOUNT}"
    events = [spread(3_000, DAY, DAY + timedelta(days=6)) for _ in range(2)]
    for account, its in zip((ACCOUNT, OTHER_ACCOUNT), events, strict=True):
        api.world.add(account, "v1", its)
    return sorted(ids(events[0]) | ids(events[1]))


@pytest.mark.parametrize(
    ("how", "times"),
    [
        (signal.SIGKILL, 1),
        pytest.param(signal.SIGKILL, 30, marks=[pytest.mark.long, pytest.mark.timeout(1_200)]),
        pytest.param(signal.SIGTERM, 8, marks=[pytest.mark.long, pytest.mark.timeout(1_200)]),
    ],
)
def test_one_of_two_workers_may_be_lost_at_any_moment(
    environment: dict[str, str],
    command: Command,
    stores: Stores,
    wanted: list[str],
    tmp_path: Path,
    how: signal.Signals,
    times: int,
) -> None:
    """While the command looks around, registers, sends, waits, gathers or ends: the other one does the work, exit 0."""
    seed = secrets.randbits(32)
    dice = random.Random(seed)
    print(f"seed {seed}")
    command(*BACKFILL)
    with dask_cluster(tmp_path / "cluster", environment, environment) as cluster:
        begun = time.monotonic()
        command(*REHYDRATE, "--scheduler", cluster.url)
        undisturbed = time.monotonic() - begun
        crew = [0, 1]
        for _ in range(times):
            stores.query("TRUNCATE {schema}.audit_logs_rehydrated")
            moment, victim = dice.uniform(0, undisturbed), dice.randrange(2)
            log = tmp_path / "rehydrate.log"
            with (
                log.open("wb") as output,
                process_of(environment, *REHYDRATE, "--scheduler", cluster.url, output=output) as rehydrate,
            ):
                time.sleep(moment)
                cluster.workers[crew[victim]].send_signal(how)
                code = rehydrate.wait(120)
            crew[victim] = cluster.start_worker(environment)
            cluster.wait_for_worker(crew[victim])

            print(f"{how.name} after {moment:.2f} of {undisturbed:.2f} s: exit {code}")
            assert code == 0, log.read_text()
            assert [row["event_id"] for row in stores.query(REHYDRATED)] == wanted


@pytest.mark.long
@pytest.mark.parametrize("requests", [3, 20, 60])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_is_killed_in_a_backfill_loses_nothing(
    api: Api,
    environment: dict[str, str],
    stores: Stores,
    wanted: list[str],
    tmp_path: Path,
    requests: int,
    victim: int,
) -> None:
    """The other one does its units again, each event once; the command ends well."""
    environment["CLOUDFLARE_PER_PAGE"] = "50"
    log = tmp_path / "backfill.log"
    with (
        dask_cluster(tmp_path / "cluster", environment, environment) as cluster,
        log.open("wb") as output,
        process_of(environment, *BACKFILL, "--scheduler", cluster.url, output=output) as backfill,
    ):
        wait_until(lambda: len(api.requests) >= requests)
        cluster.workers[victim].kill()
        is_in_the_middle = backfill.poll() is None and len(stores.warehouse_ids()) < len(wanted)
        code = backfill.wait(120)

    assert is_in_the_middle
    assert code == 0, log.read_text()
    assert cluster.workers[victim].returncode == -signal.SIGKILL
    assert stores.ids() == (wanted, wanted)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_another_worker_that_comes_soon_after_the_last_was_lost_goes_on(
    environment: dict[str, str], command: Command, stores: Stores, wanted: list[str], tmp_path: Path
) -> None:
    """At whatever moment it was lost: within a minute, the command takes the new one and ends well."""
    seed = secrets.randbits(32)
    dice = random.Random(seed)
    print(f"seed {seed}")
    command(*BACKFILL)
    command(*REHYDRATE)
    with dask_cluster(tmp_path / "cluster", environment) as cluster:
        for number in range(6):
            stores.query("TRUNCATE {schema}.audit_logs_rehydrated")
            log, moment = tmp_path / "rehydrate.log", dice.uniform(1, 3)
            with (
                log.open("wb") as output,
                process_of(environment, *REHYDRATE, "--scheduler", cluster.url, output=output) as rehydrate,
            ):
                time.sleep(moment)
                cluster.workers[number].kill()
                time.sleep(dice.uniform(0, 4))
                cluster.wait_for_worker(cluster.start_worker(environment))
                code = rehydrate.wait(120)

            print(f"killed after {moment:.2f} s: exit {code}")
            assert code == 0, log.read_text()
            assert [row["event_id"] for row in stores.query(REHYDRATED)] == wanted


@pytest.mark.long
def test_a_worker_that_is_killed_in_a_rehydration_loses_nothing(
    environment: dict[str, str], command: Command, stores: Stores, wanted: list[str], tmp_path: Path
) -> None:
    """A worker killed in a rehydration loses nothing: another one does its units."""
    command(*BACKFILL)
    command(*REHYDRATE, "--dry-run")
    with (
        dask_cluster(tmp_path / "cluster", environment, environment) as cluster,
        process_of(environment, *REHYDRATE, "--scheduler", cluster.url) as rehydrate,
    ):
        wait_until(lambda: bool(stores.query(REHYDRATED)))
        cluster.workers[0].kill()
        is_in_the_middle = rehydrate.poll() is None and len(stores.query(REHYDRATED)) < len(wanted)
        code = rehydrate.wait(120)

    assert is_in_the_middle
    assert code == 0
    assert [row["event_id"] for row in stores.query(REHYDRATED)] == sorted(wanted)


@pytest.mark.long
def test_a_unit_that_kills_its_workers_is_named_and_the_others_are_done(
    environment: dict[str, str], command: Command, stores: Stores, wanted: list[str], tmp_path: Path
) -> None:
    """After four workers; their nannies start others. Exit 1."""
    command(*BACKFILL)
    nannies = ["--nanny", "--preload", "tests.faults.broken_unit"]
    broken = {"BROKEN_ACCOUNT": ACCOUNT, "BROKEN_KILLS": "1"}
    two_days = (*REHYDRATE[:4], (DAY + timedelta(days=2)).isoformat())

    with dask_cluster(tmp_path / "cluster", environment, environment, options=nannies, **broken) as cluster:
        done = command(*two_days, "--scheduler", cluster.url, "--json")

    assert done.code == 1, done.err
    assert sorted(done.report["failed"]) == [f"{ACCOUNT} {DAY + timedelta(days=n):%Y-%m-%d}" for n in range(2)]
    assert "KilledWorker" in done.err
    rows = stores.query(REHYDRATED)
    assert ({row["account_id"] for row in rows}, len(rows)) == ({OTHER_ACCOUNT}, 1_000)
    assert len(wanted) == 6_000


@pytest.mark.long
def test_a_cluster_that_has_lost_all_its_workers_is_told(
    api: Api, environment: dict[str, str], wanted: list[str], stores: Stores, tmp_path: Path
) -> None:
    """After a minute, in which one might have come back: exit 75. What was done stays done."""
    environment["CLOUDFLARE_PER_PAGE"] = "50"
    log = tmp_path / "backfill.log"
    with (
        dask_cluster(tmp_path / "cluster", environment, environment) as cluster,
        log.open("wb") as output,
        process_of(environment, *BACKFILL, "--scheduler", cluster.url, output=output) as backfill,
    ):
        wait_until(lambda: len(api.requests) >= 40)
        for worker in cluster.workers:
            worker.kill()
        code = backfill.wait(120)

    assert code == 75, log.read_text()
    assert "the Dask cluster has lost all its workers" in log.read_text()
    assert 0 < len(set(stores.warehouse_ids())) == len(stores.warehouse_ids()) < len(wanted)
