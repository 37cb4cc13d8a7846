"""Questions to chunks, compressed or not, read few of them, and a late event decompresses none."""

import re
from collections.abc import Callable

import pytest

from benchmarks.servers.commands import Finished
from benchmarks.warehouse import questions
from pipelines.loop.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, ago, event_at, spread
from tests.stores import Stores

from .conftest import DSN

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timescaledb,
    pytest.mark.skipif(not DSN, reason="TEST_TIMESCALE_DSN names no server with TimescaleDB"),
]

Poll = Callable[..., Report]
Command = Callable[..., Finished]


def test_late_events_go_into_compressed_chunks_and_decompress_nothing(api: Api, poll: Poll, filled: Stores) -> None:
    """Known ones as well as new ones, though more rows are compressed than TimescaleDB decompresses for a statement."""
    late = spread(200, ago(days=21), ago(days=20))
    api.world.add(ACCOUNT, "v1", late)
    filled.query("CREATE TABLE {schema}.batch (LIKE {schema}.audit_logs)")
    filled.query("INSERT INTO {schema}.batch SELECT * FROM {schema}.audit_logs ORDER BY event_id LIMIT 1000")
    filled.query(
        "INSERT INTO {schema}.batch SELECT (jsonb_populate_record(b, jsonb_build_object('event_id', md5(event_id)))).*"
        " FROM {schema}.batch AS b"
    )

    plan = filled.plan(
        "INSERT INTO {schema}.audit_logs SELECT * FROM {schema}.batch"
        ' ON CONFLICT ("account_id", "timestamp", "event_id", "api_version") DO NOTHING'
    )
    report = poll()

    assert report.new["warehouse"] == 200
    assert "Tuples Inserted: 1000" in plan
    assert "Conflicting Tuples: 1000" in plan
    assert not re.search(r"(Batches|Tuples) decompressed|Batches deleted|Seq Scan on (audit_logs|_hyper)", plan), plan
    assert filled.query("SELECT count(*) AS n FROM {schema}.audit_logs") == [{"n": 120_200}]


def test_the_status_and_the_doctor_know_chunks(command: Command, filled: Stores) -> None:
    """The size of all of them, and about how many events they have."""
    status, doctor = command("pipelines/status.py", "--json"), command("pipelines/doctor.py")

    held = filled.query("SELECT count(*) AS n FROM {schema}.audit_logs")[0]["n"]
    assert (status.code, doctor.code) == (0, 0), status.err + doctor.out
    assert held * 0.9 < status.report["warehouse"]["estimated_events"] < held * 1.1
    assert status.report["warehouse"]["bytes"] > 1_000_000
    assert re.search(r"ok    timescaledb  .*chunks of 7 days", doctor.out), doctor.out


def test_the_aggregate_counts_what_is_in_the_table(api: Api, poll: Poll, stores: Stores) -> None:
    """Whatever the retention was, is, and has dropped meanwhile."""
    api.world.add(ACCOUNT, "v1", spread(60, ago(days=28), ago(minutes=1)))
    both = (
        "SELECT (SELECT sum(events) FROM {schema}.audit_activity_hourly)::bigint AS counted,"
        " (SELECT count(*) FROM {schema}.audit_logs) AS held"
    )
    refresh = "CALL refresh_continuous_aggregate('{schema}.audit_activity_hourly', NULL, now() - INTERVAL '2 hours')"

    seen = []
    for days in ("0", "15", "40", "0"):
        poll(TIMESCALE_RETENTION_DAYS=days)
        if days == "15":
            stores.query("SELECT drop_chunks('{schema}.audit_logs', older_than => INTERVAL '15 days')")
        stores.query(refresh)
        seen += stores.query(both)

    assert all(row["counted"] == row["held"] for row in seen), seen
    assert seen[1]["held"] < seen[0]["held"] == 60


def test_the_aggregate_counts_late_events_after_a_refresh(api: Api, poll: Poll, stores: Stores) -> None:
    """In an hour that was materialised before they came."""
    api.world.add(ACCOUNT, "v1", spread(30, ago(days=3), ago(minutes=1)))
    poll()
    total = "SELECT sum(events)::bigint AS n FROM {schema}.audit_activity_hourly"
    refresh = "CALL refresh_continuous_aggregate('{schema}.audit_activity_hourly', NULL, now() - INTERVAL '2 hours')"
    stores.query(refresh)
    api.world.add(ACCOUNT, "v1", [event_at(ago(hours=5)), event_at(ago(hours=30))])
    poll(SWEEP_INTERVAL_SECONDS="0.1", SWEEP_WINDOW_HOURS="48")
    before = stores.query(total)

    stores.query(refresh)

    assert before == [{"n": 30}]
    assert stores.query(total) == [{"n": 32}]


def test_the_view_of_all_prunes_chunks_and_asks_indexes(filled: Stores) -> None:
    """On both sides, for the days that a question names."""
    filled.query(
        "INSERT INTO {schema}.audit_logs_rehydrated"
        """ SELECT * FROM {schema}.audit_logs WHERE "timestamp" < now() - INTERVAL '45 days'"""
    )
    filled.query("SELECT drop_chunks('{schema}.audit_logs', older_than => INTERVAL '50 days')")
    filled.query("ANALYZE {schema}.audit_logs_rehydrated")

    two_days = (
        "SELECT event_id FROM {schema}.audit_logs_all"
        """ WHERE "timestamp" >= now() - INTERVAL '47 days' AND "timestamp" < now() - INTERVAL '45 days'"""
    )
    plan = filled.plan(two_days)

    assert len(filled.query(two_days)) == pytest.approx(4_000, abs=2)
    assert filled.query("SELECT count(*) AS n FROM {schema}.audit_logs_all") == [{"n": 120_000}]
    assert re.search(r"Index (Only )?Scan using audit_logs_rehydrated_\w+ on audit_logs_rehydrated", plan) or (
        "Bitmap Index Scan on audit_logs_rehydrated_timestamp" in plan
    ), plan
    assert re.search(r"Chunks excluded during (startup|runtime): \d", plan), plan
    assert "Index Scan using" in plan


def test_every_question_of_the_docs_is_answered(filled: Stores) -> None:
    """From compressed chunks as from others."""
    filled.query(
        "INSERT INTO {schema}.audit_logs"
        """ SELECT (jsonb_populate_record(a, '{"event_id": "new", "ip_address": "203.0.113.250"}')).*"""
        """ FROM {schema}.audit_logs AS a ORDER BY "timestamp" DESC LIMIT 1"""
    )
    columns = "SELECT actor_email, resource_id, event_id FROM {schema}.audit_logs"
    known = filled.query(f"{columns} WHERE event_id = 'new'")[0]
    for title, question in questions():
        sql = re.sub(r"\b(FROM) (audit_\w+)", r"\1 {schema}.\2", question)
        for column, value in known.items():
            sql = re.sub(rf"({column} = )'[^']+'", rf"\1'{value}'", sql)

        assert filled.query(sql), title


def test_compression_leaves_at_most_four_tenths(filled: Stores) -> None:
    """By TimescaleDB's own count, over all chunks that are compressed."""
    sizes = filled.query(
        "SELECT before_compression_total_bytes AS before, after_compression_total_bytes AS after"
        " FROM hypertable_columnstore_stats('{schema}.audit_logs')"
    )[0]

    assert sizes["after"] <= 0.4 * sizes["before"]
