"""Loops divide the accounts: however many run at once, each event is in both stores once."""

import json
import re
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

from benchmarks.servers.commands import Finished, wait_until
from benchmarks.servers.seaweed import Bucket
from dashboard.ask.stores import WarehouseStore
from dashboard.health import lake_health, warehouse_health
from pipelines.settings.settings import PROJECT_ROOT
from pipelines.settings.shards import Shard
from simulator.api import Api, Request
from simulator.world import SimulatedEvent
from tests.factory import ago, ids, spread
from tests.faults.conftest import RunLoop
from tests.stores import Stores

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]
RUN = "pipelines/run.py"
ACCOUNTS = [f"{number:032x}" for number in range(6)]
"""Two shards have four and two of these accounts; three shards have two each."""
LAG = timedelta(seconds=60)
STATES = "SELECT DISTINCT pipeline_name FROM {schema}._dlt_pipeline_state ORDER BY 1"


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.long)])
def lake(request: pytest.FixtureRequest, environment: dict[str, str]) -> str:
    """Both kinds of lake."""
    if request.param == "bucket":
        bucket: Bucket = request.getfixturevalue("bucket")
        environment.update(bucket.settings(prefix=environment["PG_SCHEMA"]))
    return str(request.param)


@pytest.fixture(autouse=True)
def accounts(api: Api, environment: dict[str, str]) -> None:
    """Several accounts with a short lag, so that a second reading of the same events shows."""
    api.world.account_ids.update(ACCOUNTS)
    environment["CLOUDFLARE_ACCOUNT_ID"] = ",".join(ACCOUNTS)
    environment["CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS"] = f"{LAG.total_seconds():.0f}"


def add(api: Api, since: datetime, before: datetime, accounts: Sequence[str] = ACCOUNTS) -> list[SimulatedEvent]:
    """Ten events of each account."""
    added = []
    for account_id in accounts:
        events = spread(10, since, before)
        api.world.add(account_id, "v1", events)
        added += events
    return added


def holds(stores: Stores, events: list[SimulatedEvent]) -> Callable[[], bool]:
    """Returns a check that both stores have each of these events once, and nothing else."""
    return lambda: stores.ids() == (sorted(ids(events)),) * 2


@pytest.mark.usefixtures("lake")
def test_shards_load_both_stores_beside_each_other(api: Api, running: RunLoop, stores: Stores) -> None:
    """From an empty database on; each polls its accounts alone, none waits for the other or warns of it."""
    events = add(api, ago(days=2), ago(minutes=1))
    with ExitStack() as stack:
        loops = [
            stack.enter_context(
                running(RUN, "--shard", f"{number}/2", name=f"shard{number}", SWEEP_INTERVAL_SECONDS="1")
            )
            for number in (1, 2)
        ]
        for _ in range(4):
            wait_until(holds(stores, events))
            events += add(api, ago(seconds=2), ago(seconds=1))
        wait_until(holds(stores, events))
        logs = [loop.log for loop in loops]

    assert holds(stores, events)()
    for number, log in enumerate(logs, 1):
        assert f"run.started shard={number}/2 accounts={[4, 2][number - 1]}" in log
        assert not {"ERROR", "shard.others", "not_prepared"} & set(log.split())
    names = [row["pipeline_name"] for row in stores.query(STATES)]
    assert names == ["cloudflare_audit_warehouse_shard_1_of_2", "cloudflare_audit_warehouse_shard_2_of_2"]
    schemas = stores.query("SELECT count(*) AS n FROM {schema}._dlt_version")
    assert schemas[0]["n"] <= 6


@pytest.mark.long
def test_shards_share_an_embedded_server(api: Api, running: RunLoop, command: Command, server_dir: Path) -> None:
    """They begin at the same time, on no cluster yet; who ends first does not take it from the other."""
    embedded = {
        **dict.fromkeys(("PG_HOST", "PG_PORT", "PG_PASSWORD", "PG_SCHEMA"), ""),
        "DATA_DIR": f"{server_dir}/shards",
    }
    events = add(api, ago(hours=3), ago(hours=2))

    def held() -> list[str]:
        sql = "COPY (SELECT event_id FROM audit_logs ORDER BY event_id) TO STDOUT"
        return sorted(command("pipelines/psql.py", "-c", sql, **embedded).out.splitlines())

    with running(RUN, "--shard", "1/2", name="one", **embedded):
        with running(RUN, "--shard", "2/2", name="two", **embedded):
            wait_until(lambda: held() == sorted(ids(events)), 120)
        events += add(api, ago(seconds=2), ago(seconds=1), ACCOUNTS[3:])
        wait_until(lambda: held() == sorted(ids(events)), 120)


@pytest.mark.long
@pytest.mark.usefixtures("lake")
def test_the_number_of_shards_can_be_changed(api: Api, command: Command, stores: Stores, tmp_path: Path) -> None:
    """From one to three, to two and back; on another host each time. Of what was read, the safety lag is read again."""
    events = add(api, ago(days=20), ago(days=1))
    poll_all(command, 1)
    for stage, count in enumerate((3, 2, 1, 3)):
        seen, last = len(api.requests), newest(api)
        events += add(api, ago(hours=9 - 2 * stage), ago(hours=8 - 2 * stage))

        reports = poll_all(command, count, **another_host(stores, tmp_path / str(stage)))

        assert holds(stores, events)()
        assert {r.account_id: since_of(r) for r in api.requests[seen:]} == {a: time - LAG for a, time in last.items()}
        assert sum(report["read"] for report in reports) == len(ACCOUNTS) * 11


@pytest.mark.parametrize(
    "point",
    [
        "before the warehouse's state counts",
        pytest.param("after the warehouse's commit", marks=pytest.mark.long),
        pytest.param("before the lake's state", marks=pytest.mark.long),
        pytest.param("between the two destinations", marks=pytest.mark.long),
    ],
)
def test_a_shard_that_is_killed_in_a_load_is_taken_over_by_another_number(
    api: Api, command: Command, stores: Stores, point: str
) -> None:
    """Events that a killed shard wrote without a commit are read again, and written once."""
    events = add(api, ago(days=20), ago(days=1))
    poll_all(command, 2)
    events += add(api, ago(hours=9), ago(hours=8))
    dead = command("-m", "tests.faults.dying", point, "1", "KILL", "run", "--once", "--shard", "1/2")
    events += add(api, ago(hours=7), ago(hours=6))
    seen = len(api.requests)

    poll_all(command, 3)

    assert dead.code == -signal.SIGKILL
    assert holds(stores, events)()
    assert min(map(since_of, api.requests[seen:])) > ago(days=4)


def test_the_same_shard_twice_is_refused_and_says_who_it_is(
    api: Api, running: RunLoop, command: Command, tmp_path: Path
) -> None:
    """Exit 75, on this host and as from another one; the other shard is not refused."""
    same, other = (RUN, "--once", "--shard", "1/2"), (RUN, "--once", "--shard", "2/2")
    with running(*same[:1], "--shard", "1/2") as loop:
        wait_until(lambda: bool(api.requests))
        same_folder, other_host = command(*same), command(*same, DATA_DIR=str(tmp_path / "elsewhere"))
        beside = command(*other)

    assert (same_folder.code, other_host.code, beside.code) == (75, 75, 0), beside.err
    assert f"another process on this host loads the warehouse: held by process {loop.process.pid}" in same_folder.err
    holder = f"shard 1/2 audit-pipeline/{loop.process.pid}@{socket.gethostname()}"[:63]
    assert f"another process loads this warehouse: held by {holder}" in other_host.err
    assert same_folder.err.count("destination=warehouse") == other_host.err.count("destination=warehouse") == 1


def test_the_same_shard_twice_on_one_lake_folder_is_refused(
    api: Api, running: RunLoop, command: Command, stores: Stores, tmp_path: Path
) -> None:
    """Whatever the warehouse."""
    with running(RUN, "--shard", "1/2") as loop:
        wait_until(lambda: bool(api.requests))
        changes = {**another_host(stores, tmp_path / "elsewhere"), "PG_SCHEMA": f"{stores.schema}_2"}
        same, other = (command(RUN, "--once", "--shard", shard, **changes) for shard in ("1/2", "2/2"))

    assert (same.code, other.code) == (75, 0), same.err + other.err
    assert f"held by process {loop.process.pid}" in same.err


def test_loops_of_another_number_are_warned_of_by_name(
    api: Api, running: RunLoop, command: Command, stores: Stores, tmp_path: Path
) -> None:
    """Once, and nothing is lost or doubled; whoever has to be alone is refused."""
    events = add(api, ago(hours=3), ago(hours=2))
    with running(RUN, "--shard", "1/2", name="half") as half:
        wait_until(lambda: bool(api.requests))
        with running(DATA_DIR=str(tmp_path / "elsewhere"), **lake_of(stores)) as whole:
            wait_until(lambda: "shard.others" in whole.log)
            events += add(api, ago(minutes=3), ago(minutes=2))
            wait_until(holds(stores, events))
            elsewhere = command(RUN, "--once", DATA_DIR=str(tmp_path / "third"), PG_SCHEMA=f"{stores.schema}_2")
            convert = command("pipelines/convert.py")
        assert "shard.others" not in half.log

    name = f"shard 1/2 audit-pipeline/{half.process.pid}@{socket.gethostname()}"[:63]
    assert f'shard.others loops="{name}"' in whole.log
    assert whole.log.count("shard.others") == 1
    assert "shard.others" not in elsewhere.err
    assert (convert.code, holds(stores, events)()) == (75, True), convert.err


def test_a_shard_without_an_account_stands_by(api: Api, running: RunLoop, environment: dict[str, str]) -> None:
    """A shard without an account waits, and its supervisor and its probes see it as ready."""
    environment["CLOUDFLARE_ACCOUNT_ID"] = ACCOUNTS[0]
    with running(RUN, "--shard", "2/3") as loop:
        wait_until(lambda: "run.started" in loop.log)

    assert loop.log.count("shard.empty shard=2/3 accounts=1") == 1
    assert loop.process.returncode == 0
    assert api.requests == []


def test_a_single_poll_of_a_shard_without_an_account_ends_well(command: Command, environment: dict[str, str]) -> None:
    """There is nothing to sweep or to compare either."""
    environment["CLOUDFLARE_ACCOUNT_ID"] = ACCOUNTS[0]

    done = command(RUN, "--once", "--shard", "2/3", RECONCILE_AFTER_HOURS="24")

    assert (done.code, done.out.split(":")[0]) == (0, "0 events read"), done.err


@pytest.mark.long
def test_status_doctor_dashboard_and_dlt_know_all_shards(
    api: Api, running: RunLoop, command: Command, environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their number was: an account is shown where it stands now."""
    add(api, ago(hours=3), ago(hours=2))
    poll_all(command, 1)
    add(api, ago(hours=1), ago(minutes=50), ACCOUNTS[1:])
    poll_all(command, 3)
    status = json.loads(command("pipelines/status.py", "--json").out)
    info = command("-m", "dlt", "pipeline", "-v", "cloudflare_audit_lake_shard_2_of_3", "info")
    with running(RUN, "--shard", "1/2", name="one") as one, running(RUN, "--shard", "2/2", name="two") as two:
        wait_until(lambda: "run.started" in one.log and "run.started" in two.log and bool(api.requests))
        wait_until(lambda: len(_runners(command)) == 2)
        runners = _runners(command)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    Container()[PluggableRunContext].reload(str(PROJECT_ROOT))

    cursors = {f"v1 {account_id}": time for account_id, time in newest(api).items()}
    assert warehouse_health(WarehouseStore()).cursors == lake_health().cursors == cursors
    for store in ("warehouse", "lake"):
        shown = {f"v1 {stream['account_id']}": stream["cursor"] for stream in status[store]["streams"]}
        assert shown == {name: time.isoformat() for name, time in cursors.items()}
    assert runners == {str(one.process.pid), str(two.process.pid)}
    assert f"audit_logs_v1_{ACCOUNTS[1]}" in info.out, info.err


def _runners(command: Command) -> set[str]:
    said = [json.loads(line) for line in command("pipelines/doctor.py", "--json").out.splitlines()]
    (runner,) = [finding["found"] for finding in said if finding["check"] == "runner"]
    return set(re.findall(r"process (\d+) on", runner))


def poll_all(command: Command, count: int, **changes: str) -> list[dict[str, Any]]:
    """One poll of each shard, one after the other, without sweeps."""
    reports = []
    for shard in Shard(1, count).all:
        done = command(RUN, "--once", "--json", "--shard", str(shard), SWEEP_INTERVAL_SECONDS="0", **changes)
        assert done.code == 0, done.err
        reports.append(done.report)
    return reports


def another_host(stores: Stores, folder: Path) -> dict[str, str]:
    """With working directories of its own, and a disk that it shares where the lake is a folder."""
    return {"DATA_DIR": str(folder), **lake_of(stores)}


def lake_of(stores: Stores) -> dict[str, str]:
    """The lake that the stores have, wherever DATA_DIR is."""
    is_folder = "S3_BUCKET" not in stores.environment
    return {"DESTINATION__FILESYSTEM__BUCKET_URL": stores.lake.as_uri()} if is_folder else {}


def newest(api: Api) -> dict[str, datetime]:
    """By account, when its newest event happened."""
    return {account_id: api.world.events(account_id, "v1")[-1].time for account_id in ACCOUNTS}


def since_of(request: Request) -> datetime:
    """From when on it asks."""
    return datetime.fromisoformat(request.params["since"])
