"""A lake with sealed hours: loaded, compared and sealed by the loop itself."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

from benchmarks.servers.commands import Finished
from pipelines.settings.settings import PROJECT_ROOT, PostgresSettings, read_environment, read_store_settings
from pipelines.warehouse.destination import open_warehouse
from pipelines.warehouse.seals import SealRows, seal_rows
from simulator.api import Api
from tests.factory import ACCOUNT, event_at
from tests.stores import drop_schemas

from .made_lake import BEGIN as BEGIN_OF_MADE
from .made_lake import MadeLake
from .sealed_lake import SealedLake

BEGIN = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=12)
HOURS = 6
"""With two events each; the hours after them are empty."""


@pytest.fixture
def key_file(environment: dict[str, str], tmp_path: Path) -> Path:
    """The key's file, outside the lake; the settings name it."""
    file = tmp_path / "keys" / "seal.key"
    environment |= {
        "SEAL_KEY_FILE": str(file),
        "SEAL_ORIGIN": "audit.example.com/lake",
        "INITIAL_CHECKPOINT": BEGIN.isoformat(),
    }
    return file


@pytest.fixture
def unsealed_lake(
    api: Api, environment: dict[str, str], key_file: Path, command: Callable[..., Finished]
) -> SealedLake:
    """Six hours with events and some without, to be loaded and sealed."""
    events = [event_at(BEGIN + timedelta(minutes=10 + 30 * n), id=f"e{n:04}") for n in range(2 * HOURS)]
    api.world.add(ACCOUNT, "v1", events)
    return SealedLake(Path(environment["DATA_DIR"]) / "lake", key_file, command)


@pytest.fixture
def sealed_lake(unsealed_lake: SealedLake) -> SealedLake:
    """The same, loaded and sealed."""
    unsealed_lake.init()
    unsealed_lake.run()
    return unsealed_lake


@pytest.fixture
def window() -> list[str]:
    """The hours with events, as options of a command."""
    return ["--since", BEGIN.isoformat(), "--before", (BEGIN + timedelta(hours=HOURS)).isoformat()]


@pytest.fixture(scope="module")
def rows(postgres: PostgresSettings) -> Iterator[SealRows]:
    """The table of copied seals, in a real warehouse."""
    schema = f"seals_{os.getpid()}"
    set_in_environment = pytest.MonkeyPatch()
    environment = {"PG_HOST": postgres.host, "PG_PORT": str(postgres.port), "PG_PASSWORD": postgres.password}
    for name, value in {**environment, "PG_SCHEMA": schema}.items():
        set_in_environment.setenv(name, value)
    Container()[PluggableRunContext].reload(str(PROJECT_ROOT))
    stores = read_store_settings(read_environment())
    with open_warehouse(stores, takes_lock=False) as (warehouse, client), seal_rows(warehouse, client) as rows:
        yield rows
    set_in_environment.undo()
    drop_schemas(postgres, schema)


@pytest.fixture
def made(rows: SealRows, tmp_path: Path, postgres: PostgresSettings) -> MadeLake:
    """A lake of seven closed hours, of which the first five have two events each, sealed."""
    lake = MadeLake(tmp_path / "made", rows)
    server = {"host": postgres.host, "port": postgres.port, "user": postgres.user, "password": postgres.password}
    lake.dsn = " ".join(f"{name}={value}" for name, value in server.items()) + f" dbname={postgres.database}"
    lake.init()
    for hour in range(5):
        lake.add(hour, f"a{hour}", f"b{hour}", seen=BEGIN_OF_MADE + timedelta(hours=hour))
    lake.seal()
    return lake
