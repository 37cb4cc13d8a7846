"""A role of `roles.sql` for people and dashboards reads the events, and can do nothing else."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from psycopg2.extras import RealDictCursor

from benchmarks.servers.commands import Finished
from pipelines.settings.settings import PROJECT_ROOT
from pipelines.warehouse.embedded import BINARIES
from simulator.api import Api
from tests.factory import ACCOUNT, ago, spread
from tests.faults.stores.test_least_rights import roles
from tests.stores import Stores

__all__ = ["roles"]

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]
ONCE = ("pipelines/run.py", "--once", "--json")
READABLE = ("audit_logs", "audit_logs_all", "audit_logs_rehydrated", "audit_activity_hourly", "audit_completeness")
DOCUMENT = (PROJECT_ROOT / "docs" / "warehouse.md").read_text()
QUESTIONS = re.findall(r"^\*\*([^*]+)\*\*\n\n```sql\n(.+?)```", DOCUMENT, re.DOTALL | re.MULTILINE)


@dataclass
class Reader:
    """The role, and the one that owns the tables."""

    stores: Stores
    database: str
    name: str
    owner: Mapping[str, str]

    def make(self) -> None:
        """Runs `roles.sql` for this role alone, as a superuser."""
        server = self.stores.postgres
        login = {"PGHOST": server.host, "PGPORT": str(server.port)}
        login |= {"PGUSER": server.user, "PGPASSWORD": server.password}
        variables = {"schema": self.stores.schema, "owner": self.owner["user"], "reader": self.name}
        psql = shutil.which("psql") or str(BINARIES / "psql")
        command = [psql, "-d", self.database, *(f"-v{name}={value}" for name, value in variables.items())]
        command += ["-f", "pipelines/warehouse/sql/roles.sql"]
        subprocess.run(command, env={**os.environ, **login}, cwd=PROJECT_ROOT, check=True)
        self.stores.query(f"ALTER ROLE {self.name} PASSWORD 'secret-of-{self.name}'")

    def ask(self, *statements: str) -> list[dict[str, Any]]:
        """The rows of the last statement, asked by the role in one session."""
        return self._ask(self.name, f"secret-of-{self.name}", statements)

    def as_owner(self, *statements: str) -> list[dict[str, Any]]:
        """As above, by the owner."""
        return self._ask(self.owner["user"], self.owner["password"], statements)

    def _ask(self, user: str, password: str, statements: tuple[str, ...]) -> list[dict[str, Any]]:
        server = self.stores.postgres
        login = {"host": server.host, "port": server.port, "dbname": self.database, "user": user, "password": password}
        with closing(psycopg2.connect(**login, cursor_factory=RealDictCursor)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement.replace("{schema}", self.stores.schema))
                return [dict(row) for row in cursor.fetchall()] if cursor.description else []


@pytest.fixture
def reader(stores: Stores, roles: dict[str, str]) -> Reader:
    """Not made yet; in a database whose tables have an owner."""
    owner = {"user": roles["PG_OWNER_USER"], "password": roles["PG_OWNER_PASSWORD"]}
    return Reader(stores, roles["PG_DATABASE"], roles["PG_OWNER_USER"].replace("owner", "reader"), owner)


@pytest.fixture
def loaded(api: Api, command: Command) -> Callable[[], None]:
    """Loads three events more, by a start of the main job."""

    def load() -> None:
        api.world.add(ACCOUNT, "v1", spread(3, ago(minutes=5), ago(minutes=1)))
        done = command(*ONCE)
        assert done.code == 0, done.err

    return load


@pytest.mark.parametrize("is_first", [True, False])
def test_a_reader_reads_events_views_and_completeness(
    reader: Reader, loaded: Callable[[], None], *, is_first: bool
) -> None:
    """Every question of the docs runs as it is written, whichever is made first, the role or the tables."""
    if is_first:
        reader.make()
    loaded()
    if not is_first:
        reader.make()

    counts = {name: reader.ask(f"SELECT count(*) AS events FROM {name}")[0]["events"] for name in READABLE}

    assert {name: counts[name] for name in READABLE[:3]} == {
        "audit_logs": 3,
        "audit_logs_all": 3,
        "audit_logs_rehydrated": 0,
    }
    assert len(QUESTIONS) >= 8
    for _, sql in QUESTIONS:
        reader.ask(sql)


def test_a_reader_writes_nothing(reader: Reader, loaded: Callable[[], None]) -> None:
    """A reader writes neither by mistake nor after it has made its session writable."""
    loaded()
    reader.make()
    for statement in (
        "INSERT INTO audit_logs SELECT * FROM audit_logs",
        "UPDATE audit_logs SET event_id = ''",
        "DELETE FROM audit_logs",
        "TRUNCATE audit_logs",
        "DROP VIEW audit_logs_all",
        "ALTER TABLE audit_logs ADD COLUMN x int",
        "DELETE FROM audit_completeness",
        "CREATE TABLE {schema}.x (y int)",
        "CREATE SCHEMA elsewhere",
        "COPY audit_logs TO PROGRAM 'cat'",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            reader.ask("SET default_transaction_read_only = off", statement)
        with pytest.raises((psycopg2.errors.ReadOnlySqlTransaction, psycopg2.errors.InsufficientPrivilege)):
            reader.ask(statement)

    assert reader.ask("SHOW default_transaction_read_only") == [{"default_transaction_read_only": "on"}]
    assert reader.ask("SELECT count(*) AS events FROM audit_logs") == [{"events": 3}]


def test_a_reader_sees_no_secret(reader: Reader, loaded: Callable[[], None]) -> None:
    """No password, file or state, and no other role's statements."""
    reader.make()
    loaded()
    for statement in (
        "SELECT * FROM pg_authid",
        "SELECT * FROM pg_shadow",
        "SELECT pg_read_file('postgresql.conf')",
        "SELECT * FROM _dlt_pipeline_state",
        "SELECT * FROM _dlt_loads",
        f"SET ROLE {reader.owner['user']}",
    ):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            reader.ask(statement)

    others = reader.ask("SELECT DISTINCT query FROM pg_stat_activity WHERE usename <> current_user AND query <> ''")
    assert {row["query"] for row in others} <= {"<insufficient privilege>"}


def test_a_reader_reads_what_a_later_release_makes(reader: Reader, loaded: Callable[[], None]) -> None:
    """New columns and tables, a partition of one, and a view that is made again."""
    reader.make()
    loaded()
    reader.as_owner(
        "ALTER TABLE {schema}.audit_logs ADD COLUMN ray text",
        "CREATE TABLE {schema}.audit_new (id int) PARTITION BY RANGE (id)",
        "CREATE TABLE {schema}.audit_new_1 PARTITION OF {schema}.audit_new FOR VALUES FROM (0) TO (9)",
        "DROP VIEW {schema}.audit_activity_hourly",
    )
    loaded()

    assert [row["ray"] for row in reader.ask("SELECT ray FROM audit_logs")] == [None] * 6
    assert reader.ask("SELECT sum(events)::bigint AS events FROM audit_activity_hourly") == [{"events": 6}]
    assert reader.ask("SELECT count(*) AS n FROM audit_new") == [{"n": 0}]
    assert reader.ask("SELECT count(*) AS n FROM audit_new_1") == [{"n": 0}]


def test_a_reader_can_be_added_where_the_loading_role_owns_the_tables(
    environment: dict[str, str], reader: Reader, loaded: Callable[[], None]
) -> None:
    """By naming PG_USER as the owner; dlt's tables stay out of sight."""
    del environment["PG_OWNER_USER"], environment["PG_OWNER_PASSWORD"]
    environment |= {"PG_USER": reader.owner["user"], "PG_PASSWORD": reader.owner["password"]}
    loaded()
    reader.make()

    assert reader.ask("SELECT count(*) AS events FROM audit_logs_all") == [{"events": 3}]
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        reader.ask("SELECT * FROM _dlt_pipeline_state")
