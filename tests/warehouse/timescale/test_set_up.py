"""The step after a load makes the warehouse what the settings say, under every licence and with any rights."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from benchmarks.events import insert_events
from benchmarks.servers.commands import Finished, wait_until
from pipelines.loop.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, ago, event_at, ids, spread
from tests.stores import Stores

from .conftest import DSN

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timescaledb,
    pytest.mark.skipif(not DSN, reason="TEST_TIMESCALE_DSN names no server with TimescaleDB"),
]

Poll = Callable[..., Report]
Command = Callable[..., Finished]

JOBS = """
    SELECT proc_name::text AS name, extract(epoch FROM
        coalesce(config ->> 'compress_after', config ->> 'drop_after', config ->> 'start_offset')::interval
    )::float8 / 86400 AS days
    FROM timescaledb_information.jobs WHERE hypertable_schema = '{schema}' ORDER BY 1
"""


def _jobs(stores: Stores) -> dict[str, Any]:
    return {row["name"]: row["days"] for row in stores.query(JOBS)}


def test_the_first_poll_makes_it_and_the_second_changes_nothing(
    api: Api, poll: Poll, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    """Extension, hypertable, columnstore, policies and aggregate."""
    api.world.add(ACCOUNT, "v1", spread(50, ago(days=20), ago(minutes=1)))
    caplog.set_level("INFO")

    first, told = poll(), caplog.text
    caplog.clear()
    second = poll()

    assert "not_prepared" not in told
    assert "prepared" not in caplog.text
    assert (first.new["warehouse"], second.new["warehouse"]) == (50, 0)
    assert stores.query("SELECT count(*) AS n FROM show_chunks('{schema}.audit_logs')")[0]["n"] >= 3
    settings = "SELECT segmentby, orderby FROM timescaledb_information.hypertable_columnstore_settings"
    settings += " WHERE hypertable = '{schema}.audit_logs'::regclass"
    assert stores.query(settings) == [{"segmentby": "account_id,api_version", "orderby": '"timestamp" DESC'}]
    assert _jobs(stores) == {"policy_compression": 30, "policy_refresh_continuous_aggregate": None}
    assert stores.query("SELECT sum(events)::bigint AS n FROM {schema}.audit_activity_hourly") == [{"n": 50}]
    assert stores.query("SELECT count(*) AS n FROM {schema}.audit_logs_all") == [{"n": 50}]


def test_a_changed_setting_takes_effect(poll: Poll, stores: Stores) -> None:
    """`if_not_exists` alone would keep the old interval, with a warning; 0 takes the policy away."""
    poll()
    poll(TIMESCALE_CHUNK_DAYS="1", TIMESCALE_COMPRESS_AFTER_DAYS="10", TIMESCALE_RETENTION_DAYS="90")
    changed = _jobs(stores)
    interval = "SELECT time_interval::text AS days FROM timescaledb_information.dimensions"
    interval += " WHERE hypertable_schema = '{schema}'"
    assert stores.query(interval) == [{"days": "1 day"}]

    poll(TIMESCALE_CHUNK_DAYS="0", TIMESCALE_COMPRESS_AFTER_DAYS="0", TIMESCALE_RETENTION_DAYS="0")

    assert changed == {
        "policy_compression": 10,
        "policy_refresh_continuous_aggregate": None,
        "policy_retention": 90,
    }
    assert _jobs(stores) == {"policy_refresh_continuous_aggregate": None}
    assert stores.query(interval) == [{"days": "1 day"}]


def test_what_the_retention_dropped_is_not_brought_back(api: Api, poll: Poll, stores: Stores) -> None:
    """By no poll and no sweep: it would make the dropped chunk again."""
    old, young = spread(20, ago(days=28), ago(days=20)), spread(10, ago(days=2), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", old + young)
    poll()
    chunks = "SELECT count(*) AS n FROM show_chunks('{schema}.audit_logs')"
    stores.query("SELECT drop_chunks('{schema}.audit_logs', older_than => INTERVAL '10 days')")
    kept, dropped_to = stores.warehouse_ids(), stores.query(chunks)
    late = event_at(ago(days=25))
    api.world.add(ACCOUNT, "v1", [late])

    poll(TIMESCALE_RETENTION_DAYS="10", SWEEP_INTERVAL_SECONDS="0.1", SWEEP_WINDOW_HOURS="720")

    assert stores.query(chunks) == dropped_to
    assert stores.warehouse_ids() == kept
    assert set(stores.lake_ids()) == ids([*old, *young, late])


def test_a_plain_table_with_rows_becomes_a_hypertable(
    api: Api, poll: Poll, command: Command, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    """A small one by itself, a large one by the command; every event is there, and the loop goes on with it."""
    events = spread(30, ago(days=20), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    poll(TIMESCALE_CHUNK_DAYS="0")
    hypertables = "SELECT count(*) AS n FROM timescaledb_information.hypertables WHERE hypertable_schema = '{schema}'"
    stores.query("CREATE EXTENSION timescaledb")
    assert stores.query(hypertables) == [{"n": 0}]
    stores.query(insert_events(stores.schema, 100_001, ago(days=1), timedelta(days=30)))

    poll(TIMESCALE_CHUNK_DAYS="7")
    told, before = caplog.text, stores.query(hypertables)
    done = command("pipelines/convert.py")
    api.world.add(ACCOUNT, "v1", [event_at(ago(seconds=1))])
    after = poll()

    assert re.search(r'not_prepared step=hypertable reason="a table has more than 100,000 rows', told)
    assert before == [{"n": 0}]
    assert done.code == 0, done.err
    assert "100,031 events" in done.err
    assert stores.query(hypertables) == [{"n": 1}]
    assert after.new["warehouse"] == 1
    assert stores.query("SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM {schema}.audit_logs") == [
        {"n": 100_032, "ids": 100_032}
    ]
    assert stores.query("SELECT sum(events)::bigint AS n FROM {schema}.audit_activity_hourly") == [{"n": 100_032}]


def test_a_small_plain_table_becomes_a_hypertable_by_itself(api: Api, poll: Poll, stores: Stores) -> None:
    """At the next start; the hourly view makes way for the aggregate, the index by month for one in each chunk."""
    events = spread(30, ago(days=20), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    poll(TIMESCALE_CHUNK_DAYS="0")

    poll(TIMESCALE_CHUNK_DAYS="7")

    indexes = (
        "SELECT indexname::text AS name FROM pg_indexes WHERE schemaname = '{schema}' AND indexname LIKE '%event_id'"
    )
    assert stores.query(f"{indexes} ORDER BY 1") == [
        {"name": "audit_logs_event_id"},
        {"name": "audit_logs_rehydrated_event_id"},
    ]
    assert stores.query("SELECT count(*) AS n FROM timescaledb_information.continuous_aggregates") == [{"n": 1}]
    assert stores.ids() == (sorted(ids(events)),) * 2


def test_a_step_that_fails_is_told_however_late_the_driver_says_so(
    poll: Poll, command: Command, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    """Functions fail when their rows are fetched; a step that has failed is none that was done."""
    poll(TIMESCALE_CHUNK_DAYS="0")
    stores.query("CREATE UNIQUE INDEX mine ON {schema}.audit_logs (event_id)")

    poll(TIMESCALE_CHUNK_DAYS="7")
    done = command("pipelines/convert.py")

    assert re.search(r'not_prepared step=hypertable reason=".*unique index', caplog.text)
    assert (done.code, done.out.split(",")[:2]) == (1, ["0 steps done", " 1 not"])


def test_what_others_have_set_up_breaks_no_load(api: Api, poll: Poll, stores: Stores) -> None:
    """A second refresh policy, and policies by the time of creation, which make way for what the settings say."""
    poll(TIMESCALE_COMPRESS_AFTER_DAYS="0")
    view = "'{schema}.audit_activity_hourly'"
    stores.query(f"SELECT count(*) FROM remove_continuous_aggregate_policy({view})")
    for start, end in ((60, 31), (30, 1)):
        window = f"start_offset => INTERVAL '{start} days', end_offset => INTERVAL '{end} days'"
        stores.query(f"SELECT add_continuous_aggregate_policy({view}, {window}, schedule_interval => INTERVAL '1 day')")
    stores.query("SELECT add_retention_policy('{schema}.audit_logs', drop_created_before => INTERVAL '90 days')")
    api.world.add(ACCOUNT, "v1", [event_at(ago(seconds=1))])

    report = poll()

    assert report.new["warehouse"] == 1
    assert not report.failures.destinations
    assert set(_jobs(stores)) == {"policy_refresh_continuous_aggregate"}


def test_a_view_of_others_is_left_alone(poll: Poll, stores: Stores, caplog: pytest.LogCaptureFixture) -> None:
    """Under the aggregate's name."""
    stores.query("CREATE SCHEMA {schema}")
    stores.query("CREATE VIEW {schema}.audit_activity_hourly AS SELECT 1 AS mine")

    poll()

    assert stores.query("SELECT * FROM {schema}.audit_activity_hourly") == [{"mine": 1}]
    assert 'not_prepared step="hourly aggregate"' in caplog.text


def test_the_extension_may_be_in_a_schema_of_its_own(
    poll: Poll, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    """Its functions are found there."""
    stores.query("CREATE SCHEMA extensions")
    stores.query("CREATE EXTENSION timescaledb SCHEMA extensions")

    poll(TIMESCALE_RETENTION_DAYS="90")

    assert "not_prepared" not in caplog.text
    assert set(_jobs(stores)) == {"policy_compression", "policy_refresh_continuous_aggregate", "policy_retention"}


def test_under_the_apache_licence_it_is_a_hypertable_with_retention_by_command(
    api: Api, poll: Poll, command: Command, stores: Stores, timescale: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names once what the licence withholds; the hourly activity is a plain view."""
    old, young = spread(20, ago(days=28), ago(days=20)), spread(10, ago(days=2), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", old + young)
    with _licence(timescale, "apache"):
        poll()
        done = command("pipelines/retention.py", "--json", TIMESCALE_RETENTION_DAYS="10")
        again = command("pipelines/retention.py", TIMESCALE_RETENTION_DAYS="10")

    assert "not with the licence apache" in caplog.text
    assert caplog.text.count("not_prepared") == 1
    assert done.code == 0, done.err
    assert '"chunks": 0' not in done.out
    assert again.out.startswith("0 chunks")
    assert set(stores.warehouse_ids()) >= ids(young)
    assert len(stores.warehouse_ids()) < 30
    assert stores.query("SELECT sum(events)::bigint AS n FROM {schema}.audit_activity_hourly")[0]["n"] < 30


def test_a_column_is_added_to_compressed_chunks(api: Api, poll: Poll, filled: Stores) -> None:
    """Nothing is decompressed, and the view follows."""
    filled.query("ALTER TABLE {schema}.audit_logs DROP COLUMN zone_name CASCADE")
    chunks = "SELECT count(*) AS n FROM timescaledb_information.chunks WHERE is_compressed"
    compressed = filled.query(chunks)
    api.world.add(ACCOUNT, "v1", [event_at(ago(minutes=1), id="new")])

    assert not poll(TIMESCALE_COMPRESS_AFTER_DAYS="36500").failures.destinations

    named = filled.query("SELECT event_id FROM {schema}.audit_logs_all WHERE zone_name IS NOT NULL")
    assert [row["event_id"] for row in named] == ["new"]
    assert filled.query(chunks) == compressed != [{"n": 0}]


def test_an_owner_without_superuser_makes_it_all(
    api: Api, poll: Poll, stores: Stores, timescale: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    """The owner of the database may make the extension; the loading role only reads and inserts."""
    database = stores.postgres.database
    for role in (f"{database}_owner", f"{database}_ingest"):
        timescale.query(f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
    timescale.query(f"ALTER DATABASE {database} OWNER TO {database}_owner")
    roles = {
        "PG_OWNER_USER": f"{database}_owner",
        "PG_OWNER_PASSWORD": "p",
        "PG_USER": f"{database}_ingest",
        "PG_PASSWORD": "p",
    }
    api.world.add(ACCOUNT, "v1", spread(3, ago(minutes=9), ago(minutes=1)))

    report = poll(**roles)

    assert report.new["warehouse"] == 3
    assert "not_prepared" not in caplog.text
    assert _jobs(stores)["policy_compression"] == 30


@contextmanager
def _licence(timescale: Stores, name: str) -> Iterator[None]:
    """The server under another licence, for sessions that begin in the block."""
    shown = "SELECT current_setting('timescaledb.license', true) AS name"

    def change(sql: str, expected: str) -> None:
        timescale.query(sql)
        timescale.query("SELECT pg_reload_conf()")
        wait_until(lambda: timescale.query(shown) in ([{"name": expected}], [{"name": None}]))

    timescale.query("CREATE EXTENSION IF NOT EXISTS timescaledb")  # without it, the server does not know the setting
    change(f"ALTER SYSTEM SET timescaledb.license = '{name}'", name)
    try:
        yield
    finally:
        change("ALTER SYSTEM RESET timescaledb.license", "timescale")
