"""An administrator's changes and settings of the warehouse stop nothing and hide nothing."""

from collections.abc import Callable

import adbc_driver_postgresql.dbapi as adbc
import pytest

from pipelines.loop.report import Report
from pipelines.warehouse import upkeep as after_load
from simulator.api import Api
from tests.factory import ACCOUNT, ago, event_at, ids, spread
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]


@pytest.mark.parametrize("setting", ["datestyle = 'SQL, DMY'", "timezone = 'Asia/Kathmandu'"])
def test_a_database_may_write_dates_in_its_own_way(api: Api, poll: Poll, stores: Stores, setting: str) -> None:
    """Two drivers ask it the same question, and compare the answers."""
    name = f"styled_{stores.schema}"
    stores.query(f"CREATE DATABASE {name}")
    stores.query(f"ALTER DATABASE {name} SET {setting}")
    api.world.add(ACCOUNT, "v1", spread(3, ago(minutes=9), ago(minutes=1)))

    first, second = poll(PG_DATABASE=name), poll(PG_DATABASE=name)

    assert (first.failures.destinations, second.failures.destinations) == ({}, {})
    assert (first.new["warehouse"], second.new["warehouse"]) == (3, 0)


def test_a_table_that_was_dropped_is_filled_again(api: Api, poll: Poll, stores: Stores) -> None:
    """The cursor that was left refers to events that are no longer there, so it goes, too."""
    events = spread(6, ago(days=3), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    poll()
    stores.query("DROP TABLE {schema}.audit_logs CASCADE")

    report = poll()

    assert report.new == {"warehouse": 6}
    assert stores.ids() == (sorted(ids(events)),) * 2


def test_a_unique_index_of_others_makes_no_event_vanish(api: Api, poll: Poll, stores: Stores) -> None:
    """The event that it refuses is quarantined, with its reason."""
    poll()
    stores.query("CREATE UNIQUE INDEX ON {schema}.audit_logs (event_id)")
    api.world.add(ACCOUNT, "v1", [event_at(ago(minutes=minutes), id="twice") for minutes in (2, 3)])

    poll()

    assert stores.warehouse_ids() == ["twice"]
    quarantined = stores.query("SELECT event_id, reason FROM {schema}.audit_logs_quarantine")
    assert [row["event_id"] for row in quarantined] == ["twice"]
    assert "audit_logs_event_id_idx" in quarantined[0]["reason"]


def test_a_column_of_others_is_left_alone(api: Api, poll: Poll, stores: Stores) -> None:
    """Views and loads name ours."""
    poll()
    stores.query("ALTER TABLE {schema}.audit_logs ADD COLUMN note text")
    stores.query("DROP VIEW {schema}.audit_logs_all")
    api.world.add(ACCOUNT, "v1", spread(2, ago(minutes=9), ago(minutes=1)))

    report = poll()

    assert report.new["warehouse"] == 2
    assert stores.query("SELECT count(*) AS n FROM {schema}.audit_logs_all") == [{"n": 2}]


def test_a_long_reader_holds_up_no_load(
    api: Api, poll: Poll, stores: Stores, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A step after the load that would wait for the reader is given up in time, reported, and taken later."""
    monkeypatch.setattr(after_load, "LOCK_TIMEOUT_SECONDS", 0.2)
    poll()
    stores.query("DROP INDEX {schema}.audit_logs_actor")
    api.world.add(ACCOUNT, "v1", spread(2, ago(minutes=9), ago(minutes=1)))
    server = stores.postgres
    uri = f"postgresql://{server.user}:{server.password}@{server.host}:{server.port}/{server.database}"
    with adbc.connect(uri) as reader, reader.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {stores.schema}.audit_logs IN ROW EXCLUSIVE MODE")
        meanwhile = poll()
    told = caplog.text
    indexes = "SELECT 1 AS one FROM pg_indexes WHERE schemaname = '{schema}' AND indexname = 'audit_logs_actor'"
    assert not stores.query(indexes)
    poll()

    assert "lock timeout" in told
    assert stores.query(indexes)
    assert meanwhile.new == {"warehouse": 2, "lake": 2}
