"""An event that becomes visible late is found: within the lag by the next poll, within a day by the sweep."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.servers.commands import wait_until
from pipelines.loop.report import Report
from pipelines.loop.sweep import SweepPlan
from simulator.api import Api
from sources.cloudflare_audit_logs.streams import Stream, Window
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, event_at, ids, spread, time_of
from tests.faults.conftest import RunLoop
from tests.stores import Stores

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
    """A sweep loads a late event of its window and reports it, without moving the cursor."""
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
    """An event three days late is loaded only if `SWEEP_WINDOW_HOURS` reaches that far."""
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


@pytest.mark.integration
@pytest.mark.parametrize("lost", [pytest.param("nothing", marks=pytest.mark.long), "the host"])
def test_after_an_outage_the_sweep_reaches_back_behind_it(
    api: Api, poll: Poll, stores: Stores, environment: dict[str, str], lost: str
) -> None:
    """It finds what became visible in an outage longer than its window; on a new host, too."""
    before = [*spread(10, ago(days=9), ago(hours=32)), event_at(ago(hours=31))]
    api.world.add(ACCOUNT, "v1", before)
    outage = timedelta(hours=31)
    api.clock = lambda: datetime.now(UTC) - outage
    poll(ahead=-outage, INITIAL_CHECKPOINT=ago(days=10).isoformat())
    api.clock = lambda: datetime.now(UTC)
    late, new = event_at(ago(hours=32)), event_at(ago(minutes=1))
    api.world.add(ACCOUNT, "v1", [late, new])
    if lost == "the host":
        shutil.rmtree(Path(environment["DATA_DIR"]) / "sweeps")

    report = poll()

    assert report.late == {"warehouse": 1, "lake": 1}
    assert stores.ids() == (sorted(ids([*before, late, new])),) * 2


@pytest.mark.long
@pytest.mark.integration
def test_a_broken_account_does_not_stop_the_sweep_of_the_others(api: Api, poll: Poll, stores: Stores) -> None:
    """The broken account's own sweep stays due."""
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

    assert plan.window("lake", STREAM, polled, NOON) == Window(NOON - timedelta(hours=25), polled)
    plan.mark("lake", STREAM, NOON, NOON)
    assert plan.window("lake", STREAM, polled, NOON + timedelta(minutes=59)) is None
    assert plan.window("warehouse", STREAM, polled, NOON) is not None
    assert plan.window("lake", STREAM, polled, NOON + HOUR) is not None
    assert plan.window("lake", STREAM, polled, NOON - HOUR) == Window(NOON - timedelta(hours=26), polled)
    assert SweepPlan(tmp_path, timedelta(), HOUR).window("warehouse", STREAM, polled, NOON) is None


@pytest.mark.parametrize(
    ("mark", "cursor", "since"),
    [
        pytest.param((-72, -73), -73, -72 - 25, id="after a pause"),
        pytest.param(None, -10, -10 - 25, id="on a new host"),
        pytest.param((-1, -2), -10, -10 - 25, id="after a restored backup"),
        pytest.param((-2, -50), -50, -2 - 25, id="while nothing happens"),
    ],
)
def test_a_sweep_reaches_back_to_when_all_was_known(
    tmp_path: Path, mark: tuple[int, int] | None, cursor: int, since: int
) -> None:
    """To the last one; or to the cursor, as it was before the poll, where there was none that this store has seen."""
    plan = SweepPlan(tmp_path, HOUR, timedelta(hours=24))
    if mark:
        plan.mark("lake", STREAM, NOON + mark[0] * HOUR, NOON + mark[1] * HOUR)

    plan.note("lake", STREAM, NOON + cursor * HOUR)
    plan.note("lake", STREAM, NOON)  # a poll has moved it
    window = SweepPlan(tmp_path, HOUR, timedelta(hours=24)).window("lake", STREAM, NOON, NOON)

    assert window == Window(NOON + since * HOUR, NOON)


def test_a_mark_that_cannot_be_kept_costs_a_sweep_alone(tmp_path: Path) -> None:
    """In this process it counts all the same."""
    (tmp_path / "sweeps").write_text("in the way")
    plan = SweepPlan(tmp_path / "sweeps", HOUR, timedelta(hours=24))

    plan.mark("lake", STREAM, NOON, NOON)

    assert plan.window("lake", STREAM, NOON, NOON) is None
    assert SweepPlan(tmp_path / "sweeps", HOUR, HOUR).window("lake", STREAM, NOON, NOON) is not None


@pytest.mark.integration
def test_a_poll_that_takes_long_does_not_skip_the_only_sweep(
    api: Api, poll: Poll, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep goes on without accounts that are slow; with `--once` no next poll calls them to another one."""
    known = [*spread(50, ago(hours=5), ago(hours=1)), *spread(30, ago(minutes=9), ago(seconds=1))]
    api.world.add(ACCOUNT, "v1", known)
    poll()
    late = event_at(ago(minutes=30))
    api.world.add(ACCOUNT, "v1", [late, *spread(10, ago(seconds=1), ago())])
    monkeypatch.setattr("pipelines.loop.schedule.PATIENCE_SECONDS", 0.1)
    api.behaviour.latency_seconds = 0.3

    poll(CLOUDFLARE_PER_PAGE="10", **SWEEPING)

    assert ids([late]) <= set(stores.warehouse_ids()) & set(stores.lake_ids())
