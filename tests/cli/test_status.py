"""The status says what is in the stores, measures only what can be measured, and costs no more as the history grows."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from benchmarks.events import insert_events
from benchmarks.servers.commands import Finished
from benchmarks.servers.seaweed import S3_KEYS, Bucket
from pipelines.cli.status_text import duration, status_text
from pipelines.loop.report import Report
from pipelines.settings.settings import PROJECT_ROOT
from pipelines.warehouse.measured_lag import MeasuredLag, is_too_short, recommended_seconds
from pipelines.warehouse.statements import sections_of
from simulator.api import Api
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, event_at, raw_event, spread, time_of
from tests.stores import Stores

Command = Callable[..., Finished]
Poll = Callable[..., Report]
STATUS = "pipelines/status.py"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_numbers = count(1)


def _add(stores: Stores, *events: tuple[datetime, datetime]) -> None:
    """Events of the warehouse by their time and by when they were loaded."""
    rows = ", ".join(
        f"('added-{next(_numbers)}', '{time}'::timestamptz, '{ACCOUNT}', 'v1', '{{}}'::jsonb, '{seen}'::timestamptz)"
        for time, seen in events
    )
    columns = 'event_id, "timestamp", account_id, api_version, raw_event, ingestion_time'
    stores.query(f"INSERT INTO {{schema}}.audit_logs ({columns}) VALUES {rows}")


def _stream(done: Finished, store: str = "warehouse") -> Mapping[str, Any]:
    stream: Mapping[str, Any] = done.report[store]["streams"][0]
    return stream


@pytest.mark.integration
@pytest.mark.parametrize("lake", ["folder", "bucket"])
def test_it_says_what_is_in_the_stores(
    request: pytest.FixtureRequest,
    api: Api,
    command: Command,
    poll: Poll,
    stores: Stores,
    environment: dict[str, str],
    lake: str,
) -> None:
    """Cursors of both stores, today's events, gaps, quarantine, sizes, the last load."""
    if lake == "bucket":
        bucket: Bucket = request.getfixturevalue("bucket")
        environment.update(bucket.settings(prefix=stores.schema))
    events = spread(30, ago(hours=50), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", [*events, raw_event('"no event"', time=ago(minutes=2))])
    api.world.add(OTHER_ACCOUNT, "v1", [newest := event_at(ago(seconds=30))])
    begin = datetime.now(UTC)
    environment["CLOUDFLARE_ACCOUNT_ID"] = f"{ACCOUNT},{OTHER_ACCOUNT}"
    poll()
    for hour, checked, found in ((3, 2, "gap"), (3, 1, "complete"), (4, 2, "complete"), (4, 1, "gap")):
        times = f"date_trunc('hour', now()) - INTERVAL '{hour} hours', now() - INTERVAL '{checked} hours'"
        check = f"'{ACCOUNT}', 'v1', {times}, '{found}', 1, 1, 1, 0, 0, 0"
        stores.query(f"INSERT INTO {{schema}}.audit_completeness SELECT {check}")

    done = command(STATUS, "--json")

    assert done.code == 0, done.err
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    one, other = done.report["warehouse"]["streams"]
    assert (one["account_id"], other["account_id"]) == (ACCOUNT, OTHER_ACCOUNT)
    assert one["events_today"] == len([event for event in events if event.time >= today])
    assert (one["quarantined"], one["hours_compared"], one["hours_with_gaps"]) == (1, 2, 1)
    assert time_of(other["cursor"]) == newest.time
    assert 30 <= other["age_seconds"] <= 120
    assert [stream["cursor"] for stream in done.report["lake"]["streams"]] == [one["cursor"], other["cursor"]]
    assert begin < time_of(done.report["warehouse"]["last_load"]) < datetime.now(UTC)
    assert begin < time_of(done.report["lake"]["last_load"]) < datetime.now(UTC)
    objects = stores.objects("audit_logs/", ".parquet")
    assert done.report["lake"]["objects_of_last_days"] == len(objects)
    assert done.report["lake"]["bytes_of_last_days"] == sum(map(len, objects))
    assert done.report["warehouse"]["bytes"] > 10_000
    assert "estimated_events" in done.report["warehouse"]


@pytest.mark.integration
def test_a_first_start_a_catch_up_and_a_backfill_are_no_lateness(
    api: Api, command: Command, poll: Poll, stores: Stores
) -> None:
    """Neither is what came within a minute in another order than it happened, nor what had not come at a stop."""
    api.world.add(ACCOUNT, "v1", spread(500, ago(days=6), ago(days=5)))
    poll()
    stores.query("UPDATE {schema}.audit_logs SET ingestion_time = now() - INTERVAL '5 days'")
    steady = [(ago(days=4) + timedelta(minutes=n), ago(days=4) + timedelta(minutes=n, seconds=40)) for n in range(300)]
    back_up = ago(days=2)
    outage = [(back_up - timedelta(hours=hours), back_up) for hours in range(1, 20)]
    backwards = [
        (back_up - timedelta(hours=hours, minutes=1), back_up + timedelta(seconds=hours)) for hours in range(20)
    ]
    in_flight = [(ago(days=4) + timedelta(minutes=298, seconds=30), back_up)]
    backfill = [(ago(days=5, hours=hours), ago(hours=1)) for hours in range(1, 20)]
    _add(stores, *steady, *outage, *in_flight, *backwards, *backfill)

    done = command(STATUS, "--json")

    # One of the outage happened within a quarter of an hour before it was read.
    assert _stream(done)["events_measured"] == 301
    assert _stream(done)["delay_seconds"] == {"median": 40.0, "nearly_all": 60.0}
    assert _stream(done)["late"] == 0
    assert done.report["warehouse"]["recommended_lag_seconds"] == 300


@pytest.mark.integration
def test_what_the_cursor_had_passed_is_measured_and_late_beyond_the_safety_lag(
    command: Command, poll: Poll, stores: Stores
) -> None:
    """Three events came late, by 10 minutes, 20 minutes and 3 hours: the last two are the sweep's."""
    poll()
    begin = ago(days=2)
    steady = [(begin + timedelta(minutes=n), begin + timedelta(minutes=n, seconds=40)) for n in range(600)]
    seen = begin + timedelta(minutes=599)
    late = [(seen - timedelta(minutes=minutes), seen + timedelta(minutes=2)) for minutes in (10, 20, 180)]
    _add(stores, *steady, *late)

    done = command(STATUS, "--json")
    shown = command(STATUS)

    assert _stream(done)["events_measured"] == 602
    assert (_stream(done)["delay_seconds"]["nearly_all"], _stream(done)["late"]) == (182 * 60.0, 2)
    assert done.report["warehouse"]["recommended_lag_seconds"] == 182 * 60 * 3 / 2
    assert "900 s; at least 16380 s by 602 events measured" in shown.out


@pytest.mark.integration
def test_a_store_that_is_down_says_so_and_the_other_is_shown(api: Api, command: Command, poll: Poll) -> None:
    """Exit 75."""
    api.world.add(ACCOUNT, "v1", spread(5, ago(hours=2), ago(minutes=1)))
    poll()

    no_bucket = {"S3_BUCKET": "lake", "S3_ENDPOINT": "http://127.0.0.1:1", **S3_KEYS}

    no_warehouse = command(STATUS, "--json", PG_PORT="1")
    no_lake = command(STATUS, "--json", **no_bucket)
    neither = command(STATUS, PG_PORT="1", **no_bucket)

    assert (no_warehouse.code, no_lake.code, neither.code) == (75, 75, 75)
    assert "the warehouse is not available" in no_warehouse.report["warehouse"]["error"]
    assert _stream(no_warehouse, "lake")["cursor"]
    assert "the lake is not available" in no_lake.report["lake"]["error"]
    assert _stream(no_lake)["events_today"] is not None
    assert ("warehouse   the warehouse is not" in neither.out, "lake        the lake is not" in neither.out) == (
        True,
        True,
    )
    assert "Traceback" not in no_warehouse.err + no_lake.err + neither.err


@pytest.mark.integration
def test_before_the_first_start_it_says_that_nothing_is_there(command: Command, stores: Stores) -> None:
    """Before the first start, the status says that nothing is there, and makes nothing."""
    done = command(STATUS)

    assert done.code == 1
    assert "there is no table" in done.out
    assert not stores.lake.exists()
    assert stores.query("SELECT to_regnamespace('{schema}') IS NULL AS is_absent") == [{"is_absent": True}]


@pytest.mark.integration
def test_it_is_a_coloured_table_on_a_terminal_and_plain_text_elsewhere(
    api: Api, command: Command, poll: Poll, environment: Mapping[str, str]
) -> None:
    """The same words in both."""
    api.world.add(ACCOUNT, "v1", spread(5, ago(hours=2), ago(minutes=1)))
    poll()

    plain = command(STATUS)
    coloured = _on_a_terminal(environment)

    words = COLOURS.sub("", coloured)
    assert "\x1b[" in coloured
    assert "\x1b[" not in plain.out
    for text in (plain.out, words):
        assert re.search(rf"{ACCOUNT} +v1 +\d{{4}}-\d\d-\d\d .* ago", text), text
        assert "safety lag  900 s; no events were measured in the last week" in text


@pytest.mark.parametrize("width", [80, 100, 120, 160, 220])
def test_nothing_is_cut_or_left_out_however_narrow_the_terminal_is(width: int) -> None:
    """Where the table does not fit, its columns stand below each other."""
    cursor = {"cursor": "2026-11-25T10:46:20+00:00", "age_seconds": 1234}
    counts = {"events_today": 123_456, "events_measured": 9_999, "late": 12, "hours_compared": 2160}
    counts |= {"hours_with_gaps": 17, "quarantined": 10_000}
    keys = [{"account_id": account, "api_version": "v1"} for account in (ACCOUNT, OTHER_ACCOUNT)]
    delays = {"delay_seconds": {"median": 345.0, "nearly_all": 86_399.0}}
    warehouse: dict[str, Any] = {"last_load": None, "recommended_lag_seconds": 300, "bytes": 1, "estimated_events": 1}
    warehouse |= {"gaps": None, "repairs": []}
    status = {
        "safety_lag_seconds": 900.0,
        "warehouse": {**warehouse, "streams": [key | cursor | counts | delays for key in keys]},
        "lake": {"last_load": None, "objects_of_last_days": 1, "bytes_of_last_days": 1, "streams": []},
    }

    shown = COLOURS.sub("", status_text(status, width))

    for text in ("2026-11-25 10:46:20, 21 min ago", "123,456", "345 s, 86399 s", "12", "17 of 2,160 h", "10,000"):
        assert len(re.findall(rf"(?<=  ){re.escape(text)}(?=  |\n| *$)", shown, re.MULTILINE)) == 2, (text, shown)
    assert (shown.count(ACCOUNT), shown.count(OTHER_ACCOUNT), shown.count(" v1")) == (1, 1, 2)
    for name in ("version", "warehouse until", "lake until", "today", "came within (50 %, 99.9 %)", "late", "gaps"):
        assert name in shown
    table, _, _ = shown.rpartition("\n\n")
    assert max(map(len, table.splitlines())) <= width
    assert "…" not in shown


def _on_a_terminal(environment: Mapping[str, str]) -> str:
    ours, its = pty.openpty()
    size = {"COLUMNS": "220", "TERM": "xterm", "NO_COLOR": ""}
    own = {name: value for name, value in {**os.environ, **environment, **size}.items() if value}
    process = subprocess.Popen([sys.executable, STATUS], env=own, cwd=PROJECT_ROOT, stdout=its)
    os.close(its)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(120) == 0
    return shown.decode()


@pytest.mark.long
@pytest.mark.integration
def test_no_question_reads_the_history(poll: Poll, stores: Stores) -> None:
    """On a table of half a year: each goes by the key, and as far as its window."""
    poll()
    stores.query(insert_events(stores.schema, 90_000, datetime.now(UTC), timedelta(days=180)))
    stores.query("UPDATE {schema}.audit_logs SET ingestion_time = \"timestamp\" + INTERVAL '40 seconds'")
    stores.query("VACUUM ANALYZE {schema}.audit_logs")
    (account,) = {row["account_id"] for row in stores.query("SELECT account_id FROM {schema}.audit_logs LIMIT 1")}
    sections = sections_of("health.sql", schema=stores.schema)

    plans = {name: stores.plan(_filled(sections[name][0], account)) for name in ("lag", "today")}

    for name, plan in plans.items():
        assert "Seq Scan" not in plan, (name, plan)
        pages = max(int(number) for number in re.findall(r"shared hit=(\d+)", plan))
        assert pages < 2_000, (name, plan)


def _filled(sql: str, account: str) -> str:
    for name, value in {"$1": f"'{account}'", "$2": "'v1'", "$3": "900"}.items():
        sql = sql.replace(name, value)
    return sql


@pytest.mark.parametrize(
    ("seconds", "wanted"), [([0.5], 300), ([200.0], 300), ([450.0], 720), ([30.0, 601.0], 960), ([200_000.0], 86_400)]
)
def test_the_recommended_lag_has_a_reserve_and_bounds(seconds: list[float], wanted: int) -> None:
    """Half as long again as the slowest stream, in whole minutes, from five minutes to a day."""
    assert recommended_seconds(MeasuredLag(100, 1, longest, 0) for longest in seconds) == wanted


def test_what_was_hardly_measured_recommends_nothing() -> None:
    """Few measurements lead to no recommendation and no warning."""
    assert recommended_seconds([MeasuredLag(), MeasuredLag(2, 900, 1383, 0)]) is None
    assert not is_too_short(timedelta(seconds=60), MeasuredLag(2, 30, 61, 0))
    assert not is_too_short(timedelta(0), MeasuredLag())
    assert is_too_short(timedelta(seconds=60), MeasuredLag(100, 30, 61, 0))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_an_age_is_told_in_the_unit_that_people_would_use(seconds: float, text: str) -> None:
    """Never with two units."""
    assert duration(seconds) == text
