"""One loop for each destination; a lock does not outlive its process; who slept through its loss changes nothing."""

import signal
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

from benchmarks.servers.commands import Finished, process_of, wait_until
from benchmarks.servers.seaweed import Bucket
from pipelines.settings.settings import PROJECT_ROOT, read_environment, read_store_settings
from pipelines.warehouse.destination import open_warehouse
from simulator.api import Api
from tests.factory import ACCOUNT, ago, event_at, ids, spread
from tests.faults.conftest import RunLoop
from tests.stores import Stores

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]
ONCE = ("pipelines/run.py", "--once", "--json")


def test_openings_of_an_empty_schema_at_the_same_time_make_it_once(
    environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two accounts of a first backfill makes the tables, and the other waits and finds them."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    Container()[PluggableRunContext].reload(str(PROJECT_ROOT))
    stores = read_store_settings(read_environment())
    schemas = [f"{stores.postgres_schema}_{number}" for number in range(5)]

    def open_and_close(schema: str) -> None:
        with open_warehouse(replace(stores, postgres_schema=schema), takes_lock=False):
            pass

    with ThreadPoolExecutor(3) as pool:
        for schema in schemas:
            list(pool.map(open_and_close, [schema] * 3))


def test_a_second_runner_is_told_who_holds_the_lock(
    api: Api, running: RunLoop, command: Command, tmp_path: Path
) -> None:
    """Exit 75: on this host with the same data folder, and as from another host with another one."""
    with running() as loop:
        wait_until(lambda: "run.started" in loop.log and bool(api.requests))
        same_folder, other_host = command(*ONCE), command(*ONCE, DATA_DIR=str(tmp_path / "elsewhere"))

    holder = f"process {loop.process.pid} on {socket.gethostname()}"
    assert (same_folder.code, other_host.code) == (75, 75)
    assert f"another process on this host loads the warehouse: held by {holder}" in same_folder.err
    assert "another process loads this warehouse: held by" in other_host.err
    assert f"audit-pipeline/{loop.process.pid}@{socket.gethostname()}"[:63] in other_host.err


def test_a_second_runner_on_the_same_lake_folder_is_told_so(
    api: Api, running: RunLoop, command: Command, environment: Mapping[str, str]
) -> None:
    """With working directories of their own."""
    lake = (Path(environment["DATA_DIR"]) / "lake").as_uri()
    with running() as loop:
        wait_until(lambda: bool(api.requests))
        second = command(
            *ONCE,
            DATA_DIR=f"{environment['DATA_DIR']}-2",
            PG_SCHEMA="elsewhere",
            DESTINATION__FILESYSTEM__BUCKET_URL=lake,
        )

    assert second.code == 75
    assert f"held by process {loop.process.pid}" in second.err


def test_the_lock_of_a_killed_process_is_free_at_once(api: Api, running: RunLoop, command: Command) -> None:
    """The kernel and the server see to that."""
    with running() as loop:
        wait_until(lambda: bool(api.requests))
        loop.process.kill()
        loop.process.wait()

    assert command(*ONCE).code == 0


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("in the warehouse's load", marks=pytest.mark.long),
        pytest.param("before the warehouse's commit", marks=pytest.mark.long),
        "before the warehouse's state counts",
    ],
)
def test_a_paused_holder_that_wakes_up_cannot_move_its_successors_cursor(
    api: Api, environment: Mapping[str, str], command: Command, stores: Stores, tmp_path: Path, point: str
) -> None:
    """Paused in the middle of a load, its connection lost, another one in its place; then it wakes up."""
    early = spread(5, ago(hours=3), ago(hours=2))
    api.world.add(ACCOUNT, "v1", early)
    log = tmp_path / "paused.log"
    arming = ("-m", "tests.faults.dying", point, "1", "STOP", "run")
    with log.open("wb") as output, process_of(environment, *arming, output=output) as paused:
        wait_until(lambda: _is_stopped(paused.pid))
        stores.query(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND objid::bigint = hashtext('{schema}')::bigint & 4294967295"
        )
        late = spread(5, ago(hours=1), ago(minutes=30))
        api.world.add(ACCOUNT, "v1", late)
        successor = command(*ONCE, DATA_DIR=str(tmp_path / "successor"))
        states = stores.query("SELECT * FROM {schema}._dlt_loads")
        paused.send_signal(signal.SIGCONT)
        wait_until(lambda: "destination.failed destination=warehouse" in log.read_text())
        paused.kill()

    assert successor.code == 0, successor.err
    assert "load.finished destination=warehouse" not in log.read_text()
    assert stores.query("SELECT * FROM {schema}._dlt_loads") == states
    assert stores.warehouse_ids() == sorted(ids(early + late))


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("lake", ["folder", pytest.param("bucket", marks=pytest.mark.long)])
def test_a_writer_beside_the_loop_loses_nothing_and_doubles_nothing(
    request: pytest.FixtureRequest, api: Api, running: RunLoop, environment: dict[str, str], stores: Stores, lake: str
) -> None:
    """It writes the hours that the loop is loading, into both stores, at the same time."""
    if lake == "bucket":
        bucket: Bucket = request.getfixturevalue("bucket")
        environment.update(bucket.settings(prefix=environment["PG_SCHEMA"]))
    events = spread(1500, ago(hours=3), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)

    with running("-m", "tests.faults.beside", name="beside"), running(POLL_INTERVAL_SECONDS="0.1"):
        wait_until(lambda: len(stores.lake_ids()) >= len(events))
        for _ in range(60):
            more = [event_at(ago(seconds=1)) for _ in range(5)]
            api.world.add(ACCOUNT, "v1", more)
            events += more
            time.sleep(0.1)
        wait_until(lambda: len(stores.warehouse_ids()) >= len(events))
        wait_until(lambda: len(stores.lake_ids()) >= len(events))

    assert stores.ids() == (sorted(ids(events)),) * 2
