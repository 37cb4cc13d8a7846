"""A stream's position follows from all shards that ever loaded it: it is inherited, verified and stored anew."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

from pipelines.fetch.reading import Part, Step
from pipelines.lake.destination import Lake
from pipelines.load.loader import Loader
from pipelines.load.spool import Spool
from pipelines.settings.settings import PROJECT_ROOT, read_environment, read_store_settings
from pipelines.settings.shards import WHOLE, Shard
from pipelines.warehouse.destination import Warehouse
from simulator.world import SimulatedEvent
from sources.cloudflare_audit_logs import Position
from sources.cloudflare_audit_logs.errors import TemporaryError
from sources.cloudflare_audit_logs.events import decode_page
from sources.cloudflare_audit_logs.streams import Stream, Window
from tests.factory import ACCOUNT, ago, event_at
from tests.stores import Stores

pytestmark = pytest.mark.integration

STREAM = Stream(ACCOUNT, "v1")
BEGIN = ago(days=30)
LAG = timedelta(seconds=60)
Open = Callable[[str, Shard], Loader]


@pytest.fixture
def destination(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Open]:
    """One of the two, as a loop of that shard opens it."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    Container()[PluggableRunContext].reload(str(PROJECT_ROOT))
    settings = read_store_settings(read_environment())
    opened = list[Loader]()

    spool = Spool(tmp_path)

    def open_destination(name: str, shard: Shard) -> Loader:
        store = Lake(shard) if name == "lake" else Warehouse.of(settings, shard=shard, on_others=lambda _: None)
        opened.append(Loader(store, spool, pipelines_dir=tmp_path / "pipelines", lag=lambda _: LAG))
        opened[-1].open()
        return opened[-1]

    yield open_destination
    for destination in opened:
        destination.close()


def step(since: datetime, before: datetime, *events: SimulatedEvent) -> Step:
    """A window that was read whole."""
    page = decode_page([event.raw for event in events], STREAM, before)
    reached = max((event.time for event in events), default=None)
    return Step({STREAM: Part(Window(since, before), [page], reached, is_last=True)}, is_last=True)


@pytest.mark.parametrize("name", ["warehouse", "lake"])
def test_a_hole_between_what_shards_hold_is_read_again_and_closed(destination: Open, name: str) -> None:
    """Two shards that knew nothing of each other leave a hole: it is read again, and no position shows it any more."""
    times = [ago(days=days) for days in (25, 20, 10, 5)]
    first, second = destination(name, WHOLE), destination(name, Shard(1, 2))
    first.load(step(BEGIN, times[1], event_at(times[0])))
    second.load(step(times[1], ago(days=8), event_at(times[2])))
    first.close()
    second.close()
    third = destination(name, Shard(1, 2))
    held = third.position(STREAM)
    third.load(step(times[0] - LAG, ago(days=1), event_at(times[3])))
    third.close()

    assert held == Position(BEGIN, times[0])
    assert third.position(STREAM) == Position(BEGIN, times[3])
    assert destination(name, WHOLE).position(STREAM) == Position(BEGIN, times[3])


@pytest.mark.parametrize("name", ["warehouse", "lake"])
def test_what_is_inherited_is_verified_before_it_is_stored(destination: Open, stores: Stores, name: str) -> None:
    """A backup restored between the opening and the first load of a shard takes away what the others had."""
    times = [ago(days=days) for days in (25, 20, 10)]
    whole = destination(name, WHOLE)
    whole.load(step(BEGIN, ago(days=24), event_at(times[0])))
    whole.load(step(times[0] - LAG, ago(days=19), event_at(times[1])))
    shard = destination(name, Shard(1, 2))
    assert shard.position(STREAM) == Position(BEGIN, times[1])
    forget_the_newest_state(stores, name)

    with pytest.raises(TemporaryError, match="not as it was last seen"):
        shard.load(step(times[1] - LAG, ago(days=9), event_at(times[2])))

    shard.close()
    shard.open()
    assert shard.position(STREAM) == Position(BEGIN, times[0])


@pytest.mark.parametrize("name", ["warehouse", "lake"])
def test_what_is_inherited_is_stored_by_a_poll_that_finds_nothing(destination: Open, stores: Stores, name: str) -> None:
    """From then on the shard's own state says it all."""
    newest_time = ago(days=20)
    whole = destination(name, WHOLE)
    whole.load(step(BEGIN, ago(days=19), event_at(newest_time)))
    shard = destination(name, Shard(1, 2))
    shard.load(step(newest_time - LAG, ago(days=9)))
    shard.close()
    forget_the_state_of_the_whole(stores, name)

    shard.open()

    assert shard.position(STREAM) == Position(BEGIN, newest_time)


def forget_the_state_of_the_whole(stores: Stores, name: str) -> None:
    """Removes the state of the whole, as if there had been none."""
    for file in (stores.lake / "cloudflare" / "_dlt_pipeline_state").glob("cloudflare_audit_lake__*"):
        file.unlink()
    if name == "warehouse":
        whole = "pipeline_name = 'cloudflare_audit_warehouse'"
        stores.query(f"DELETE FROM {{schema}}._dlt_pipeline_state WHERE {whole}")


def forget_the_newest_state(stores: Stores, name: str) -> None:
    """Removes the newest state, as restoring an older backup does."""
    if name == "lake":
        max((stores.lake / "cloudflare" / "_dlt_pipeline_state").glob("*.jsonl")).unlink()
    else:
        newest = "(SELECT max(_dlt_load_id) FROM {schema}._dlt_pipeline_state)"
        stores.query(f"DELETE FROM {{schema}}._dlt_pipeline_state WHERE _dlt_load_id = {newest}")
