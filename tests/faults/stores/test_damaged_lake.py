"""A lake whose dlt files are damaged is loaded all the same, and holds each event once in the end."""

import shutil
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.lake.partitions import Partition
from pipelines.loop.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, ago, event_at, ids, spread
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]


@pytest.mark.wide
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("", id="empty", marks=pytest.mark.long),
        pytest.param("{torn", id="torn"),
        pytest.param("{}", id="of another shape", marks=pytest.mark.long),
        pytest.param(None, id="missing", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("damaged", ["init", "_dlt_pipeline_state/*", "_dlt_version/*", "_dlt_loads/*"])
def test_a_damaged_file_of_dlt_is_no_obstacle(
    api: Api, poll: Poll, stores: Stores, damaged: str, damage: str | None
) -> None:
    """A file that cannot be read is skipped or made anew, and nothing is lost for it."""
    early, late = spread(6, ago(days=2), ago(days=1)), spread(3, ago(hours=2), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", early)
    poll()
    for file in (stores.lake / "cloudflare").glob(damaged):
        file.unlink() if damage is None else file.write_text(damage)
    api.world.add(ACCOUNT, "v1", late)

    report = poll()

    assert not report.failures.destinations
    assert stores.ids() == (sorted(ids(early + late)),) * 2


def test_the_newest_state_that_can_be_read_is_taken(api: Api, poll: Poll, stores: Stores) -> None:
    """The events since are read again, and found to be there."""
    early, late = spread(6, ago(days=2), ago(days=1)), spread(3, ago(hours=2), ago(hours=1))
    api.world.add(ACCOUNT, "v1", early)
    poll()
    api.world.add(ACCOUNT, "v1", late)
    poll()
    newest = max((stores.lake / "cloudflare" / "_dlt_pipeline_state").iterdir())
    newest.write_text("{torn")

    report = poll(SWEEP_INTERVAL_SECONDS="0")

    assert report.new["lake"] == 0
    assert report.read < len(early + late) + 3
    assert stores.ids() == (sorted(ids(early + late)),) * 2


@pytest.mark.parametrize("what", ["everything", "the events"])
def test_a_lake_that_was_emptied_is_filled_again_with_what_is_polled(
    api: Api, poll: Poll, stores: Stores, what: str
) -> None:
    """Without its cursor from the beginning, with it from the overlap on: older hours are for a repair."""
    old, recent = spread(5, ago(days=2), ago(days=1)), spread(5, ago(minutes=10), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", old + recent)
    poll()
    shutil.rmtree(stores.lake / "cloudflare" / ("" if what == "everything" else "audit_logs"))

    poll()

    expected = old + recent if what == "everything" else recent
    assert stores.ids() == (sorted(ids(old + recent)), sorted(ids(expected)))


def test_a_foreign_object_stops_its_hour_alone_and_is_named(api: Api, poll: Poll, stores: Stores) -> None:
    """The warehouse goes on, and so does the lake once it has been moved away."""
    event = event_at(ago(minutes=30))
    path = stores.lake / "cloudflare" / Partition(ACCOUNT, event.time.replace(minute=0, second=0, microsecond=0)).path
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"id": [1]}), path)
    api.world.add(ACCOUNT, "v1", [event])

    report = poll()
    path.unlink()
    poll()

    assert "hour=" in str(report.failures.destinations["lake"])
    assert "--repair" in str(report.failures.destinations["lake"])
    assert report.new["warehouse"] == 1
    assert stores.ids() == (sorted(ids([event])),) * 2
