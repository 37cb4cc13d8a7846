"""Each event is stored once, whatever dlt's environment and files say and however often it repeats a job."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished
from simulator.api import Api
from tests.factory import ACCOUNT, ago, event_at, ids, spread
from tests.rows import rows
from tests.stores import Stores

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]
ONCE = ("pipelines/run.py", "--once", "--json")

REPEATS = {"LOAD__RAISE_ON_MAX_RETRIES": "5", "DESTINATION__RAISE_ON_MAX_RETRIES": "5"}
HOSTILE = {
    **REPEATS,
    "AUTO_ABORT_ON_TERMINAL_ERROR": "true",
    "DATASET_NAME_LAYOUT": "other_%s",
    "DATA_WRITER__FILE_MAX_ITEMS": "7",
    "DEV_MODE": "true",
    "END_VALUE": "2026-01-01T00:00:00Z",
    "EXPORT_SCHEMA_PATH": "exported",
    "INITIAL_VALUE": "2030-01-01T00:00:00Z",
    "LAG": "1",
    "LOAD__RAISE_ON_FAILED_JOBS": "false",
    "LOAD__PARALLELISM_STRATEGY": "parallel",
    "LOAD__WORKERS": "7",
    "NAMING": "direct",
    "NORMALIZE__PARQUET_NORMALIZER__ADD_DLT_ID": "true",
    "NORMALIZE__PARQUET_NORMALIZER__ADD_DLT_LOAD_ID": "true",
    "NORMALIZE__WORKERS": "3",
    "ON_CURSOR_VALUE_MISSING": "exclude",
    "PIPELINES__CLOUDFLARE_AUDIT_LAKE__LOAD__RAISE_ON_FAILED_JOBS": "false",
    "REFRESH": "drop_sources",
    "RESTORE_FROM_DESTINATION": "false",
    "RUNTIME__INTERCEPT_SIGNALS": "true",
    "SCHEMA__NAMING": "direct",
    "SOURCES__CLOUDFLARE_AUDIT_LOGS__LAG": "0",
    "SOURCES__CLOUDFLARE_AUDIT_LOGS__MAX_TABLE_NESTING": "5",
    "USE_SINGLE_DATASET": "false",
}
"""Settings of dlt that would change where events go, which of them, or what becomes of a failure."""


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """A project folder for dlt that is not ours, whose files say the same."""
    folder = tmp_path / "elsewhere" / ".dlt"
    folder.mkdir(parents=True)
    names = {name.rpartition("__")[2].lower(): value for name, value in HOSTILE.items()}
    lines = "\n".join(f'{name} = "{value}"' for name, value in names.items())
    (folder / "config.toml").write_text(f"{lines}\n[load]\nraise_on_max_retries = 5\n")
    return {"DLT_PROJECT_DIR": str(folder.parent)}


@pytest.mark.wide
@pytest.mark.parametrize(
    "point",
    rows("before the warehouse's commit", "after an object", long=["in the warehouse's load", "before an object"]),
)
def test_a_job_that_failed_once_loads_the_same_events_when_it_is_repeated(
    api: Api, command: Command, stores: Stores, elsewhere: dict[str, str], point: str
) -> None:
    """A repeated load job writes all of a backlog that neither lag nor sweep would read again."""
    events = spread(300, ago(hours=60), ago(hours=40))
    api.world.add(ACCOUNT, "v1", events)

    command("-m", "tests.faults.dying", point, "1", "FAIL", "run", "--once", **REPEATS, **elsewhere)
    again = [command(*ONCE, **REPEATS, **elsewhere) for _ in range(2)]

    assert [one.code for one in again] == [0, 0], again[0].err
    assert stores.ids() == (sorted(ids(events)),) * 2


def test_settings_of_dlt_cannot_break_the_promise(
    api: Api, command: Command, stores: Stores, elsewhere: dict[str, str], environment: dict[str, str]
) -> None:
    """All of them at once: events, late ones and cursors are as without, and nothing lies anywhere else."""
    early = spread(50, ago(hours=60), ago(hours=30))
    api.world.add(ACCOUNT, "v1", early)
    assert command(*ONCE, **HOSTILE, **elsewhere).code == 0
    late = [event_at(early[-1].time.replace(microsecond=7)), event_at(ago(minutes=3))]
    api.world.add(ACCOUNT, "v1", late)
    shutil.rmtree(Path(environment["DATA_DIR"]) / "dlt")

    done = command(*ONCE, **HOSTILE, **elsewhere)

    assert done.code == 0, done.err
    assert stores.ids() == (sorted(ids(early + late)),) * 2
    since = {dict(request.params)["since"] for request in api.requests if request.version == "v1"}
    assert len(since) == 2, "the second run begins at its cursor, not where the first began"
    assert [folder.name for folder in stores.lake.iterdir() if folder.name[0] != "."] == ["cloudflare"]
    others = stores.query("SELECT nspname FROM pg_namespace WHERE nspname LIKE '%{schema}%' AND nspname <> '{schema}'")
    assert others == []
