"""`compact.py` copies the days that were compared complete, says why it leaves others out, and may be killed."""

import io
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.servers.commands import Finished
from benchmarks.servers.seaweed import Bucket
from pipelines.loop.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, OTHER_ACCOUNT, event_at
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]

COMPACT, RECONCILE = "pipelines/compact.py", "pipelines/reconcile.py"
DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=4)
WINDOW = ("--since", DAY.isoformat(), "--before", (DAY + timedelta(days=2)).isoformat())


@pytest.fixture(params=["folder", "bucket"])
def lake(request: pytest.FixtureRequest, environment: dict[str, str], tmp_path: Path) -> str:
    """Both kinds of lake."""
    if request.param == "bucket":
        bucket: Bucket = request.getfixturevalue("bucket")
        environment |= bucket.settings(f"compact/{tmp_path.name}")
    return str(request.param)


@pytest.fixture
def days(api: Api, poll: Poll) -> None:
    """Two days with an event each half hour, and one with a few that is not closed: `e0000` to `e0095`, `new`."""
    events = [event_at(DAY + timedelta(minutes=30 * number), id=f"e{number:04}") for number in range(96)]
    api.world.add(ACCOUNT, "v1", [*events, event_at(datetime.now(UTC) - timedelta(minutes=30), id="new")])
    poll()


def copies(stores: Stores) -> list[list[str]]:
    """The ids in each copy, in order."""
    bodies = stores.objects("audit_logs_days/", "events.parquet")
    return [pq.ParquetFile(io.BytesIO(body)).read(["event_id"])["event_id"].to_pylist() for body in bodies]


def ids(*numbers: range) -> list[list[str]]:
    """The ids of some of the events, day by day."""
    return [[f"e{number:04}" for number in of_day] for of_day in numbers]


@pytest.mark.usefixtures("lake", "days")
def test_days_that_were_compared_complete_get_a_copy_once(command: Command, stores: Stores) -> None:
    """The others are named with the reason; a second run finds the copies whole."""
    before = command(COMPACT, "--json")
    compared = command(RECONCILE, *WINDOW)
    first = command(COMPACT, "--json")
    written = stores.objects("audit_logs_days/")
    second = command(COMPACT, "--json")
    text = command(COMPACT)

    assert compared.code == 0, compared.err
    reasons = [(left["day"], left["reason"]) for left in before.report["left_out"]]
    assert reasons[:2] == [(f"{DAY + timedelta(days=n):%Y-%m-%d}", "it was not compared") for n in (0, 1)], before.err
    assert [reason for _, reason in reasons[2:]] == ["it is not closed yet: a sweep may still add to it"]
    assert (first.code, first.report["made"], first.report["events"]) == (0, 2, 96), first.err
    assert copies(stores) == ids(range(48), range(48, 96))
    assert (second.code, second.report["made"], second.report["whole"]) == (0, 0, 2), second.err
    assert stores.objects("audit_logs_days/") == written
    assert text.out.splitlines()[-1] == "0 copies made of 0 events, 2 were whole"
    assert "1 days left out" in text.out


@pytest.mark.usefixtures("lake", "days")
def test_without_a_warehouse_closed_days_are_taken_as_they_are(command: Command, stores: Stores) -> None:
    """For a lake that outlived its warehouse: neither a comparison nor a server is asked for. Only of the window."""
    refused = command(COMPACT, "--json", PG_PORT="1")
    done = command(COMPACT, "--without-warehouse", "--json", *WINDOW[:3], f"{DAY:%Y-%m-%dT23:00Z}", PG_PORT="1")

    assert (refused.code, refused.out) == (75, "")
    assert (done.code, done.report["made"], done.report["left_out"]) == (0, 1, []), done.err
    assert copies(stores) == ids(range(48))


@pytest.mark.usefixtures("days")
def test_a_day_with_a_gap_waits_for_its_repair(
    command: Command, stores: Stores, lake_object: Callable[..., None]
) -> None:
    """And a day whose hours were compared in part, for the rest."""
    lake_object(0, without="e0000")
    command(RECONCILE, *WINDOW)
    with_gap = command(COMPACT, "--json", *WINDOW)
    repaired = command(RECONCILE, *WINDOW, "--repair")
    done = command(COMPACT, "--json", *WINDOW)

    reasons = [left["reason"] for left in with_gap.report["left_out"]]
    assert reasons == ["1 of its hours had a gap when v1 was compared last"], with_gap.err
    assert with_gap.report["made"] == 1
    assert repaired.code == 0, repaired.err
    assert (done.code, done.report["made"], done.report["whole"]) == (0, 1, 1), done.err
    assert copies(stores) == ids(range(48), range(48, 96))


@pytest.mark.usefixtures("lake", "days")
def test_what_a_backfill_brings_makes_the_copy_anew(api: Api, command: Command, stores: Stores) -> None:
    """The next run finds that the copy is not its hours any more. It was made before the day was compared."""
    command(COMPACT, "--without-warehouse")
    api.world.add(ACCOUNT, "v1", [event_at(DAY + timedelta(hours=3, minutes=15), id="late")])

    filled = command("pipelines/backfill.py", *WINDOW)
    done = command(COMPACT, "--json")

    assert filled.code == 0, filled.err
    assert (done.code, done.report["made"], done.report["whole"]) == (0, 1, 1), done.err
    assert copies(stores)[0].count("late") == 1
    assert sorted(sum(copies(stores), ["new"])) == stores.lake_ids()


@pytest.mark.usefixtures("days")
def test_an_hour_that_is_broken_fails_its_day_alone(command: Command, stores: Stores) -> None:
    """It is named, with exit 1; a copy whose hours are gone is removed."""
    command(RECONCILE, *WINDOW)
    command(COMPACT)
    objects = sorted((stores.lake / "cloudflare/audit_logs").rglob("*.parquet"))
    objects[3].write_bytes(b"torn")
    for path in objects[24:48]:
        path.unlink()

    done = command(COMPACT, "--json")

    assert (done.code, done.report["removed"], done.report["made"]) == (1, 1, 0), done.err
    assert [broken["day"] for broken in done.report["broken"]] == [f"{DAY:%Y-%m-%d}"]
    assert "hour=03" in done.report["broken"][0]["reason"]
    assert copies(stores) == ids(range(48))


@pytest.mark.wide
@pytest.mark.parametrize("point", ["with a copy half written", "before a copy is in place", "after a copy"])
@pytest.mark.usefixtures("lake", "days")
def test_killed_anywhere_it_is_run_again(command: Command, stores: Stores, point: str) -> None:
    """The second run makes what the first did not, and no copy is ever half of one."""
    command(RECONCILE, *WINDOW)

    killed = command("-m", "tests.faults.dying", point, "1", "KILL", "compact", "--json")
    assert killed.code == -signal.SIGKILL, killed.err
    between = copies(stores)
    again = command(COMPACT, "--json")

    assert all(of_day in ids(range(48), range(48, 96)) for of_day in between)
    assert len(between) in ((1, 2) if point == "after a copy" else (0,)), "two threads make a copy each"
    assert (again.code, again.report["made"], again.report["whole"]) == (0, 2 - len(between), len(between)), again.err
    assert copies(stores) == ids(range(48), range(48, 96))


@pytest.mark.usefixtures("lake", "days")
def test_the_loop_and_dlt_leave_the_copies_alone(api: Api, poll: Poll, command: Command, stores: Stores) -> None:
    """They are no table of dlt's: a load, a new destination's start and a status neither touch nor count them."""
    command(RECONCILE, *WINDOW)
    command(COMPACT)
    written = stores.objects("audit_logs_days/")
    api.world.add(ACCOUNT, "v1", [event_at(datetime.now(UTC) - timedelta(minutes=20), id="newer")])

    poll(CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},{OTHER_ACCOUNT}")

    assert written
    assert stores.objects("audit_logs_days/") == written
    assert stores.lake_ids().count("newer") == 1
