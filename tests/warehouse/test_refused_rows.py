"""One row that PostgreSQL refuses holds up no other, whatever the error; what every row meets is no row's fault."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import adbc_driver_manager
import pyarrow as pa
import pytest
from adbc_driver_manager.dbapi import Connection

from pipelines.loop.report import Report
from pipelines.warehouse.connection import connect
from pipelines.warehouse.write import load_events, load_quarantined
from simulator.api import Api
from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, QUARANTINE_SCHEMA
from tests.factory import ACCOUNT, ago, event_at, raw_event
from tests.stores import Stores

pytestmark = pytest.mark.integration

TIME = ago(minutes=1)
Poll = Callable[..., Report]
RAISING = """
CREATE FUNCTION {schema}.raising() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF %s THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '%s'; END IF;
    RETURN NEW;
END $$"""
TRIGGER = "CREATE TRIGGER raising BEFORE INSERT ON {schema}.audit_logs FOR EACH ROW EXECUTE FUNCTION {schema}.raising()"


def _events(number: int, **columns: Callable[[int], Any]) -> pa.Table:
    def row(n: int) -> dict[str, Any]:
        required = {"event_id": f"event-{n}", "account_id": ACCOUNT, "api_version": "v1", "timestamp": TIME}
        own = {name: value(n) for name, value in columns.items()}
        raw = json.dumps({"id": n})
        return {"raw_event": raw, "ingestion_time": ago(), "metadata": "{}", **required, **own}

    return pa.Table.from_pylist([row(n) for n in range(number)], schema=EVENT_SCHEMA)


@pytest.fixture
def connection(poll: Poll, stores: Stores) -> Iterator[Connection]:
    """To the tables, in autocommit mode, as loads have it."""
    poll()
    from dlt.destinations.impl.postgres.configuration import PostgresCredentials  # noqa: PLC0415

    credentials, server = PostgresCredentials(), stores.postgres
    credentials.host, credentials.port, credentials.database = server.host, int(server.port), server.database
    credentials.username, credentials.password = server.user, server.password
    with connect(credentials, autocommit=True) as connection:
        yield connection


def _held(stores: Stores) -> int:
    return int(stores.query("SELECT count(*) AS n FROM {schema}.audit_logs")[0]["n"])


@pytest.mark.wide
@pytest.mark.parametrize(
    "sqlstate", ["0A000", "22P05", "P0001", "21000", "38000", "39P01", "44000", "54000", "XX000", "ZZ999"]
)
@pytest.mark.parametrize("refused", ["event-3", "event-0", "event-9"])
def test_any_error_of_one_row_is_that_rows(connection: Connection, stores: Stores, sqlstate: str, refused: str) -> None:
    """The others are loaded, and it is quarantined with PostgreSQL's words."""
    stores.query(RAISING % (f"NEW.event_id = '{refused}'", sqlstate))
    stores.query(TRIGGER)

    quarantined = load_events(connection, stores.schema, _events(10)).to_pylist()

    assert [row["event_id"] for row in quarantined] == [refused]
    assert quarantined[0]["reason"] == f"refused by PostgreSQL ({sqlstate}): not this one"
    assert _held(stores) == 9


@pytest.mark.parametrize("sqlstate", ["0A000", "P0001"])
def test_a_batch_of_one_is_judged_by_a_plain_row(connection: Connection, stores: Stores, sqlstate: str) -> None:
    """If that passes, the row is to blame."""
    stores.query(RAISING % ("NEW.event_id = 'event-0'", sqlstate))
    stores.query(TRIGGER)

    assert load_events(connection, stores.schema, _events(1)).num_rows == 1
    assert _held(stores) == 0


@pytest.mark.parametrize("sqlstate", ["0A000", "P0001"])
def test_what_every_row_meets_is_no_rows_fault(connection: Connection, stores: Stores, sqlstate: str) -> None:
    """It is raised, and nothing is quarantined."""
    stores.query(RAISING % ("true", sqlstate))
    stores.query(TRIGGER)

    for number in (1, 10):
        with pytest.raises(adbc_driver_manager.Error, match="not this one"):
            load_events(connection, stores.schema, _events(number))
    assert stores.query("SELECT FROM {schema}.audit_logs_quarantine") == []


@pytest.mark.wide
@pytest.mark.parametrize("sqlstate", ["53100", "57P01", "55P03", "42501", "25006", "40001", "58030", "XX001", "08006"])
def test_an_error_of_the_environment_is_never_a_rows(connection: Connection, stores: Stores, sqlstate: str) -> None:
    """Even if it met one row alone."""
    stores.query(RAISING % ("NEW.event_id = 'event-3'", sqlstate))
    stores.query(TRIGGER)

    with pytest.raises(adbc_driver_manager.Error, match="not this one"):
        load_events(connection, stores.schema, _events(10))
    assert _held(stores) == 0
    assert stores.query("SELECT FROM {schema}.audit_logs_quarantine") == []


def test_a_row_that_copy_refuses_is_that_rows(connection: Connection, stores: Stores) -> None:
    """A NUL goes into no text; not into the quarantine's either."""
    events = _events(10, event_id=lambda n: "a\0b" if n == 4 else f"event-{n}")

    quarantined = load_events(connection, stores.schema, events).to_pylist()

    assert [row["event_id"] for row in quarantined] == ["a\0b"]
    assert "22021" in quarantined[0]["reason"]
    assert _held(stores) == 9
    assert [row["event_id"] for row in stores.query("SELECT event_id FROM {schema}.audit_logs_quarantine")] == [
        "a\\u0000b"
    ]


def test_one_refused_row_of_many_costs_bounded_work(connection: Connection, stores: Stores) -> None:
    """The others are looked up by the key's index."""
    begun = time.process_time()
    quarantined = load_events(connection, stores.schema, _events(10_000, event_id=lambda n: f"{n}" + "\0" * (n == 7)))

    assert (quarantined.num_rows, _held(stores)) == (1, 9_999)
    assert time.process_time() - begun < 20


def test_a_batch_that_is_refused_whole_is_refused_in_bounded_work(connection: Connection, stores: Stores) -> None:
    """One of 10,000 rows is accepted, wherever it stands; nothing is lost."""
    events = _events(10_000, event_id=lambda n: f"{n}\0" if n != 7_777 else "fine")

    begun = time.process_time()
    quarantined = load_events(connection, stores.schema, events)

    assert quarantined.num_rows == 9_999
    assert _held(stores) == 1
    assert stores.query("SELECT count(*) AS n FROM {schema}.audit_logs_quarantine") == [{"n": 9_999}]
    assert time.process_time() - begun < 20


def test_a_constraint_that_is_checked_at_the_end_blames_its_row(connection: Connection, stores: Stores) -> None:
    """At COMMIT nobody could say which it was."""
    stores.query(RAISING % ("NEW.event_id = 'event-3'", "23514"))
    stores.query(
        TRIGGER.replace("CREATE TRIGGER", "CREATE CONSTRAINT TRIGGER")
        .replace("BEFORE", "AFTER")
        .replace("FOR EACH", "DEFERRABLE INITIALLY DEFERRED FOR EACH")
    )

    assert load_events(connection, stores.schema, _events(10)).num_rows == 1
    assert _held(stores) == 9


@pytest.mark.parametrize("known", [0, 4])
def test_a_row_that_vanishes_without_an_error_is_one(connection: Connection, stores: Stores, known: int) -> None:
    """A trigger, or an extension, that drops rows: nothing of the load counts."""
    load_events(connection, stores.schema, _events(known))
    stores.query(
        "CREATE FUNCTION {schema}.dropping() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.event_id = 'event-7' THEN RETURN NULL; END IF; RETURN NEW; END $$"
    )
    stores.query(TRIGGER.replace("raising", "dropping"))

    with pytest.raises(AuditLogsError, match="1 events were neither written"):
        load_events(connection, stores.schema, _events(10))
    assert _held(stores) == known


def test_conflicts_are_counted_as_there(connection: Connection, stores: Stores) -> None:
    """Rows of before, and rows that are twice in the batch."""
    load_events(connection, stores.schema, _events(6))

    load_events(connection, stores.schema, pa.concat_tables([_events(10), _events(8)]))
    load_quarantined(connection, stores.schema, QUARANTINE_SCHEMA.empty_table())

    assert _held(stores) == 10


def test_a_table_of_somebody_else_is_not_taken_for_the_stage(connection: Connection, stores: Stores) -> None:
    """Whatever a role's search_path has first."""
    stores.query("CREATE TABLE {schema}.staged_batch (LIKE {schema}.audit_logs)")
    with connection.cursor() as cursor:
        cursor.execute(f"SET search_path = {stores.schema}, pg_temp")

    load_events(connection, stores.schema, _events(10))

    assert _held(stores) == 10


# --- long texts ------------------------------------------------------------------------------------------------------


@pytest.mark.wide
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("field", ["actor.email", "resource.id"])
def test_a_long_text_in_an_indexed_column_is_in_the_table(
    api: Api,
    poll: Poll,
    stores: Stores,
    field: str,
    is_first: bool,  # noqa: FBT001  # a parameter of the test
) -> None:
    """Whichever comes first, it or the index; and the questions that people ask still use the index."""
    outer, inner = field.split(".")
    column = {"actor.email": "actor_email", "resource.id": "resource_id"}[field]
    texts = ["".join(f"{n * 7919 % 99_991:05d}" for n in range(size)) for size in (600, 20_000)]
    when = ago(minutes=5)
    long = [
        raw_event(
            json.dumps({"id": f"long-{n}", "when": f"{when:%Y-%m-%dT%H:%M:%SZ}", outer: {inner: text}}), time=when
        )
        for n, text in enumerate(texts)
    ]
    if not is_first:
        poll()
    api.world.add(ACCOUNT, "v1", [*long, event_at(ago(minutes=3))])

    poll()

    assert [row[column] for row in stores.warehouse() if row["event_id"].startswith("long")] == texts
    assert stores.query("SELECT FROM {schema}.audit_logs_quarantine") == []
    stores.query(
        "INSERT INTO {schema}.audit_logs SELECT 'n' || n, now(), 'a', 'v1', NULL, NULL, NULL, n::text, NULL, NULL,"
        " NULL, NULL, n::text, NULL, NULL, NULL, NULL, '{}', now() FROM generate_series(1, 20000) AS n"
    )
    stores.query("ANALYZE {schema}.audit_logs")
    index = {"actor_email": "audit_logs_actor", "resource_id": "audit_logs_resource"}[column]
    for value in ("777", texts[0]):
        plan = stores.plan(
            f"SELECT * FROM {{schema}}.audit_logs WHERE {column} = '{value}' ORDER BY \"timestamp\" DESC"
        )
        assert f"Index Scan on {index}" in plan or f"Index Scan using {index}" in plan, plan


def test_an_index_of_the_kind_before_is_made_anew(api: Api, poll: Poll, stores: Stores) -> None:
    """At the next start: a B-tree would refuse the long ones."""
    poll()
    stores.query("DROP INDEX {schema}.audit_logs_resource")
    stores.query('CREATE INDEX audit_logs_resource ON {schema}.audit_logs (resource_id, "timestamp" DESC)')
    api.world.add(ACCOUNT, "v1", [event_at(ago(minutes=3))])

    poll()

    (made,) = stores.query(
        "SELECT indexdef FROM pg_indexes WHERE schemaname = '{schema}' AND indexname = 'audit_logs_resource'"
    )
    assert "USING spgist" in made["indexdef"]
