"""An event that becomes visible late is found: within the lag by the next poll, within a day by the sweep."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.report import Report
from pipelines.sweep import SweepPlan
from simulator.api import Api
from sources.cloudflare_audit_logs.streams import Stream, Window
from tests.conftest import Stores, wait_until
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, event_at, ids, spread, time_of

from .conftest import RunLoop

Poll = Callable[..., Report]
SWEEPING = {"SWEEP_INTERVAL_SECONDS": "0.1"}


@pytest.mark.integration
@pytest.mark.parametrize("late_by", [pytest.param(timedelta(seconds=1), marks=pytest.mark.long), timedelta(minutes=7)])
def test_within_the_lag_the_next_poll_finds_it(api: Api, poll: Poll, stores: Stores, late_by: timedelta) -> None:
    """Without a sweep."""
    newest = event_at(ago(seconds=1))
    api.world.add(ACCOUNT, "v1", [event_at(ago(hours=5)), newest])
    poll(SWEEP_INTERVAL_SECONDS="0")
    late = event_at(newest.time - late_by)
    api.world.add(ACCOUNT, "v1", [late])

    report = poll(SWEEP_INTERVAL_SECONDS="0")

    assert report.new == {"warehouse": 1, "lake": 1}
    assert set(stores.lake_ids()) == set(stores.warehouse_ids()) >= ids([late])


@pytest.mark.integration
@pytest.mark.parametrize(
    "late_by",
    [timedelta(minutes=30), *(pytest.param(timedelta(hours=hours), marks=pytest.mark.long) for hours in (6, 23))],
)
@pytest.mark.parametrize("version", ["v1", pytest.param("v2", marks=pytest.mark.long)])
def test_within_the_sweeps_window_a_sweep_finds_it(
    api: Api, poll: Poll, stores: Stores, version: str, late_by: timedelta
) -> None:
    """And says so, without moving the cursor."""
    settings = {"CLOUDFLARE_API_VERSION": version}
    known = [*spread(50, ago(days=3), ago(hours=1), version=version), event_at(ago(seconds=1), version=version)]
    api.world.add(ACCOUNT, version, known)
    poll(**settings)
    late = event_at(ago() - late_by, version=version)
    api.world.add(ACCOUNT, version, [late])

    not_due = poll(**settings)
    report = poll(**settings, **SWEEPING)
    again = poll(**settings, **SWEEPING)

    assert (not_due.late, report.late, again.late) == ({}, {"warehouse": 1, "lake": 1}, {})
    assert report.new == {}
    assert stores.ids() == (sorted(ids([*known, late])),) * 2


@pytest.mark.long
@pytest.mark.integration
def test_later_than_that_it_is_left_to_a_reconciliation(api: Api, poll: Poll, stores: Stores) -> None:
    """Three days: no sweep reads that far back by default, but one that is told to does."""
    known = [*spread(50, ago(days=5), ago(hours=1)), event_at(ago(seconds=1))]
    api.world.add(ACCOUNT, "v1", known)
    poll()
    late = event_at(ago(days=3))
    api.world.add(ACCOUNT, "v1", [late])

    default, deep = poll(**SWEEPING), poll(**SWEEPING, SWEEP_WINDOW_HOURS="96")

    assert (default.late, deep.late) == ({}, {"warehouse": 1, "lake": 1})
    assert stores.ids() == (sorted(ids([*known, late])),) * 2


@pytest.mark.integration
def test_the_loop_sweeps_beside_its_polls(api: Api, running: RunLoop, stores: Stores) -> None:
    """A long sweep goes a step at a time, and what is new is loaded meanwhile."""
    known = [*spread(300, ago(hours=20), ago(hours=1)), event_at(ago(seconds=1))]
    api.world.add(ACCOUNT, "v1", known)
    with running(SWEEP_INTERVAL_SECONDS="1") as loop:
        wait_until(lambda: len(stores.lake_ids()) == len(known))
        late, fresh = event_at(ago(hours=5)), event_at(ago(seconds=1))
        api.world.add(ACCOUNT, "v1", [late, fresh])
        wait_until(lambda: stores.ids() == (sorted(ids([*known, late, fresh])),) * 2)
        assert "sweep.late" in loop.log


@pytest.mark.integration
def test_a_destination_that_was_down_is_swept_as_far_back_as_it_needs(api: Api, poll: Poll, stores: Stores) -> None:
    """A late event that the other destination's sweep has found meanwhile is not lost for it."""
    api.world.add(ACCOUNT, "v1", spread(10, ago(days=9), ago(days=3)))
    poll()
    late = event_at(ago(days=3, hours=2))
    api.world.add(ACCOUNT, "v1", [late, event_at(ago(minutes=1))])
    poll(PG_PORT="1", **SWEEPING)

    poll(**SWEEPING)

    assert stores.warehouse_ids() == stores.lake_ids()
    assert ids([late]) <= set(stores.warehouse_ids())


@pytest.mark.long
@pytest.mark.integration
def test_a_broken_account_does_not_stop_the_sweep_of_the_others(api: Api, poll: Poll, stores: Stores) -> None:
    """Nor is its own sweep taken for done."""
    both = {"CLOUDFLARE_ACCOUNT_ID": f"{ACCOUNT},{OTHER_ACCOUNT}"}
    for account in (ACCOUNT, OTHER_ACCOUNT):
        api.world.add(account, "v1", [*spread(5, ago(days=3), ago(hours=1)), event_at(ago(seconds=1))])
    poll(**both)
    late = {account: event_at(ago(hours=5)) for account in (ACCOUNT, OTHER_ACCOUNT)}
    for account, event in late.items():
        api.world.add(account, "v1", [event])
    api.world.account_ids.discard(ACCOUNT)
    broken = poll(**both, **SWEEPING)
    api.world.account_ids.add(ACCOUNT)

    mended = poll(**both, SWEEP_INTERVAL_SECONDS="3600")

    assert broken.late == {"warehouse": 1, "lake": 1}
    assert mended.late == {}
    assert poll(**both, **SWEEPING).late == {"warehouse": 1, "lake": 1}
    assert set(stores.lake_ids()) >= ids(list(late.values()))


STREAM = Stream(ACCOUNT, "v1")
NOON = time_of("2026-11-24T12:00:00Z")
HOUR = timedelta(hours=1)


def test_a_sweep_is_due_once_an_interval(tmp_path: Path) -> None:
    """At first, after an interval, and after a clock that has jumped back; never if it is off."""
    plan = SweepPlan(tmp_path, HOUR, timedelta(hours=24))
    polled = NOON - timedelta(minutes=20)

    assert plan.window("lake", STREAM, polled, NOON) == Window(polled - timedelta(hours=25), polled)
    plan.mark("lake", STREAM, NOON)
    assert plan.window("lake", STREAM, polled, NOON + timedelta(minutes=59)) is None
    assert plan.window("warehouse", STREAM, polled, NOON) is not None
    assert plan.window("lake", STREAM, polled, NOON + HOUR) is not None
    assert plan.window("lake", STREAM, polled, NOON - HOUR) is not None
    assert SweepPlan(tmp_path, timedelta(), HOUR).window("warehouse", STREAM, polled, NOON) is None


def test_a_sweep_after_a_pause_reaches_back_to_the_last_one(tmp_path: Path) -> None:
    """By the time of the last sweep, or by the destination's cursor where it stands further back: a restored backup."""
    plan = SweepPlan(tmp_path, HOUR, timedelta(hours=24))
    plan.mark("lake", STREAM, NOON - timedelta(days=3))

    after_pause = plan.window("lake", STREAM, NOON - timedelta(minutes=20), NOON)
    after_restore = plan.window("lake", STREAM, NOON - timedelta(days=9), NOON)

    assert after_pause is not None
    assert after_restore is not None
    assert after_pause.since == NOON - timedelta(days=3, hours=25)
    assert after_restore.since == NOON - timedelta(days=9, hours=25)
