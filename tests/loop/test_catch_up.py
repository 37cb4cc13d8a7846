"""A long window is read in steps that always advance, and a stored cursor always wins."""

import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise

import pytest

from pipelines.fetch.reading import StepLimits, StreamReading
from pipelines.loop.report import Report
from simulator.api import Api, Fault
from sources.cloudflare_audit_logs.events import Page, decode_page
from sources.cloudflare_audit_logs.streams import Stream, Window
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, encoded, event_at, ids, raw_event, spread, v1_tree
from tests.rows import rows
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
SMALL = StepLimits(events=100)


@pytest.mark.parametrize("version", rows("v1", long=["v2"]))
def test_more_events_at_one_instant_than_a_step_carries(api: Api, poll: Poll, stores: Stores, version: str) -> None:
    """Reading goes on in memory from step to step, so one instant cannot hold it up."""
    instant = ago(hours=5)
    events = [event_at(instant, version=version) for _ in range(450)]
    api.world.add(ACCOUNT, version, events)

    report = poll(limits=SMALL, CLOUDFLARE_PER_PAGE="50", CLOUDFLARE_API_VERSION=version)

    assert report.loads["warehouse"] >= 4
    assert stores.ids() == (sorted(ids(events)), sorted(ids(events)))


def test_more_events_in_the_lag_window_than_a_step_carries(api: Api, poll: Poll, stores: Stores) -> None:
    """The lag applies once, at the start of a reading; a later poll through the same window finds only what is new."""
    first = spread(400, ago(minutes=14), ago(minutes=2))
    api.world.add(ACCOUNT, "v1", first)
    poll(limits=SMALL, CLOUDFLARE_PER_PAGE="100")
    late = spread(150, ago(minutes=12), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", late)

    report = poll(limits=SMALL, CLOUDFLARE_PER_PAGE="100")

    assert report.new == {"warehouse": 150, "lake": 150}
    assert stores.ids() == (sorted(ids(first + late)),) * 2


@pytest.mark.long
def test_a_stretch_that_holds_nothing_new_is_passed_and_its_cursor_committed(
    api: Api, poll: Poll, stores: Stores
) -> None:
    """Loaded by a backfill, say: nothing is written but the cursor, and the next poll starts from there."""
    events = spread(300, ago(days=3), ago(hours=1))
    api.world.add(ACCOUNT, "v1", events)
    poll()
    _forget_cursors(stores)
    objects = {path: path.stat().st_mtime_ns for path in stores.lake.rglob("*.parquet")}

    passed = poll(limits=SMALL, CLOUDFLARE_PER_PAGE="100")
    again = poll()

    assert passed.new == {"warehouse": 0, "lake": 0}
    assert {path: path.stat().st_mtime_ns for path in stores.lake.rglob("*.parquet")} == objects
    assert passed.loads["warehouse"] >= 1
    assert again.read < 10


def test_an_empty_month_takes_one_request(api: Api, poll: Poll, stores: Stores) -> None:
    """Steps are counted in events, not in time: where there are none, there is nothing to step through."""
    events = [event_at(ago(days=58)), event_at(ago(minutes=1))]
    api.world.add(ACCOUNT, "v1", events)

    poll(INITIAL_CHECKPOINT=f"{ago(days=60):%Y-%m-%d}")

    assert len(api.requests) == 1
    assert stores.ids() == (sorted(ids(events)),) * 2


def test_an_outage_of_45_days_is_caught_up(api: Api, poll: Poll, stores: Stores) -> None:
    """The default of 30 days is for the first start alone: the stored cursor wins."""
    before_outage = spread(10, ago(days=50), ago(days=46))
    api.world.add(ACCOUNT, "v1", before_outage)
    poll(INITIAL_CHECKPOINT=f"{ago(days=60):%Y-%m-%d}")
    meanwhile = spread(20, ago(days=45), ago(hours=1))
    api.world.add(ACCOUNT, "v1", meanwhile)

    poll()

    assert stores.ids() == (sorted(ids(before_outage + meanwhile)),) * 2


def test_an_account_without_events_keeps_the_begin_of_its_first_start(api: Api, poll: Poll, stores: Stores) -> None:
    """Otherwise an event of an outage would fall before the 30 days of the next start."""
    poll(INITIAL_CHECKPOINT=f"{ago(days=60):%Y-%m-%d}")
    event = event_at(ago(days=40))
    api.world.add(ACCOUNT, "v1", [event])

    poll()

    assert stores.ids() == (sorted(ids([event])),) * 2


def test_an_initial_checkpoint_later_than_the_cursor_skips_nothing(api: Api, poll: Poll, stores: Stores) -> None:
    """A stored cursor always wins over INITIAL_CHECKPOINT."""
    first = [event_at(ago(days=3))]
    api.world.add(ACCOUNT, "v1", first)
    poll()
    second = [event_at(ago(days=2))]
    api.world.add(ACCOUNT, "v1", second)

    poll(INITIAL_CHECKPOINT=ago(hours=1).isoformat())

    assert stores.ids() == (sorted(ids(first + second)),) * 2


def test_v2_switched_on_later_starts_from_its_own_beginning(api: Api, poll: Poll, stores: Stores) -> None:
    """Each version and account has a cursor of its own."""
    v1, v2 = spread(5, ago(days=20), ago(days=1)), spread(5, ago(days=25), ago(days=1), version="v2")
    api.world.add(ACCOUNT, "v1", v1)
    api.world.add(ACCOUNT, "v2", v2)
    poll()

    poll(CLOUDFLARE_API_VERSION="v1,v2")

    assert stores.ids() == (sorted(ids(v1 + v2)),) * 2


def test_an_account_removed_and_added_again_goes_on_where_it_stood(api: Api, poll: Poll, stores: Stores) -> None:
    """Its cursor stays in the destination while nobody asks for it."""
    both = f"{ACCOUNT},{OTHER_ACCOUNT}"
    early, missed = spread(5, ago(days=9), ago(days=8)), spread(5, ago(days=7), ago(days=6))
    api.world.add(OTHER_ACCOUNT, "v1", early)
    poll(CLOUDFLARE_ACCOUNT_ID=both, INITIAL_CHECKPOINT=ago(days=10).isoformat())
    api.world.add(OTHER_ACCOUNT, "v1", missed)
    poll(CLOUDFLARE_ACCOUNT_ID=ACCOUNT)

    poll(CLOUDFLARE_ACCOUNT_ID=both, INITIAL_CHECKPOINT=ago(hours=1).isoformat())

    assert stores.ids() == (sorted(ids(early + missed)),) * 2


@pytest.mark.parametrize("per_page", rows("30", long=["1000"]))
def test_newest_first_holds_the_same_events_as_oldest_first(
    api: Api, poll: Poll, stores: Stores, per_page: str
) -> None:
    """`desc` orders a window that fits one step, and gives way to `asc` for one that does not."""
    events = spread(350, ago(days=2), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)

    poll(limits=SMALL, CLOUDFLARE_DIRECTION="desc", CLOUDFLARE_PER_PAGE=per_page)
    more = spread(20, ago(minutes=10), ago(seconds=30))
    api.world.add(ACCOUNT, "v1", more)
    report = poll(limits=SMALL, CLOUDFLARE_DIRECTION="desc", CLOUDFLARE_PER_PAGE=per_page)

    assert report.new == {"warehouse": 20, "lake": 20}
    assert stores.ids() == (sorted(ids(events + more)),) * 2


def test_a_window_that_breaks_off_contributes_nothing_and_is_read_again(api: Api, poll: Poll, stores: Stores) -> None:
    """Half a window would move the cursor past what was not seen."""
    events = spread(90, ago(days=2), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    api.faults.append(_broken_page(3))

    broken = poll(CLOUDFLARE_PER_PAGE="30", CLOUDFLARE_MAX_RETRIES="0")
    assert broken.new == {}
    api.faults.clear()
    poll(CLOUDFLARE_PER_PAGE="30")

    assert stores.ids() == (sorted(ids(events)),) * 2


def test_a_server_that_caps_its_pages_is_read_to_the_end(api: Api, poll: Poll, stores: Stores) -> None:
    """100 events where 1,000 were asked for are not the last ones."""
    events = spread(330, ago(days=2), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    api.behaviour.page_cap = 100

    poll()

    assert stores.ids() == (sorted(ids(events)),) * 2


def test_an_event_dated_after_the_window_waits(api: Api, poll: Poll, stores: Stores) -> None:
    """It would move the cursor into the future, past what is still to be seen."""
    now = ago(minutes=1)
    ahead = v1_tree(when=f"{now + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}")
    api.world.add(ACCOUNT, "v1", [event_at(now), raw_event(encoded(ahead), time=now)])

    first = poll()
    api.world.add(ACCOUNT, "v1", [event_at(now - timedelta(minutes=5))])
    second = poll()

    assert (first.new, second.new) == ({"warehouse": 1, "lake": 1}, {"warehouse": 1, "lake": 1})
    assert ahead["id"] not in stores.ids()[0]


def _broken_page(page: int) -> Fault:
    return Fault(page=page, times=None, body="<html>gateway</html>")


def _forget_cursors(stores: Stores) -> None:
    for table in ("_dlt_loads", "_dlt_pipeline_state", "_dlt_version"):
        stores.query(f"DROP TABLE {{schema}}.{table}")
        shutil.rmtree(stores.lake / "cloudflare" / table)


@pytest.mark.parametrize("version", rows("v2", long=["v1"]))
def test_a_server_that_ignores_the_order_asked_for_loses_nothing(
    api: Api, poll: Poll, stores: Stores, version: str
) -> None:
    """The cursor then waits for the end of the window: what breaks off before is read again from its start."""
    events = spread(450, ago(days=2), ago(minutes=1), version=version)
    api.world.add(ACCOUNT, version, events)
    api.behaviour.ignores_direction = True
    api.faults.append(_broken_page(8))

    broken = poll(limits=SMALL, CLOUDFLARE_PER_PAGE="50", CLOUDFLARE_API_VERSION=version, CLOUDFLARE_MAX_RETRIES="0")
    api.faults.clear()
    poll(limits=SMALL, CLOUDFLARE_PER_PAGE="50", CLOUDFLARE_API_VERSION=version)

    assert 0 < broken.new["lake"] < len(events)
    assert stores.ids() == (sorted(ids(events)),) * 2


def test_a_long_window_moves_its_cursor_though_times_are_rounded() -> None:
    """An API that cuts fractions goes back by less than a second: a part is reached but for its last second."""
    begin = ago(hours=1).replace(microsecond=0)
    exact = [begin + timedelta(milliseconds=400 * number) for number in range(100)]
    cut = [time.replace(microsecond=0) if number % 7 == 0 else time for number, time in enumerate(exact)]
    raws = [event_at(time).raw for time in cut]
    stream = Stream(ACCOUNT, "v1")

    def fetch(*_: object) -> Iterator[Page]:
        for first in range(0, 100, 10):
            yield decode_page(raws[first : first + 10], stream, ago())

    parts = list(StreamReading(fetch, stream, Window(begin, ago()), limits=StepLimits(events=20)).parts())

    reached = [part.reached for part in parts]
    assert len(parts) > 1
    assert None not in reached
    assert all(part.reached <= max(cut) for part in parts if part.reached)
    for part, later in pairwise(parts):
        rest = [time for page in later.pages for time in page.keys["timestamp"].to_pylist()]
        assert part.reached is not None
        assert all(part.reached <= time for time in rest)
