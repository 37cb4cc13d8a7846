"""What fails is said in one clear message, holds up nothing else, and mends itself."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import adbc_driver_manager
import pytest

from pipelines.embedded_postgres import running_server
from pipelines.report import Report
from pipelines.settings import PROJECT_ROOT
from simulator.api import Api, Fault

from .conftest import Finished, Stores, wait_until
from .factory import ACCOUNT, OTHER_ACCOUNT, ago, ids, spread

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]
ONCE = ("pipelines/run.py", "--once", "--json")


def test_wrong_settings_are_all_reported_and_nothing_is_touched(
    command: Command, environment: Mapping[str, str]
) -> None:
    """Exit 2, a hint for each, no folder made, no request sent."""
    done = command(*ONCE, CLOUDFLARE_API_TOKEN=None, CLOUDFLARE_PER_PAGE="0", POLL_INTERVAL_SECONDS="soon")

    assert done.code == 2
    for name in ("CLOUDFLARE_API_TOKEN", "CLOUDFLARE_PER_PAGE", "POLL_INTERVAL_SECONDS"):
        assert name in done.err
    assert not os.path.exists(environment["DATA_DIR"])  # noqa: PTH110


def test_a_wrong_token_names_the_permission_that_is_needed(command: Command) -> None:
    """Exit 1, one message, no trace, and the token is not in it."""
    done = command(*ONCE, CLOUDFLARE_API_TOKEN="wrong-token")

    assert done.code == 1
    assert "Account Settings: Read" in done.err
    assert "Traceback" not in done.err
    assert "wrong-token" not in done.err + done.out


@pytest.mark.parametrize("status", [403, 404, 429, 500])
def test_a_broken_account_does_not_hold_up_the_others(api: Api, command: Command, stores: Stores, status: int) -> None:
    """The others load, and the exit code says that one did not."""
    events = spread(10, ago(days=1), ago(minutes=1))
    api.world.add(OTHER_ACCOUNT, "v1", events)
    api.faults.append(Fault(account_id=ACCOUNT, times=None, status=status, headers={"Retry-After": "120"}))

    done = command(*ONCE, CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},{OTHER_ACCOUNT}")

    assert done.code == 1
    assert stores.ids() == (sorted(ids(events)),) * 2
    assert list(done.report["failed_accounts"]) == [f"audit_logs_v1_{ACCOUNT}"]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(times=None, status=429, headers={"Retry-After": "60"}), 75),
        (Fault(times=None, status=503), 75),
        (Fault(times=None, body="<html>"), 1),
        (Fault(times=None, body='{"success":false,"errors":[],"result":null}'), 1),
    ],
)
def test_an_api_that_fails_as_a_whole_is_told_by_the_exit_code(
    api: Api, command: Command, fault: Fault, code: int
) -> None:
    """75: try again later; 1: someone has to look."""
    api.faults.append(fault)

    done = command(*ONCE, CLOUDFLARE_MAX_RETRIES="0")

    assert done.code == code
    assert "Traceback" not in done.err


def test_a_clock_that_is_off_loads_nothing_and_says_so(api: Api, command: Command, stores: Stores) -> None:
    """Windows by a wrong clock would skip events."""
    api.world.add(ACCOUNT, "v1", spread(10, ago(hours=1), ago(minutes=1)))
    api.behaviour.clock_offset_seconds = 400

    done = command(*ONCE)

    assert done.code == 75
    assert "clock" in done.err
    assert stores.ids() == ([], [])


def test_a_dead_warehouse_does_not_hold_back_the_lake(api: Api, command: Command, stores: Stores) -> None:
    """Exit 75, one message; on its return it catches up unaided."""
    events = spread(30, ago(days=1), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)

    dead = command(*ONCE, PG_PORT="1")
    assert dead.code == 75
    assert stores.lake_table().num_rows == len(events)
    assert "Traceback" not in dead.err
    back = command(*ONCE)

    assert back.code == 0
    assert stores.ids() == (sorted(ids(events)),) * 2


def test_a_dead_lake_does_not_hold_back_the_warehouse(api: Api, command: Command, stores: Stores) -> None:
    """As above, the other way round."""
    events = spread(30, ago(days=1), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    dead_store = {"S3_ENDPOINT": "http://127.0.0.1:1", "S3_BUCKET": "lake", "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "b"}

    dead = command(*ONCE, **dead_store)

    assert dead.code == 75
    assert stores.ids()[0] == sorted(ids(events))
    assert "Traceback" not in dead.err


def test_a_wrong_password_is_told_in_one_message_without_it(command: Command) -> None:
    """The server's own words, and where to look."""
    done = command(*ONCE, PG_PASSWORD="wrong-secret")

    assert done.code == 75
    assert "password authentication failed" in done.err
    assert "wrong-secret" not in done.err + done.out


def test_a_second_runner_says_who_holds_the_lock(
    api: Api, environment: Mapping[str, str], command: Command, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One loop per destination: exit 75, for the same data folder and for another."""
    elsewhere = str(tmp_path_factory.mktemp("elsewhere"))
    loop = subprocess.Popen(
        [sys.executable, "pipelines/run.py"],
        env={**os.environ, **environment},
        cwd=PROJECT_ROOT,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(lambda: bool(api.requests))
        same_folder, other_folder = command(*ONCE), command(*ONCE, DATA_DIR=elsewhere)
    finally:
        loop.terminate()
        loop.communicate(timeout=30)

    assert (same_folder.code, other_folder.code, loop.returncode) == (75, 75, 0)
    assert "another process on this host loads the warehouse" in same_folder.err
    assert "another process loads this warehouse" in other_folder.err


def test_a_store_restored_from_a_backup_under_a_running_process_is_filled_again(
    api: Api, poll: Poll, stores: Stores, environment: Mapping[str, str]
) -> None:
    """What the process remembers of the destination goes with the destination's state."""
    early, late = spread(5, ago(hours=3), ago(hours=2)), spread(5, ago(minutes=50), ago(minutes=40))
    api.world.add(ACCOUNT, "v1", early)
    poll()
    backup = {name: stores.query(f"SELECT * FROM {{schema}}.{name}") for name in ("_dlt_loads", "_dlt_pipeline_state")}
    loop = subprocess.Popen(
        [sys.executable, "pipelines/run.py"],
        env={**os.environ, **environment, "POLL_INTERVAL_SECONDS": "0.2"},
        cwd=PROJECT_ROOT,
        stderr=subprocess.PIPE,
    )
    try:
        api.world.add(ACCOUNT, "v1", late)
        wait_until(lambda: len(stores.ids()[0]) == 10)
        _restore(stores, backup, early_ids=ids(early))
        newest = spread(2, ago(minutes=1), ago(seconds=30))
        api.world.add(ACCOUNT, "v1", newest)
        wait_until(lambda: len(stores.ids()[0]) == 12)
    finally:
        loop.terminate()
        loop.communicate(timeout=30)

    assert stores.ids() == (sorted(ids(early + late + newest)),) * 2


def _restore(stores: Stores, backup: Mapping[str, list[dict[str, object]]], early_ids: set[str]) -> None:
    """Puts the warehouse back to when it held the early events alone."""
    for table, rows in backup.items():
        column = "load_id" if table == "_dlt_loads" else "_dlt_load_id"
        kept = ", ".join(f"'{row[column]}'" for row in rows)
        stores.query(f"DELETE FROM {{schema}}.{table} WHERE {column} NOT IN ({kept})")
    kept = ", ".join(f"'{event_id}'" for event_id in early_ids)
    stores.query(f"DELETE FROM {{schema}}.audit_logs WHERE event_id NOT IN ({kept})")


def test_an_embedded_server_that_is_killed_under_the_loop_is_started_again(
    api: Api, environment: Mapping[str, str], server_dir: Path
) -> None:
    """The loop goes on where it was; nobody has to restart it."""
    folder = server_dir / "killed-under-the-loop"
    own = {name: value for name, value in environment.items() if not name.startswith("PG_")}
    loop = subprocess.Popen(
        [sys.executable, "pipelines/run.py"],
        env={**os.environ, **own, "DATA_DIR": str(folder), "POLL_INTERVAL_SECONDS": "0.2"},
        cwd=PROJECT_ROOT,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(lambda: len(api.requests) > 2)
        os.kill(int((folder / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        events = spread(5, ago(minutes=2), ago(minutes=1))
        api.world.add(ACCOUNT, "v1", events)
        wait_until(lambda: _held_in(folder / "postgres") == sorted(ids(events)))
    finally:
        loop.terminate()
        loop.communicate(timeout=60)

    assert loop.returncode == 0
    assert running_server(folder / "postgres") is None


def _held_in(folder: Path) -> list[str]:
    """The ids in an embedded warehouse; none while it is down."""
    server = running_server(folder)
    try:
        held = Stores(server, "public", folder).query("SELECT event_id FROM audit_logs ORDER BY 1") if server else []
    except adbc_driver_manager.Error:
        return []
    return [row["event_id"] for row in held]
