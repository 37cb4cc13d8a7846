"""Clocks that are wrong, and events on the edge of a window, an hour, a day, a year: each is loaded once."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.servers.commands import Finished
from pipelines.loop.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, event_at, ids, spread, time_of
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]
ONCE = ("pipelines/run.py", "--once", "--json")


@pytest.mark.parametrize("minutes", [-10, pytest.param(10, marks=pytest.mark.long)])
def test_a_clock_that_is_10_minutes_off_loads_nothing_and_says_so(
    api: Api, command: Command, stores: Stores, minutes: int
) -> None:
    """Windows by a wrong clock would skip events. When it is set, all is loaded."""
    events = spread(10, ago(hours=1), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    api.behaviour.clock_offset_seconds = -60 * minutes

    off = command(*ONCE)
    api.behaviour.clock_offset_seconds = 0
    right = command(*ONCE)

    assert (off.code, off.report["new"]) == (75, {})
    assert "clock" in off.err
    assert right.code == 0
    assert stores.ids() == (sorted(ids(events)),) * 2


@pytest.mark.long
@pytest.mark.parametrize("jump", [timedelta(minutes=4), timedelta(minutes=-4)])
def test_a_clock_that_jumps_within_what_is_allowed_loses_nothing(
    api: Api, poll: Poll, stores: Stores, jump: timedelta
) -> None:
    """Ahead and back, or behind and on: windows overlap by more than that."""
    events = spread(20, ago(hours=1), ago(seconds=1))
    api.world.add(ACCOUNT, "v1", events)
    poll(ahead=jump)
    more = spread(10, ago(minutes=5), ago(seconds=1))
    api.world.add(ACCOUNT, "v1", more)

    poll()
    poll(ahead=-jump)
    poll()

    assert stores.ids() == (sorted(ids(events + more)),) * 2


@pytest.mark.parametrize("store", ["warehouse", "lake"])
def test_a_load_of_a_clock_that_was_ahead_is_waited_for(api: Api, poll: Poll, stores: Stores, store: str) -> None:
    """Dlt orders states by the clock of the host that loaded them, so a fast clock delays the next load."""
    events, more = spread(5, ago(hours=2), ago(hours=1)), spread(5, ago(minutes=9), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    poll()
    _move_newest_load(stores, store, datetime.now(UTC).timestamp() + 3_600)
    api.world.add(ACCOUNT, "v1", more)

    waiting = poll()
    _move_newest_load(stores, store, datetime.now(UTC).timestamp() - 1)  # an hour has passed
    poll()

    assert "ahead of this host's clock" in str(waiting.failures.destinations[store])
    assert stores.ids() == (sorted(ids(events + more)),) * 2


def _move_newest_load(stores: Stores, store: str, load_id: float) -> None:
    if store == "warehouse":
        stores.query(f"UPDATE {{schema}}._dlt_pipeline_state SET _dlt_load_id = '{load_id}'")
        stores.query(f"UPDATE {{schema}}._dlt_loads SET load_id = '{load_id}'")
        return
    for path in (stores.lake / "cloudflare" / "_dlt_pipeline_state").glob("*__*.jsonl"):
        name, old, digest = path.stem.rsplit("__", 2)
        path.write_text(path.read_text().replace(old, str(load_id)))
        path.rename(path.with_name(f"{name}__{load_id}__{digest}.jsonl"))


def test_a_state_in_the_future_closes_no_window(api: Api, poll: Poll, stores: Stores) -> None:
    """Left by a clock that nobody checked: the lag before now is read at every poll, and the sweep reads the rest."""
    first = event_at(ago(minutes=1))
    api.world.add(ACCOUNT, "v1", [first])
    api.behaviour.sends_date = False
    poll(ahead=timedelta(days=2))
    future = event_at(ago(minutes=1) + timedelta(days=1), visible_at=ago())
    api.world.add(ACCOUNT, "v1", [future])
    poll(ahead=timedelta(days=2))
    recent, older = event_at(ago(minutes=5)), event_at(ago(hours=3))
    api.world.add(ACCOUNT, "v1", [recent, older])

    poll(SWEEP_INTERVAL_SECONDS="0.1")

    assert stores.ids() == (sorted(ids([first, future, recent, older])),) * 2


@pytest.mark.long
@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/St_Johns", "Pacific/Kiritimati"])
def test_a_host_in_another_time_zone_holds_the_same(api: Api, command: Command, stores: Stores, zone: str) -> None:
    """Hours and days of the lake are UTC everywhere."""
    event = event_at(time_of("2026-10-31T23:59:59.999999Z"))
    api.world.add(ACCOUNT, "v1", [event])

    done = command(*ONCE, TZ=zone)

    assert done.code == 0
    assert stores.warehouse()[0]["timestamp"] == event.time
    assert [path.parent.parent.name for path in stores.lake.rglob("events.parquet")] == ["date=2026-10-31"]


@pytest.mark.parametrize(
    "edge",
    [
        pytest.param("2026-03-01T05:00:00Z", marks=pytest.mark.long),
        pytest.param("2026-03-02T00:00:00Z", marks=pytest.mark.long),
        "2026-01-01T00:00:00Z",
        "2024-02-29T00:00:00Z",
    ],
)
def test_events_on_an_edge_lie_on_its_right_side(api: Api, poll: Poll, stores: Stores, edge: str) -> None:
    """Events a microsecond before, at or after the edge of an hour, day or year go to their own partition."""
    at = time_of(edge)
    tick = timedelta(microseconds=1)
    events = [event_at(time) for time in (at - tick, at, at + tick)]
    api.world.add(ACCOUNT, "v1", events)

    poll(INITIAL_CHECKPOINT=(at - timedelta(days=1)).isoformat())
    poll()

    assert stores.ids() == (sorted(ids(events)),) * 2
    folders = sorted(path.parent.relative_to(stores.lake).as_posix() for path in stores.lake.rglob("events.parquet"))
    expected = {f"{time:date=%Y-%m-%d/hour=%H}" for time in (at - tick, at)}
    assert {folder.partition(f"account={ACCOUNT}/")[2] for folder in folders} == expected


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_events_on_the_edge_of_a_window_are_loaded_once(api: Api, poll: Poll, stores: Stores, version: str) -> None:
    """At the begin, at the cursor, at the cursor minus the lag."""
    newest = ago(minutes=30)
    begin = newest - timedelta(hours=2)
    settings = {"CLOUDFLARE_API_VERSION": version, "INITIAL_CHECKPOINT": begin.isoformat()}
    first = [event_at(time, version=version) for time in (begin, newest - timedelta(seconds=900), newest)]
    api.world.add(ACCOUNT, version, first)
    poll(**settings)
    again = [event_at(time, version=version) for time in (newest - timedelta(seconds=900), newest)]
    api.world.add(ACCOUNT, version, again)

    poll(**settings)

    assert stores.ids() == (sorted(ids(first + again)),) * 2


def test_duplicates_in_a_page_and_across_pages_and_windows_are_one_event(api: Api, poll: Poll, stores: Stores) -> None:
    """An event that comes repeatedly is stored once; the same id in another account is another event."""
    event, other = event_at(ago(minutes=3)), event_at(ago(minutes=2))
    api.world.add(ACCOUNT, "v1", [event, event, *spread(30, ago(minutes=4), ago(minutes=1)), event, other])
    api.world.add(OTHER_ACCOUNT, "v1", [event])
    settings = {"CLOUDFLARE_PER_PAGE": "7", "CLOUDFLARE_ACCOUNT_ID": f"{ACCOUNT},{OTHER_ACCOUNT}"}

    first = poll(**settings)
    api.world.add(ACCOUNT, "v1", [event, other])
    second = poll(**settings)

    assert first.new == {"warehouse": 33, "lake": 33}
    assert second.new == {}
    assert [len(held) for held in stores.ids()] == [33, 33]
