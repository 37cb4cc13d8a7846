"""A database or a role may have odd encodings, settings, policies, rights. One line each, never a traceback."""

import os
from collections.abc import Callable, Iterator

import pytest

from benchmarks.servers.commands import Finished
from pipelines.settings.settings import PostgresSettings
from simulator.api import Api
from tests.factory import ACCOUNT, ago, event_at, ids, raw_event, spread
from tests.rows import rows
from tests.stores import Stores

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]


@pytest.fixture
def database(stores: Stores, environment: dict[str, str]) -> Iterator[Callable[[str], Stores]]:
    """A database of its own, made with these options, as the settings say."""
    name = f"db_{stores.schema}"

    def make(options: str = "") -> Stores:
        stores.query(f"CREATE DATABASE {name} TEMPLATE template0 {options}")
        environment["PG_DATABASE"] = name
        server = stores.postgres
        own = PostgresSettings(server.host, server.port, name, server.user, server.password)
        return Stores(own, stores.schema, stores.lake, environment)

    yield make
    stores.query(f"DROP DATABASE {name} WITH (FORCE)")


# --- encodings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", rows("LATIN1", "SQL_ASCII", long=["WIN1252", "EUC_JP"]))
def test_a_database_that_is_not_utf8_is_refused_and_the_lake_goes_on(
    api: Api, command: Command, database: Callable[[str], Stores], encoding: str
) -> None:
    """By the run and by the doctor, in one line; nothing is made there."""
    held = database(f"ENCODING '{encoding}' LOCALE 'C'")
    raw = '{"id":"jose","when":"%s","actor":{"email":"josé@example.com"},"metadata":{"name":"café 中国"}}'
    time = ago(minutes=5)
    events = [event_at(ago(minutes=3)), raw_event(raw % f"{time:%Y-%m-%dT%H:%M:%SZ}", time=time)]
    api.world.add(ACCOUNT, "v1", events)

    done, doctor = command("pipelines/run.py", "--once"), command("pipelines/doctor.py")

    assert (done.code, doctor.code) == (1, 1), done.err
    for text in (done.err, doctor.out):
        assert sum(encoding in line and "UTF8" in line for line in text.splitlines()) == 1, text
    assert "Traceback" not in done.err + doctor.err
    assert len(held.lake_ids()) == 2
    assert held.query("SELECT FROM pg_tables WHERE schemaname = '{schema}'") == []


@pytest.mark.parametrize("encoding", rows("LATIN1", long=["SQL_ASCII", "EUC_KR"]))
def test_the_client_encoding_of_a_role_is_not_ours(
    api: Api, command: Command, stores: Stores, database: Callable[[], Stores], encoding: str
) -> None:
    """We speak UTF8 whatever is set; what was sent is what is there."""
    held = database()
    stores.query(f"ALTER DATABASE {held.postgres.database} SET client_encoding = '{encoding}'")
    time = ago(minutes=5)
    raw = '{"id":"jose","when":"%s","actor":{"email":"josé@example.com"},"metadata":{"name":"café 中国"}}'
    api.world.add(ACCOUNT, "v1", [raw_event(raw % f"{time:%Y-%m-%dT%H:%M:%SZ}", time=time)])

    done = command("pipelines/run.py", "--once")
    stores.query(f"ALTER DATABASE {held.postgres.database} RESET client_encoding")

    assert done.code == 0, done.err
    assert [row["actor_email"] for row in held.warehouse()] == ["josé@example.com"]


# --- settings --------------------------------------------------------------------------------------------------------

SETTINGS = {
    "quote_all_identifiers": "on",
    "search_path": "nowhere, pg_temp",
    "search_path ": "",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Kathmandu",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "client_min_messages": "debug5",
    "client_encoding": "LATIN1",
    "exit_on_error": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "row_security": "off",
    "session_replication_role": "replica",
    "lc_messages": "C",
    "xmloption": "document",
    "backslash_quote": "off",
    "escape_string_warning": "off",
    "check_function_bodies": "off",
    "synchronous_commit": "off",
    "idle_session_timeout": "60s",
    "idle_in_transaction_session_timeout": "20s",
    "lock_timeout": "10s",
    "statement_timeout": "20s",
    "work_mem": "64kB",
    "plan_cache_mode": "force_generic_plan",
    "enable_indexscan": "off",
    "jit_above_cost": "0",
    "default_toast_compression": "pglz",
    "application_name": "somebody else",
    "max_parallel_workers_per_gather": "4",
    "default_statistics_target": "1",
    "gin_pending_list_limit": "64kB",
    "force_parallel_mode": "on",
    "debug_parallel_query": "on",
}
COMMANDS = [
    ("pipelines/run.py", "--once"),
    ("pipelines/doctor.py",),
    ("pipelines/status.py", "--json"),
    (
        "pipelines/reconcile.py",
        "--since",
        f"{ago(days=1):%Y-%m-%d}",
        "--before",
        f"{ago():%Y-%m-%dT%H:%M:%SZ}",
        "--content",
    ),
]


def _set_all(stores: Stores, held: Stores, settings: dict[str, str]) -> list[str]:
    """The settings that this PostgreSQL knows."""
    known = {row["name"] for row in stores.query("SELECT lower(name) AS name FROM pg_settings")}
    names = [name for name in settings if name.strip().lower() in known]
    for name in names:
        value = settings[name] if name.strip() == "search_path" and settings[name] else f"'{settings[name]}'"
        stores.query(f"ALTER DATABASE {held.postgres.database} SET {name.strip()} = {value}")
    return names


def test_settings_of_a_database_change_nothing(
    api: Api, command: Command, stores: Stores, database: Callable[[], Stores]
) -> None:
    """Some thirty of them at the same time."""
    held = database()
    assert len(_set_all(stores, held, SETTINGS)) >= 30
    time = ago(minutes=5)
    refused = raw_event(f'{{"id":"{os.urandom(5_000).hex()}","when":"{time:%Y-%m-%dT%H:%M:%SZ}"}}', time=time)
    events = [*spread(20, ago(hours=1), ago(minutes=1)), refused]
    api.world.add(ACCOUNT, "v1", events)

    done = {arguments[0]: command(*arguments) for arguments in COMMANDS}

    told = "\n".join(one.err + one.out for one in done.values())
    assert "Traceback" not in told
    assert "DEBUG:" not in told  # of client_min_messages, by libpq past our own stderr
    assert [one.code for one in done.values()] == [0, 0, 0, 0], told
    assert len(held.warehouse_ids()) == 20
    assert len(held.query("SELECT reason FROM {schema}.audit_logs_quarantine")) == 1


@pytest.mark.wide
@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("default_transaction_read_only", "on", "cannot execute"),
        ("statement_timeout", "1ms", "statement timeout"),
        ("role", "nobody_at_all", "nobody_at_all"),
        ("default_tablespace", "no_such_place", ""),
        ("temp_tablespaces", "no_such_place", ""),
        ("default_table_access_method", "no_such_method", ""),
        ("transaction_timeout", "1ms", ""),
        ("local_preload_libraries", "no_such_library", ""),
    ],
)
def test_settings_that_stop_us_are_reported_in_postgresqls_words(
    api: Api, command: Command, stores: Stores, database: Callable[[], Stores], name: str, value: str, told: str
) -> None:
    """Or do not stop us."""
    held = database()
    role = f"role_{stores.schema}"
    api.world.add(ACCOUNT, "v1", spread(20, ago(hours=1), ago(minutes=1)))
    stores.query(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'secret word'")
    try:
        _set_role(stores, role, name, value)
        settings = {"PG_USER": role, "PG_PASSWORD": "secret word"}
        done = [command(*arguments, **settings) for arguments in COMMANDS[:3]]
    finally:
        held.query(f"DROP OWNED BY {role}")
        stores.query(f"DROP ROLE {role}")

    text = "\n".join(one.err + one.out for one in done)
    assert "Traceback" not in text, text
    assert "INSERT INTO" not in text
    assert "SELECT" not in text
    assert told in text
    if done[0].code:
        assert done[0].code in {1, 75}
        assert held.lake_ids()


def _set_role(stores: Stores, role: str, name: str, value: str) -> None:
    """Settings that the server lacks are not set."""
    try:
        stores.query(f"ALTER ROLE {role} SET {name} = '{value}'")
    except Exception as error:  # noqa: BLE001  # of any driver: an older or newer server does not know it
        pytest.skip(str(error))


# --- rights and policies ---------------------------------------------------------------------------------------------


@pytest.mark.wide
@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("ALTER TABLE {schema}.audit_logs ENABLE ROW LEVEL SECURITY", "new row violates row-level security policy"),
        ("REVOKE INSERT ON {schema}.audit_logs FROM {role}", "may not read and insert"),
        ("REVOKE ALL ON {schema}._dlt_loads FROM {role}", "permission denied for table _dlt_loads"),
        ("ALTER ROLE {role} SET default_transaction_read_only = on", "cannot execute"),
        ("REVOKE USAGE ON SCHEMA {schema} FROM {role}", "may not read and insert"),
    ],
)
def test_a_refusal_is_reported_in_postgresqls_words(
    api: Api, command: Command, stores: Stores, sql: str, words: str
) -> None:
    """Its words first, and no statement."""
    role = f"role_{stores.schema}"
    first = spread(5, ago(hours=1), ago(minutes=30))
    api.world.add(ACCOUNT, "v1", first)
    assert command("pipelines/run.py", "--once").code == 0
    stores.query(f"CREATE ROLE {role} LOGIN PASSWORD 'secret word'")
    try:
        stores.query(f"GRANT ALL ON SCHEMA {{schema}} TO {role}")
        stores.query(f"GRANT ALL ON ALL TABLES IN SCHEMA {{schema}} TO {role}")
        stores.query(sql.replace("{role}", role))
        api.world.add(ACCOUNT, "v1", [event_at(ago(seconds=1))])
        done = command("pipelines/run.py", "--once", PG_USER=role, PG_PASSWORD="secret word")
    finally:
        stores.query(f"DROP OWNED BY {role}")
        stores.query(f"DROP ROLE {role}")

    (line,) = [line for line in done.err.splitlines() if "destination.failed" in line][:1]
    assert done.code in {1, 75}, done.err
    assert words.replace("{schema}", stores.schema) in line
    assert line.index(words.replace("{schema}", stores.schema)) < 260
    assert not any(word in done.err for word in ("INSERT INTO", "LINE 1", "Traceback", "SELECT "))
    assert stores.warehouse_ids() == sorted(ids(first))
