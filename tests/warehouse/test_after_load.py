"""The step after the load makes the warehouse what the settings say, and nothing of it holds up a load."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.events import insert_events
from benchmarks.servers.commands import Finished
from benchmarks.warehouse import questions
from pipelines.loop.report import Report
from pipelines.settings.settings import TimescaleSettings
from pipelines.warehouse.counts import ALL_OF_TIME
from pipelines.warehouse.setup import check_timescale
from pipelines.warehouse.upkeep import Found, Step, due_steps
from simulator.api import Api
from sources.cloudflare_audit_logs.errors import AuditLogsError
from tests.factory import ACCOUNT, ago, event_at, spread
from tests.stores import Stores

Poll = Callable[..., Report]
Command = Callable[..., Finished]

DEFINITIONS = {
    "view audit_logs_all": "d1",
    "view audit_activity_hourly": "d2",
    "view audit_activity_hourly, counted": "d3",
    "view audit_seen_hourly": "d4",
    "view audit_seen_hourly, counted": "d5",
}
INDEXES = (
    *(
        f"{table}_{index}"
        for table in ("audit_logs", "audit_logs_rehydrated")
        for index in ("timestamp", "actor", "resource", "failure", "month_event_id")
    ),
    "audit_logs_quarantine_timestamp",
)
INDEXES_WITHOUT_MONTHS = tuple(index.replace("month_", "") for index in INDEXES)
UNCOUNTED = Found(indexes=INDEXES, views=("audit_logs_all d1", "audit_activity_hourly d2", "audit_seen_hourly d4"))
PLAIN = UNCOUNTED._replace(
    is_counting=True,
    counted_from=ALL_OF_TIME,
    views=("audit_logs_all d1", "audit_activity_hourly d3", "audit_seen_hourly d5"),
)
HYPERTABLE = UNCOUNTED._replace(
    indexes=INDEXES_WITHOUT_MONTHS, extension="2.29.2", is_available=True, license="timescale", chunk_days=7
)
COMPLETE = HYPERTABLE._replace(is_columnar=True, compress_after_days=30, is_continuous=True, is_refreshed=True)
WANTED = TimescaleSettings()


@pytest.mark.parametrize(
    ("found", "wanted", "due"),
    [
        (PLAIN, WANTED, []),
        (COMPLETE, WANTED, []),
        (PLAIN._replace(is_available=True), WANTED, ["extension"]),
        (PLAIN._replace(is_available=True), replace(WANTED, chunk_days=0), []),
        (UNCOUNTED._replace(extension="2.29.2", license="timescale"), WANTED, ["hypertable"]),
        (
            PLAIN._replace(extension="2.29.2", license="timescale"),
            WANTED,
            ["view audit_seen_hourly", "view audit_activity_hourly", "no counts", "hypertable"],
        ),
        (UNCOUNTED, WANTED, ["counts"]),
        (UNCOUNTED._replace(is_counting=True, counted_from="infinity"), WANTED, ["count some events"]),
        (
            UNCOUNTED._replace(is_counting=True, counted_from="infinity", indexes=INDEXES[1:]),
            WANTED,
            ["index timestamp"],
        ),
        (
            UNCOUNTED._replace(is_counting=True, counted_from=ALL_OF_TIME),
            WANTED,
            ["view audit_seen_hourly, counted", "view audit_activity_hourly, counted"],
        ),
        (
            PLAIN._replace(is_counting=False),
            WANTED,
            ["view audit_seen_hourly", "view audit_activity_hourly", "counts"],
        ),
        (PLAIN._replace(extension="2.29.2", license=None), WANTED, []),
        (HYPERTABLE, WANTED, ["columnstore", "columnstore policy", "hourly aggregate"]),
        (HYPERTABLE._replace(license="apache"), replace(WANTED, retention_days=90), []),
        (COMPLETE, replace(WANTED, chunk_days=1), ["chunk interval"]),
        (COMPLETE, replace(WANTED, chunk_days=0), []),
        (COMPLETE, replace(WANTED, compress_after_days=10), ["columnstore policy"]),
        (COMPLETE, replace(WANTED, compress_after_days=0), ["no columnstore policy"]),
        (COMPLETE, replace(WANTED, retention_days=90), ["retention policy"]),
        (COMPLETE._replace(retention_days=90), WANTED, ["no retention policy"]),
        (COMPLETE._replace(retention_days=-1, is_refreshed=False), WANTED, ["no retention policy", "refresh policy"]),
        (
            HYPERTABLE._replace(
                views=("audit_logs_all d1", "audit_activity_hourly 0123456789abcdef", "audit_seen_hourly d4")
            ),
            replace(WANTED, compress_after_days=0),
            ["no view audit_activity_hourly", "hourly aggregate"],
        ),
        (PLAIN._replace(indexes=INDEXES[1:]), WANTED, ["index timestamp"]),
        (PLAIN._replace(indexes=INDEXES_WITHOUT_MONTHS), WANTED, ["index month_event_id"]),
        (PLAIN._replace(has_skip_scan=False), WANTED, ["index event_id"]),
        (COMPLETE._replace(indexes=INDEXES), WANTED, ["index event_id"]),
        (
            PLAIN._replace(views=("audit_logs_all old", *PLAIN.views[1:])),
            WANTED,
            ["view audit_logs_all"],
        ),
    ],
)
def test_what_is_due_is_what_differs(found: Found, wanted: TimescaleSettings, due: list[str]) -> None:
    """Nothing more: a step that is not due is not taken again."""
    assert [step.section for step in due_steps(found, wanted, DEFINITIONS)] == due


@pytest.mark.integration
def test_the_second_run_changes_nothing(api: Api, poll: Poll, stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
    """Indexes and views are there after the first; the catalogs are as they were after the second."""
    api.world.add(ACCOUNT, "v1", spread(3, ago(minutes=9), ago(minutes=1)))
    caplog.set_level("INFO")
    catalog = (
        "SELECT relname::text AS name, c.oid::bigint, c.xmin::text FROM pg_class c"
        " WHERE relnamespace = '{schema}'::regnamespace AND relname LIKE 'audit%' ORDER BY 1"
    )
    poll()
    first = stores.query(catalog)
    caplog.clear()
    api.world.add(ACCOUNT, "v1", [event_at(ago(seconds=1))])

    report = poll()

    assert report.new["warehouse"] == 1
    assert {*INDEXES, "audit_logs_all", "audit_activity_hourly"} <= {row["name"] for row in first}
    assert stores.query(catalog) == first
    assert "warehouse.prepared" not in caplog.text


@pytest.mark.integration
def test_a_step_that_fails_is_reported_and_holds_up_no_other(
    api: Api, poll: Poll, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    """By its name, with PostgreSQL's reason."""
    stores.query("CREATE SCHEMA {schema}")
    stores.query("CREATE TABLE {schema}.audit_logs_all (others integer)")
    api.world.add(ACCOUNT, "v1", spread(3, ago(minutes=9), ago(minutes=1)))

    report = poll()

    assert report.new["warehouse"] == 3
    assert not report.failures.destinations
    assert re.search(r'not_prepared step="view audit_logs_all" reason=".*is not a view', caplog.text)
    assert stores.query("SELECT sum(events)::bigint AS n FROM {schema}.audit_activity_hourly") == [{"n": 3}]


@pytest.fixture
def filled(poll: Poll, stores: Stores) -> Stores:
    """A warehouse of 60,000 events in 60 days."""
    poll()
    stores.query(insert_events(stores.schema, 60_000, datetime.now(UTC), timedelta(days=60)))
    newest = """"timestamp" = (SELECT max("timestamp") FROM {schema}.audit_logs)"""
    stores.query(f"UPDATE {{schema}}.audit_logs SET ip_address = '203.0.113.250' WHERE {newest}")
    stores.query("VACUUM (ANALYZE) {schema}.audit_logs")
    return stores


@pytest.mark.integration
def test_every_event_is_in_the_view_of_all_once(filled: Stores) -> None:
    """Wherever it lies; what is in both tables is looked up by the key's index, what is older is not looked up."""
    filled.query(
        "INSERT INTO {schema}.audit_logs_rehydrated"
        """ SELECT * FROM {schema}.audit_logs WHERE "timestamp" < now() - INTERVAL '58 days'"""
    )
    filled.query("""DELETE FROM {schema}.audit_logs WHERE "timestamp" < now() - INTERVAL '59 days'""")
    filled.query("ANALYZE {schema}.audit_logs, {schema}.audit_logs_rehydrated")

    week = """SELECT event_id FROM {schema}.audit_logs_all WHERE "timestamp" < now() - INTERVAL '57 days'"""
    plan = filled.plan(week)

    assert filled.query("SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM {schema}.audit_logs_all") == [
        {"n": 60_000, "ids": 60_000}
    ]
    assert len(filled.query(week)) == pytest.approx(3_000, abs=2)
    assert "Seq Scan on audit_logs " not in plan
    assert re.search(
        r"Index (Only )?Scan using audit_logs_(pkey|timestamp) on audit_logs a \(.*loops=1\d\d\d\)", plan
    ), plan


@pytest.mark.wide
@pytest.mark.integration
@pytest.mark.parametrize(("title", "sql"), list(questions()), ids=[title for title, _ in questions()])
def test_every_question_of_the_docs_is_answered(filled: Stores, title: str, sql: str) -> None:
    """With rows, for values that are there; by an index, unless it has to count a month or every hour."""
    known = filled.query(
        "SELECT actor_email, resource_id, event_id FROM {schema}.audit_logs ORDER BY ingestion_time, event_id LIMIT 1"
    )[0]
    for column, value in known.items():
        sql = re.sub(rf"({column} = )'[^']+'", rf"\1'{value}'", sql)
    qualified = re.sub(r"\b(FROM) (audit_\w+)", r"\1 {schema}.\2", sql)

    rows, plan = filled.query(qualified), filled.plan(qualified)

    assert rows
    if "hour by hour" not in title and "never seen" not in title:
        assert "Seq Scan on audit_logs" not in plan, plan


@pytest.mark.integration
def test_the_hourly_activity_counts_every_event(filled: Stores) -> None:
    """By UTC hour, whatever the session's time zone."""
    hours = filled.query("SELECT hour, sum(events)::bigint AS n FROM {schema}.audit_activity_hourly GROUP BY 1")

    assert sum(row["n"] for row in hours) == 60_000
    assert all((row["hour"].minute, row["hour"].second) == (0, 0) for row in hours)


@pytest.mark.parametrize("version", ["2.11.0", "2.17.2", "2.18.0"])
def test_a_timescaledb_that_loses_events_may_not_compress(version: str) -> None:
    """A table that is compressed is refused, one that is not is left so."""
    found = HYPERTABLE._replace(extension=version)

    with pytest.raises(AuditLogsError, match=rf"TimescaleDB {version} loses events.*2\.18\.1"):
        check_timescale(found._replace(is_columnar=True))
    check_timescale(found)
    assert not [step for step in due_steps(found, WANTED, DEFINITIONS) if "columnstore" in step.section]


@pytest.mark.parametrize("version", ["2.18.1", "2.29.2", "2.30.0-dev"])
def test_a_timescaledb_that_loses_none_may(version: str) -> None:
    """From the release on that mended it."""
    found = HYPERTABLE._replace(extension=version)

    check_timescale(found._replace(is_columnar=True))
    assert Step("columnstore") in list(due_steps(found, WANTED, DEFINITIONS))


@pytest.mark.integration
def test_a_merge_reads_nothing_but_what_it_writes(filled: Stores) -> None:
    """Half of it known: by the key's index, and no scan of the table."""
    filled.query("CREATE TABLE {schema}.batch AS SELECT * FROM {schema}.audit_logs LIMIT 500")
    filled.query(
        "INSERT INTO {schema}.batch SELECT (jsonb_populate_record(b, jsonb_build_object('event_id', md5(event_id)))).*"
        " FROM {schema}.batch AS b"
    )

    plan = filled.plan("INSERT INTO {schema}.audit_logs SELECT * FROM {schema}.batch ON CONFLICT DO NOTHING")

    assert "Tuples Inserted: 500" in plan
    assert "Conflicting Tuples: 500" in plan
    assert "Conflict Resolution: NOTHING" in plan
    assert not re.search(r"Scan on audit_logs", plan)
