"""The counts by hour are those of the table after every change, whoever makes it, and cannot be changed otherwise."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.events import insert_events
from benchmarks.servers.commands import Finished
from pipelines.loop.report import Report
from pipelines.settings.settings import TimescaleSettings
from pipelines.warehouse import counts
from pipelines.warehouse.connection import connect, transaction
from pipelines.warehouse.statements import sections_of
from pipelines.warehouse.upkeep import prepare
from pipelines.warehouse.write import load_events, update_events
from simulator.api import Api
from sources.cloudflare_audit_logs.events import decode_page
from sources.cloudflare_audit_logs.streams import Stream
from tests.factory import ACCOUNT, ago, event_at, spread
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]
VIEWS = ("audit_activity_hourly", "audit_seen_hourly")
UNCOUNT = "DROP FUNCTION {schema}.audit_count_events(), {schema}.audit_forget_counts() CASCADE"
HOUR = datetime(2026, 3, 1, 5, tzinfo=UTC)
_ids = count(1)


def wrong_rows(stores: Stores) -> list[dict[str, Any]]:
    """The rows of the views that are not those of the table, counted now, and the other way round."""
    found = []
    for view in VIEWS:
        made = sections_of("after_load.sql", schema="{schema}")[f"view {view}"][0].partition(" AS")[2]
        shown = f"SELECT * FROM {{schema}}.{view}"
        found += stores.query(f"({shown} EXCEPT ALL ({made})) UNION ALL (({made}) EXCEPT ALL {shown})")
    return found


def are_counted(stores: Stores) -> bool:
    """True if both views read the counts, and not the table."""
    return all("audit_hourly_counts" in stores.plan(f"SELECT * FROM {{schema}}.{view}") for view in VIEWS)


@pytest.fixture
def counted(poll: Poll, stores: Stores) -> Stores:
    """An empty warehouse whose views read the counts."""
    poll()
    assert are_counted(stores)
    return stores


@pytest.fixture
def database(counted: Stores) -> Iterator[Any]:
    """A session of somebody else's, each statement of which is a transaction."""
    with closing(_session(counted)) as session:
        session.autocommit = True
        yield session


def _session(stores: Stores) -> Any:
    server = stores.postgres
    return psycopg2.connect(
        host=server.host,
        port=server.port,
        dbname=server.database,
        user=server.user,
        password=server.password,
        options=f"-c search_path={stores.schema} -c lock_timeout=2s",
    )


def _run(session: Any, sql: str) -> None:
    with session.cursor() as cursor:
        cursor.execute(sql)


def _insert(number: int, first: int, hours: int) -> str:
    """Inserts some events of few kinds, with nulls and empty texts among them."""
    return f"""
        INSERT INTO audit_logs (event_id, "timestamp", account_id, api_version, action_type, action_result, actor_email,
            actor_id, ip_address, resource_type, raw_event)
        SELECT 'e' || i, '{HOUR}'::timestamptz + i % {hours} * interval '1 hour', 'a' || i % 2, 'v1',
            (ARRAY['add', NULL, ''])[1 + i % 3], NULL, (ARRAY['x@y', '', NULL])[1 + i % 3],
            nullif('id' || i % 4, 'id0'),
            (ARRAY['10.0.0.1', NULL, '', repeat('9', 3000)])[1 + i % 4], 'zone', '{{}}'
        FROM generate_series({first}, {first + number - 1}) AS i ON CONFLICT DO NOTHING"""


CHANGES = st.one_of(
    st.builds(_insert, st.sampled_from([1, 2, 40]), st.integers(0, 60), st.integers(1, 4)),
    st.integers(1, 5).map(lambda n: f"DELETE FROM audit_logs WHERE right(event_id, 1)::int % {n} = 0"),
    st.integers(1, 5).map(
        lambda n: (
            f"""UPDATE audit_logs SET action_type = 'changed', "timestamp" = "timestamp" + interval '1 hour'
            WHERE right(event_id, 1)::int % {n} = 0 AND right(event_id, 2) ~ '^e?[0-9]$'"""
        )
    ),
    st.just("""INSERT INTO audit_logs SELECT * FROM audit_logs
        ON CONFLICT (account_id, "timestamp", event_id, api_version) DO UPDATE SET ip_address = '10.9.9.9'"""),
    st.just("TRUNCATE audit_logs"),
    st.just("BEGIN; DELETE FROM audit_logs; ROLLBACK"),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(CHANGES, min_size=1, max_size=8), recounts_after=st.integers(0, 8))
def test_the_counts_are_those_of_the_table_after_any_changes(
    counted: Stores, database: Any, changes: list[str], recounts_after: int
) -> None:
    """Inserts, duplicates, deletions, replacements, all at once; and however often the history is counted again."""
    _run(database, "TRUNCATE audit_logs")
    for number, change in enumerate(changes):
        if number == recounts_after:
            _count_again(counted)
        with suppress(psycopg2.errors.UniqueViolation):  # nothing of that statement counts
            _run(database, change)

        assert wrong_rows(counted) == []


def _count_again(stores: Stores) -> None:
    stores.query("COMMENT ON TABLE {schema}.audit_hourly_counts IS 'infinity'")
    with connect(_credentials(stores)) as connection:
        assert counts.count_older_events(connection, stores.schema, is_patient=True) is None


def _credentials(stores: Stores) -> Any:
    from benchmarks.warehouse_table import Table  # noqa: PLC0415  # the one place that makes them of settings

    return Table(stores.postgres, "plain", 0, stores.schema).credentials


def test_two_transactions_count_the_same_hour_and_neither_waits(counted: Stores, database: Any) -> None:
    """One that is rolled back, or whose session ends, leaves nothing."""
    _run(database, _insert(40, 0, 1))
    for end in ("COMMIT", "ROLLBACK", "SELECT pg_terminate_backend(pg_backend_pid())"):
        with closing(_session(counted)) as other:
            _run(other, _insert(40, 100 * next(_ids), 1))
            _run(database, _insert(40, 100 * next(_ids), 1))
            _run(database, "DELETE FROM audit_logs WHERE event_id IN ('e1', 'e2', 'e3')")
            assert wrong_rows(counted) == []
            with suppress(psycopg2.OperationalError):
                _run(other, end)

        assert wrong_rows(counted) == []
    assert counted.query("SELECT count(*) AS n FROM {schema}.audit_logs")[0]["n"] > 150


def test_writers_of_one_hour_count_each_event_once(counted: Stores) -> None:
    """Loads beside each other, of the same events in part, while some are replaced."""
    events = [event_at(HOUR + timedelta(seconds=n)) for n in range(400)]
    page = decode_page([event.raw for event in events], Stream(ACCOUNT, "v1"), datetime.now(UTC)).events

    def load(number: int) -> None:
        with connect(_credentials(counted), autocommit=True) as connection:
            for first in range(0, 300, 20):
                load_events(connection, counted.schema, page.slice(first + 10 * number, 60))
            if number == 0:
                update_events(connection, counted.schema, page.slice(0, 50))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load, range(4)))

    assert wrong_rows(counted) == []
    assert counted.query("SELECT sum(events)::bigint AS n FROM {schema}.audit_activity_hourly") == [{"n": 370}]


def test_repairs_and_the_retention_are_counted(api: Api, poll: Poll, command: Command, stores: Stores) -> None:
    """The counts follow what reconcile adds and replaces and what retention deletes; rehydration leaves them alone."""
    api.world.add(ACCOUNT, "v1", [*spread(30, ago(hours=218), ago(hours=217)), *spread(30, ago(hours=4), ago(hours=3))])
    poll()
    window = ("--since", ago(days=10).isoformat(), "--before", ago(hours=1).isoformat())
    stores.query("DELETE FROM {schema}.audit_logs WHERE left(md5(event_id), 1) < '8'")
    stores.query("UPDATE {schema}.audit_logs SET action_type = 'altered', ip_address = NULL")
    assert wrong_rows(stores) == []

    mended = command("pipelines/reconcile.py", *window, "--repair", "--content", "--without-api")
    repaired = stores.query("SELECT sum(events)::bigint AS n FROM {schema}.audit_activity_hourly")
    assert (mended.code, wrong_rows(stores), repaired) == (0, [], [{"n": 60}]), mended.err
    dropped = command("pipelines/retention.py", TIMESCALE_RETENTION_DAYS="5")
    back = command("pipelines/rehydrate.py", *window)

    assert (dropped.code, back.code) == (0, 0), dropped.err + back.err
    assert wrong_rows(stores) == []
    assert are_counted(stores)
    assert stores.query("SELECT sum(events)::bigint AS n FROM {schema}.audit_activity_hourly") == [{"n": 30}]


def test_a_history_is_counted_piece_by_piece_and_right_meanwhile(
    counted: Stores, database: Any, poll: Poll, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each load a few hours more, while others load and delete; the views count the table until it is whole."""
    counted.query(UNCOUNT)
    counted.query(insert_events(counted.schema, 3_000, datetime.now(UTC), timedelta(days=30)))
    monkeypatch.setattr(counts, "PIECE_EVENTS", 700)
    monkeypatch.setattr(counts, "SECONDS_A_LOAD", 0.0)
    poll()
    assert not are_counted(counted)
    loads = 1
    while not are_counted(counted):
        loads += 1
        api.world.add(ACCOUNT, "v1", [event_at(ago(seconds=1))])
        poll()
        _run(
            database,
            "DELETE FROM audit_logs WHERE ctid = ANY (ARRAY(SELECT ctid FROM audit_logs ORDER BY random() LIMIT 50))",
        )

        assert wrong_rows(counted) == []
    assert loads > 2
    assert wrong_rows(counted) == []


@pytest.mark.parametrize("lost", [UNCOUNT, "DROP TRIGGER audit_count_deleted ON {schema}.audit_logs"])
def test_counts_that_somebody_has_stopped_are_made_right(counted: Stores, database: Any, poll: Poll, lost: str) -> None:
    """At the next start; a trigger that is not there has counted nothing."""
    _run(database, _insert(40, 0, 4))
    counted.query(lost)
    _run(database, "DELETE FROM audit_logs WHERE event_id ~ '7$'")
    _run(database, _insert(40, 40, 4))

    poll()

    assert wrong_rows(counted) == []
    assert are_counted(counted)
    _run(database, "DELETE FROM audit_logs WHERE event_id ~ '8$'")
    assert wrong_rows(counted) == []


def test_a_table_that_is_to_be_a_hypertable_is_not_counted(counted: Stores) -> None:
    """The triggers go before: TimescaleDB takes no table with such."""
    sections = counts.sections(counted.schema)
    with transaction(_credentials(counted)) as cursor:
        for view in VIEWS:
            cursor.execute(f"DROP VIEW {counted.schema}.{view}")
        for statement in sections["no counts"]:
            cursor.execute(statement)

    on_table = "tgrelid = '{schema}.audit_logs'::regclass"
    left = counted.query(f"SELECT FROM pg_trigger WHERE tgname LIKE 'audit%' AND {on_table}")
    outcomes = list(prepare(_credentials(counted), counted.schema, TimescaleSettings(), reader=counted.postgres.user))

    assert left == []
    assert [outcome.reason for outcome in outcomes] == [None] * len(outcomes)
    assert are_counted(counted)
