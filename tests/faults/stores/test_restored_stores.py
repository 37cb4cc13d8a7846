"""A store that is not as it was, or a working directory that is not: what counts is what the store says of itself."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished, wait_until
from pipelines.loop.report import Report
from pipelines.settings.settings import PostgresSettings
from pipelines.warehouse.embedded import BINARIES
from simulator.api import Api
from tests.factory import ACCOUNT, ago, ids, spread
from tests.faults.conftest import RunLoop
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]
ONCE = ("pipelines/run.py", "--once", "--json")


@pytest.fixture
def database(stores: Stores, environment: dict[str, str]) -> Stores:
    """A database of its own, with backups by pg_dump and pg_restore."""
    name = f"backup_{os.getpid()}_{stores.schema}"
    stores.query(f"CREATE DATABASE {name}")
    environment["PG_DATABASE"] = name
    server = stores.postgres
    return Stores(
        PostgresSettings(server.host, server.port, name, server.user, server.password), stores.schema, stores.lake
    )


def test_a_database_restored_between_two_runs_is_filled_again(
    api: Api, command: Command, database: Stores, tmp_path: Path
) -> None:
    """With the working directory kept: its newer state does not win over the database's."""
    early, late = spread(5, ago(hours=3), ago(hours=2)), spread(5, ago(minutes=50), ago(minutes=40))
    api.world.add(ACCOUNT, "v1", early)
    assert command(*ONCE).code == 0
    _back_up(database.postgres, tmp_path / "backup")
    api.world.add(ACCOUNT, "v1", late)
    assert command(*ONCE).code == 0
    _restore(database.postgres, tmp_path / "backup")
    assert database.warehouse_ids() == sorted(ids(early))

    again = command(*ONCE)

    assert again.report["new"] == {"warehouse": 5}
    assert database.ids() == (sorted(ids(early + late)),) * 2


def test_a_database_restored_under_a_running_process_is_filled_again(
    api: Api, running: RunLoop, database: Stores, tmp_path: Path
) -> None:
    """The process forgets what it remembers of a destination when the destination's state changes."""
    early, late = spread(5, ago(hours=3), ago(hours=2)), spread(5, ago(minutes=50), ago(minutes=40))
    api.world.add(ACCOUNT, "v1", early)
    with running(CLOUDFLARE_BACKOFF_MAX_SECONDS="0.5"):
        wait_until(lambda: database.warehouse_ids() == sorted(ids(early)))
        view = "SELECT coalesce(pg_get_viewdef(to_regclass('{schema}.audit_activity_hourly')), '') AS text"
        wait_until(lambda: "audit_hourly_counts" in database.query(view)[0]["text"])  # the last that is prepared
        _back_up(database.postgres, tmp_path / "backup")
        api.world.add(ACCOUNT, "v1", late)
        wait_until(lambda: database.warehouse_ids() == sorted(ids(early + late)))
        _restore(database.postgres, tmp_path / "backup")
        newest = spread(2, ago(minutes=1), ago(seconds=30))
        api.world.add(ACCOUNT, "v1", newest)
        wait_until(lambda: len(database.warehouse_ids()) == len(database.lake_ids()) == 12)

    assert database.ids() == (sorted(ids(early + late + newest)),) * 2


def test_a_lake_restored_from_a_backup_is_filled_again(api: Api, poll: Poll, stores: Stores, tmp_path: Path) -> None:
    """A folder copied back as a whole."""
    early, late = spread(5, ago(hours=3), ago(hours=2)), spread(5, ago(minutes=50), ago(minutes=40))
    api.world.add(ACCOUNT, "v1", early)
    poll()
    shutil.copytree(stores.lake, tmp_path / "backup")
    api.world.add(ACCOUNT, "v1", late)
    poll()
    shutil.rmtree(stores.lake)
    shutil.copytree(tmp_path / "backup", stores.lake)

    poll()

    assert stores.ids() == (sorted(ids(early + late)),) * 2


def test_one_object_that_was_deleted_comes_back_with_what_is_polled(api: Api, poll: Poll, stores: Stores) -> None:
    """The hours of the overlap; older ones are a repair's business."""
    events = spread(5, ago(minutes=10), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    poll()
    for path in stores.lake.rglob("*.parquet"):
        path.unlink()

    poll()

    assert stores.ids() == (sorted(ids(events)),) * 2


def _delete(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # the loop may be writing


def _truncate(folder: Path) -> None:
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        os.truncate(file, file.stat().st_size // 2)


def _fill_with_rubbish(folder: Path) -> None:
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        file.write_bytes(b'{"engine_version": 99, "_state_engine_version": 99}')


DAMAGES = [_delete, _truncate, _fill_with_rubbish]


@pytest.mark.parametrize("damage", DAMAGES, ids=["deleted", "truncated", "from another version"])
@pytest.mark.long
def test_a_damaged_working_directory_is_no_obstacle(
    api: Api, command: Command, stores: Stores, environment: Mapping[str, str], damage: Callable[[Path], None]
) -> None:
    """It is scratch."""
    early, late = spread(5, ago(hours=3), ago(hours=2)), spread(5, ago(minutes=50), ago(minutes=40))
    api.world.add(ACCOUNT, "v1", early)
    assert command(*ONCE).code == 0
    damage(Path(environment["DATA_DIR"]) / "dlt")
    api.world.add(ACCOUNT, "v1", late)

    done = command(*ONCE)

    assert done.code == 0, done.err
    assert stores.ids() == (sorted(ids(early + late)),) * 2


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(_delete, id="deleted"),
        pytest.param(_truncate, id="truncated", marks=pytest.mark.long),
        pytest.param(_fill_with_rubbish, id="from another version", marks=pytest.mark.long),
    ],
)
def test_a_working_directory_that_is_damaged_under_the_loop_is_no_obstacle(
    api: Api, running: RunLoop, stores: Stores, environment: Mapping[str, str], damage: Callable[[Path], None]
) -> None:
    """Nobody has to restart it."""
    events = spread(5, ago(hours=3), ago(hours=2))
    api.world.add(ACCOUNT, "v1", events)
    with running(CLOUDFLARE_BACKOFF_MAX_SECONDS="0.5"):
        wait_until(lambda: stores.ids() == (sorted(ids(events)),) * 2)
        damage(Path(environment["DATA_DIR"]) / "dlt")
        for _ in range(2):
            more = spread(2, ago(minutes=2), ago(minutes=1))
            api.world.add(ACCOUNT, "v1", more)
            events += more
        wait_until(lambda: stores.ids() == (sorted(ids(events)),) * 2)


def test_a_working_directory_that_cannot_be_written_is_told_and_loses_nothing(
    api: Api, command: Command, stores: Stores, environment: Mapping[str, str]
) -> None:
    """A file in its place stands for whatever is wrong with it: root may write what is read-only."""
    events = spread(5, ago(hours=3), ago(hours=2))
    api.world.add(ACCOUNT, "v1", events)
    pipelines = Path(environment["DATA_DIR"]) / "dlt" / "pipelines"
    pipelines.parent.mkdir(parents=True)
    pipelines.write_text("in the way")

    stuck = command(*ONCE)
    pipelines.unlink()
    done = command(*ONCE)

    assert stuck.code == 1
    assert "rights and space" in stuck.err
    assert "Traceback" not in stuck.err
    assert done.code == 0
    assert stores.ids() == (sorted(ids(events)),) * 2


def _back_up(server: PostgresSettings, file: Path) -> None:
    _run(server, "pg_dump", "-Fc", "-f", str(file))


def _restore(server: PostgresSettings, file: Path) -> None:
    _run(server, "pg_restore", "--clean", "--if-exists", "-d", server.database, str(file))


def _run(server: PostgresSettings, program: str, *arguments: str) -> None:
    login = {"PGHOST": server.host, "PGPORT": str(server.port), "PGUSER": server.user, "PGDATABASE": server.database}
    command = [str(BINARIES / program), *arguments]
    subprocess.run(command, env={**os.environ, **login, "PGPASSWORD": server.password}, check=True)
