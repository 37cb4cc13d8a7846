"""Nothing is assumed of `since` and `before` being inclusive: an event on an edge is found, whatever the lag."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from pipelines.loop.report import Report
from simulator.api import Api
from simulator.world import SimulatedEvent, World
from tests.factory import ACCOUNT, ago, event_at
from tests.rows import rows
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]


class ExclusiveWorld(World):
    """One whose `since` is exclusive."""

    def visible(
        self, account_id: str, version: str, since: datetime, before: datetime, now: datetime, *, hide_user_logs: bool
    ) -> list[SimulatedEvent]:
        """Returns the visible events of `(since, before)`: both edges are excluded."""
        shown = super().visible(account_id, version, since, before, now, hide_user_logs=hide_user_logs)
        return [event for event in shown if event.time > since]


@pytest.mark.wide
@pytest.mark.parametrize("world", [World, ExclusiveWorld], ids=["inclusive", "exclusive"])
@pytest.mark.parametrize("lag", rows("0", "900", long=["0.5"]))
def test_an_event_of_the_cursors_own_microsecond_is_found_by_the_next_poll(
    api: Api, poll: Poll, stores: Stores, world: type[World], lag: str
) -> None:
    """Without a sweep, and without a newer event."""
    settings = {"CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS": lag, "SWEEP_INTERVAL_SECONDS": "0"}
    api.world, time = world([ACCOUNT]), ago(minutes=5)
    api.world.add(ACCOUNT, "v1", [event_at(ago(hours=1), id="a"), event_at(time, id="b")])
    poll(**settings)
    api.world.add(ACCOUNT, "v1", [event_at(time, id="c")])

    report = poll(**settings)

    assert report.new == {"warehouse": 1, "lake": 1}
    assert stores.ids() == (["a", "b", "c"],) * 2


@pytest.mark.wide
@pytest.mark.parametrize("world", [World, ExclusiveWorld], ids=["inclusive", "exclusive"])
@pytest.mark.parametrize("lag", rows(timedelta(), timedelta(minutes=15), long=[timedelta(seconds=1)]))
def test_an_event_on_the_edge_between_sweep_and_poll_is_found(
    api: Api, poll: Poll, stores: Stores, world: type[World], lag: timedelta
) -> None:
    """Late by the lag to the microsecond, with no newer event that would move the edge."""
    settings = {
        "CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS": f"{lag.total_seconds():.0f}",
        "SWEEP_INTERVAL_SECONDS": "0.1",
    }
    api.world, cursor = world([ACCOUNT]), ago(hours=2)
    api.world.add(ACCOUNT, "v1", [event_at(ago(hours=9), id="a"), event_at(cursor, id="b")])
    poll(**settings)
    edges = [cursor - lag, cursor - max(lag, timedelta(seconds=1))]
    api.world.add(ACCOUNT, "v1", [event_at(edge, id=f"c{n}") for n, edge in enumerate(edges)])

    poll(**settings)

    assert stores.ids() == (["a", "b", "c0", "c1"],) * 2
