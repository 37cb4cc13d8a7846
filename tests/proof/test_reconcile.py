"""Missing, doubled, broken and changed events are named, hour by hour, and mended."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.servers.commands import Finished
from benchmarks.servers.seaweed import Bucket
from pipelines.bulk.reconcile_days import runs_of
from pipelines.lake.key_tallies import tallies_of
from pipelines.load.tally import Tally
from pipelines.loop.report import Report
from pipelines.warehouse.statements import sections_of
from simulator.api import Api
from sources.cloudflare_audit_logs.streams import Window
from tests.factory import ACCOUNT, OTHER_ACCOUNT, event_at, ids
from tests.stores import Stores

Poll = Callable[..., Report]
Command = Callable[..., Finished]

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
WINDOW = ("--since", DAY.isoformat(), "--before", (DAY + timedelta(days=2)).isoformat())
CHECKS = "SELECT * FROM {schema}.audit_completeness ORDER BY checked_at, account_id, hour"


@pytest.fixture
def day(api: Api, poll: Poll) -> list[Any]:
    """Forty-eight hours with two events each, in both stores: `e0000` to `e0095`."""
    events = [event_at(DAY + timedelta(minutes=30 * number), id=f"e{number:04}") for number in range(96)]
    api.world.add(ACCOUNT, "v1", events)
    poll()
    return events


def test_quiet_days_are_one_run_until_a_day_has_events() -> None:
    """Nor is a run longer than QUIET_DAYS; a window may begin and end within a day."""
    window = Window(DAY + timedelta(hours=5), DAY + timedelta(days=50, hours=3))

    runs = runs_of(list(window.parts(timedelta(days=1))), {DAY + timedelta(days=2)})

    assert [(run.window.since, run.window.before, run.are_quiet) for run in runs] == [
        (window.since, DAY + timedelta(days=2), True),
        (DAY + timedelta(days=2), DAY + timedelta(days=3), False),
        (DAY + timedelta(days=3), DAY + timedelta(days=34), True),
        (DAY + timedelta(days=34), window.before, True),
    ]


def _found(done: Finished) -> list[dict[str, Any]]:
    names = ("missing", "doubled", "differing")
    return [{name: gap[name] for name in names if gap[name]} for gap in done.report["gaps"]]


@pytest.mark.integration
@pytest.mark.usefixtures("day")
def test_where_nothing_is_missing_it_says_so(command: Command, stores: Stores, api: Api) -> None:
    """A complete window is reported, each hour's result is kept, and a day costs one request."""
    api.requests.clear()

    done = command("pipelines/reconcile.py", *WINDOW, "--json", "--content")

    assert (done.code, done.report["hours"], done.report["events"], done.report["gaps"]) == (0, 48, 96, []), done.err
    checks = stores.query(CHECKS)
    assert [check["hour"] for check in checks] == [DAY + timedelta(hours=hour) for hour in range(48)]
    assert {check["status"] for check in checks} == {"complete"}
    assert {(c["api_events"], c["warehouse_events"], c["lake_events"]) for c in checks} == {(2, 2, 2)}
    assert len(api.requests) == 2


@pytest.mark.integration
@pytest.mark.usefixtures("day")
@pytest.mark.parametrize("asks_api", [True, False], ids=["with the API", "without the API"])
def test_quiet_weeks_are_compared_whole_and_kept_by_the_hour(
    command: Command, stores: Stores, api: Api, *, asks_api: bool
) -> None:
    """The API is asked once for all of them; and an event that a store alone has of them is found, as ever."""
    since = DAY - timedelta(days=20)
    window = ("--since", since.isoformat(), *WINDOW[2:])
    options = ["--json", *([] if asks_api else ["--without-api"])]
    api.requests.clear()

    done = command("pipelines/reconcile.py", *window, *options)

    requests, checks = len(api.requests), stores.query(CHECKS)
    assert (done.code, done.report["hours"], done.report["events"]) == (0, 22 * 24, 96), done.err
    assert requests == (3 if asks_api else 0)
    assert sorted(check["hour"] for check in checks) == [since + timedelta(hours=hour) for hour in range(22 * 24)]
    assert {check["status"] for check in checks} == {"complete"}
    assert {check["api_events"] for check in checks if check["hour"] < DAY} == {0 if asks_api else None}
    stores.query(
        "INSERT INTO {schema}.audit_logs SELECT (jsonb_populate_record(a, jsonb_build_object('timestamp',"
        """ "timestamp" - interval '9 days'))).* FROM {schema}.audit_logs AS a WHERE event_id = 'e0000'"""
    )
    damaged = command("pipelines/reconcile.py", *window, *options)
    assert damaged.code == 3
    (gap,) = damaged.report["gaps"]
    assert (gap["hour"], gap["missing"]["lake"]) == ((DAY - timedelta(days=9)).isoformat(), ["e0000"])


@pytest.mark.integration
@pytest.mark.usefixtures("day")
@pytest.mark.parametrize("asks_api", [True, False], ids=["with the API", "without the API"])
def test_each_kind_of_damage_is_named_and_repaired(
    command: Command, stores: Stores, lake_object: Callable[..., None], day: list[Any], *, asks_api: bool
) -> None:
    """Rows deleted, an object deleted, one doubled, one corrupt, one event's text changed on either side."""
    options = ["--content", "--json", *([] if asks_api else ["--without-api"])]
    before = stores.warehouse(), stores.lake_events()
    stores.query("DELETE FROM {schema}.audit_logs WHERE event_id IN ('e0003', 'e0010')")
    objects = sorted((stores.lake / "cloudflare/audit_logs").rglob("*.parquet"))
    lake_object(10, doubled=True)
    objects[12].write_bytes(objects[12].read_bytes()[:-20])
    lake_object(14, texts={"e0029": ('"low"', '"none"')})
    objects[8].unlink()
    stores.query(
        "UPDATE {schema}.audit_logs SET raw_event = jsonb_set(raw_event, '{newValue}', '1'), actor_id = 'mallory'"
        " WHERE event_id = 'e0032'"
    )

    named = command("pipelines/reconcile.py", *WINDOW, *options)
    mended = command("pipelines/reconcile.py", *WINDOW, *options, "--repair")
    again = command("pipelines/reconcile.py", *WINDOW, *options)

    assert named.code == 3, named.err
    differing_in = {} if not asks_api else {"differing": {"lake": ["e0029"]}}
    assert _found(named) == [
        {"missing": {"warehouse": ["e0003"]}},
        {"missing": {"warehouse": ["e0010"]}},
        {"missing": {"lake": ["e0016", "e0017"]}},
        {"doubled": {"lake": ["e0020", "e0021"]}},
        {"missing": {"lake": ["e0024", "e0025"]}},
        # Without the API, the lake's text counts.
        differing_in or {"differing": {"warehouse": ["e0029"]}},
        {"differing": {"warehouse": ["e0032"]}},
    ]
    assert "hour=12/events.parquet is not Parquet of our columns" in named.report["gaps"][4]["broken"]
    assert mended.code == 0, mended.err
    assert f"reconcile.gap account={ACCOUNT} version=v1 hour=" in mended.err
    assert (again.code, again.report["gaps"]) == (0, []), again.err
    kept = list((stores.lake / "cloudflare/_broken").rglob("events.parquet-*"))
    assert len(kept) == 1
    assert stores.ids() == (sorted(ids(day)),) * 2
    if asks_api:
        drop = "ingestion_time"
        for now, then in zip((stores.warehouse(), stores.lake_events()), before, strict=True):
            assert [row | {drop: 0} for row in now] == [row | {drop: 0} for row in then]


@pytest.mark.long
@pytest.mark.integration
@pytest.mark.usefixtures("day")
def test_in_a_bucket_as_in_a_folder(
    environment: dict[str, str], bucket: Bucket, tmp_path: Path, poll: Poll, command: Command, stores: Stores
) -> None:
    """Objects are read in parts, and set aside, and written with a condition."""
    environment |= bucket.settings(f"reconcile/{tmp_path.name}")
    environment["PG_SCHEMA"] = stores.schema = stores.schema + "_b"
    poll()
    root = f"{environment['S3_PREFIX']}/cloudflare/audit_logs/account={ACCOUNT}/date={DAY:%Y-%m-%d}"
    bucket.client.delete_object(Bucket=bucket.name, Key=f"{root}/hour=03/events.parquet")
    bucket.client.put_object(Bucket=bucket.name, Key=f"{root}/hour=05/events.parquet", Body=b"")
    bucket.client.put_object(Bucket=bucket.name, Key=f"{root}/hour=07/events.parquet", Body=b"PAR1" * 50_000)

    named = command("pipelines/reconcile.py", *WINDOW, "--json")
    mended = command("pipelines/reconcile.py", *WINDOW, "--repair")
    again = command("pipelines/reconcile.py", *WINDOW, "--content")

    assert [gap["hour"][11:13] for gap in named.report["gaps"]] == ["03", "05", "07"]
    assert [bool(gap["broken"]) for gap in named.report["gaps"]] == [False, True, True]
    assert (named.code, mended.code, again.code) == (3, 0, 0), mended.err + again.err


@pytest.mark.integration
def test_what_the_api_has_forgotten_is_copied_from_store_to_store(
    api: Api, poll: Poll, command: Command, stores: Stores, lake_object: Callable[..., None]
) -> None:
    """It is no gap that the API lacks an event, but it is one that a store does."""
    api.world.add(ACCOUNT, "v1", [event_at(DAY + timedelta(minutes=n), id=f"e{n}") for n in range(4)])
    poll()
    api.world.forget(ACCOUNT, "v1")
    stores.query("DELETE FROM {schema}.audit_logs WHERE event_id = 'e1'")
    lake_object(without="e2")

    mended = command("pipelines/reconcile.py", *WINDOW, "--json", "--repair", "--content")
    text = command("pipelines/reconcile.py", *WINDOW)

    assert (mended.code, mended.report["gaps"], mended.report["not_in_api"]) == (0, [], 4), mended.err
    assert stores.ids() == (["e0", "e1", "e2", "e3"],) * 2
    assert (text.code, "4 events that the API does not show" in text.out) == (0, True)


@pytest.mark.integration
@pytest.mark.usefixtures("day")
def test_the_table_names_the_hours_that_differ_and_no_others(command: Command, stores: Stores) -> None:
    """For people."""
    stores.query("DELETE FROM {schema}.audit_logs WHERE event_id IN ('e0006', 'e0007')")

    done = command("pipelines/reconcile.py", *WINDOW)

    lines = done.out.strip().splitlines()
    assert done.code == 3
    counts = r"2 +0 +2 +2 missing in the warehouse"
    assert re.fullmatch(rf"{ACCOUNT} +v1 +{DAY:%Y-%m-%d} 03h +{counts}", lines[1])
    assert lines[2:] == ["48 hours, 96 events in API, warehouse, lake: 1 hour has a gap"]


@pytest.mark.integration
def test_the_loop_compares_closed_hours_by_itself_and_raises_its_voice(
    api: Api, poll: Poll, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    """The oldest first, for a quarter of the interval; what was compared at its age is not compared again."""
    begin = (DAY + timedelta(minutes=1)).isoformat()
    api.world.add(ACCOUNT, "v1", [event_at(DAY + timedelta(minutes=30 * n), id=f"e{n}") for n in range(2, 60)])
    poll(INITIAL_CHECKPOINT=begin)
    stores.query("DELETE FROM {schema}.audit_logs WHERE event_id IN ('e3', 'e20')")

    settings = {"RECONCILE_AFTER_HOURS": "24", "SWEEP_INTERVAL_SECONDS": "0", "POLL_INTERVAL_SECONDS": "0.1"}
    reports = [poll(**settings) for _ in range(3)]

    checks = stores.query(CHECKS)
    assert [check["hour"] for check in checks] == [DAY + timedelta(hours=hour) for hour in range(1, 19)]
    assert [report.gaps for report in reports] == [1, 1, 0]
    assert caplog.text.count("reconcile.gap") == 2
    assert {check["missing_in_warehouse"] for check in checks if check["status"] == "gap"} == {1}


@pytest.mark.integration
def test_a_gap_that_the_loop_finds_ends_once_with_3(api: Api, command: Command, stores: Stores) -> None:
    """So a timer's unit fails, and someone looks."""
    first = {"INITIAL_CHECKPOINT": (DAY - timedelta(minutes=1)).isoformat(), "SWEEP_INTERVAL_SECONDS": "0"}
    api.world.add(ACCOUNT, "v1", [event_at(DAY + timedelta(minutes=30 * n), id=f"e{n}") for n in range(4)])
    command("pipelines/run.py", "--once", **first)
    stores.query("DELETE FROM {schema}.audit_logs WHERE event_id = 'e1'")

    done = command("pipelines/run.py", "--once", "--json", RECONCILE_AFTER_HOURS="24,48", **first)

    assert (done.code, done.report["gaps"]) == (3, 1), done.err
    assert "reconcile.gap" in done.err
    assert "--repair" in done.err


@pytest.mark.wide
@pytest.mark.integration
@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--since", "2024-01-01", "--before", "2026-11-01"], 2, "is beyond what the API keeps"),
        ([*WINDOW, "--account", OTHER_ACCOUNT], 2, f"unknown account {OTHER_ACCOUNT}"),
        (["--since", DAY.isoformat(), "--before", "2999-01-01T00:00:00Z"], 0, "is not settled yet"),
        (["--since", DAY.isoformat(), "--before", DAY.isoformat()], 2, "has to be before"),
    ],
)
def test_wrong_input_is_told(poll: Poll, command: Command, options: list[str], code: int, said: str) -> None:
    """One message."""
    poll()

    done = command("pipelines/reconcile.py", *options)

    assert done.code == code, done.err
    assert said in done.err
    assert "Traceback" not in done.err


@pytest.mark.integration
@pytest.mark.usefixtures("day")
def test_postgresql_and_duckdb_tally_alike(stores: Stores) -> None:
    """The same function, written twice."""
    sql = sections_of("completeness.sql", schema=stores.schema, columns="*", is_nowhere_else="true")["tallies"][0]
    for name, value in {"$1": ACCOUNT, "$2": "v1", "$3": "2000-01-01", "$4": "2999-01-01"}.items():
        sql = sql.replace(name, f"'{value}'")
    keys = stores.query('SELECT event_id, "timestamp" FROM {schema}.audit_logs')

    assert dict(map(Tally.of_row, stores.query(sql))) == tallies_of(pa.Table.from_pylist(keys))
