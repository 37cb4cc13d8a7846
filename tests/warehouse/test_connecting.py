"""One way to connect: what the settings say means what psql takes it to mean, by each driver; no secret shows."""

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

from benchmarks.servers.commands import Finished
from pipelines.cli.own_psql import variables_of
from pipelines.load.store import client_of
from pipelines.loop.report import Report
from pipelines.settings.settings import PROJECT_ROOT, PostgresSettings, read_environment, read_store_settings
from pipelines.warehouse.connection import connect, conninfo, rows_of
from pipelines.warehouse.destination import Warehouse
from pipelines.warehouse.embedded import embedded_postgres
from simulator.api import Api
from tests.factory import ACCOUNT, ago, ids, spread
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]

PASSWORDS = [
    "two words",
    " around ",
    "it's",
    'back\\slash "quote"',
    "50%25 @/:#?&=[]",
    "pässwörd ☃",
    "${HOME} $x",
    "none",
    "postgresql://u:p@h/d",
    "'; host=elsewhere '",
]
NAMES = ["with space", "what?", "50%25", "o'neil", 'say "hi"', "a=b", "role.project", "dätabase/1", "back\\slash"]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.fixture
def reached(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """The user and database that the drivers report, on the settings of `environment` and what a test adds."""

    def reached(**changes: str) -> list[dict[str, Any]]:
        for name, value in {**environment, **changes}.items():
            monkeypatch.setenv(name, value)
        Container()[PluggableRunContext].reload(str(PROJECT_ROOT))
        client = client_of(Warehouse.of(read_store_settings(read_environment())))
        asked = "SELECT current_user::text AS user, current_database()::text AS database"
        with connect(client.config.credentials) as connection, connection.cursor() as cursor:
            by_adbc = rows_of(cursor, asked)
        with client.sql_client as dlts:
            by_dlt = [{"user": user, "database": database} for user, database in dlts.execute_sql(asked)]
        return [*by_adbc, *by_dlt]

    return reached


@pytest.fixture
def role(stores: Stores) -> Iterator[Callable[[str, str], None]]:
    """Makes a role with a password, and a database of the same name; takes both away."""
    made = []

    def make(name: str, password: str) -> None:
        made.append(name)
        literal = password.replace("'", "''")
        stores.query(f"CREATE ROLE {_quoted(name)} LOGIN PASSWORD '{literal}'")
        stores.query(f"CREATE DATABASE {_quoted(name)} OWNER {_quoted(name)}")

    yield make
    for name in made:
        stores.query(f"DROP DATABASE {_quoted(name)} WITH (FORCE)")
        stores.query(f"DROP ROLE {_quoted(name)}")


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_is_taken_as_it_is(
    reached: Callable[..., Any], role: Callable[[str, str], None], stores: Stores, command: Command, password: str
) -> None:
    """By ADBC, by dlt and by psql."""
    name = f"pw_{stores.schema}"
    role(name, password)
    settings = {"PG_USER": name, "PG_PASSWORD": password, "PG_DATABASE": name}

    found = reached(**settings)
    asked = command("pipelines/psql.py", "-Atc", "SELECT current_user", **settings)

    assert found == [{"user": name, "database": name}] * 2
    assert asked.out.strip() == name, asked.err


@pytest.mark.parametrize("name", NAMES)
def test_a_database_and_a_role_are_taken_as_they_are(
    reached: Callable[..., Any], role: Callable[[str, str], None], stores: Stores, command: Command, name: str
) -> None:
    """None of their characters leads elsewhere."""
    own = f"{name} {stores.schema}"
    role(own, "secret word")
    settings = {"PG_USER": own, "PG_PASSWORD": "secret word", "PG_DATABASE": own}

    found = reached(**settings)
    asked = command("pipelines/psql.py", "-Atc", "SELECT current_database()", **settings)

    assert found == [{"user": own, "database": own}] * 2
    assert asked.out.strip() == own, asked.err


def test_a_run_loads_through_odd_names(
    api: Api, command: Command, role: Callable[[str, str], None], stores: Stores, environment: dict[str, str]
) -> None:
    """From the first table to the doctor, and the password is in no text."""
    own, password = f'o\'neil "the" a=b?% {stores.schema}', " canary 'pw' \\ %20@/ "
    role(own, password)
    environment.update(PG_USER=own, PG_PASSWORD=password, PG_DATABASE=own)
    api.world.add(ACCOUNT, "v1", spread(7, ago(hours=1), ago(minutes=1)))

    done, doctor = command("pipelines/run.py", "--once", "--json"), command("pipelines/doctor.py")
    counted = command("pipelines/psql.py", "-Atc", "SELECT count(*) FROM audit_logs_all")

    assert (done.code, doctor.code) == (0, 0), done.err + doctor.out
    assert counted.out.strip() == "7", counted.err + done.err
    assert "canary" not in done.err + done.out + doctor.out + doctor.err


def test_dlts_own_names_win(reached: Callable[..., Any], postgres: PostgresSettings) -> None:
    """One by one, and as the URL that dlt takes."""
    own = {"PG_HOST": "nowhere.invalid", "PG_PASSWORD": "wrong"}
    names = {
        "DESTINATION__POSTGRES__CREDENTIALS__HOST": postgres.host,
        "DESTINATION__POSTGRES__CREDENTIALS__PASSWORD": postgres.password,
    }
    url = f"postgresql://{postgres.user}:{postgres.password}@{postgres.host}:{postgres.port}/template1"

    assert reached(**own, **names)[0]["database"] == "postgres"
    for name in names:
        os.environ.pop(name)
    assert reached(**own, DESTINATION__POSTGRES__CREDENTIALS=url)[1]["database"] == "template1"


@pytest.mark.parametrize(
    "command_line", [("pipelines/run.py", "--once"), ("pipelines/doctor.py",), ("pipelines/status.py",)]
)
@pytest.mark.parametrize("url", ["postgresql://u:canary pw@[::1/d", "u:canary-pw@h"])
def test_a_url_that_dlt_cannot_read_is_reported_without_it(
    command: Command, command_line: tuple[str, ...], url: str
) -> None:
    """In one line: libpq and dlt print what they cannot parse."""
    done = command(*command_line, DESTINATION__POSTGRES__CREDENTIALS=url)

    assert done.code in {1, 75}
    assert "dlt cannot read its settings of the warehouse" in done.out + done.err
    assert "canary" not in done.out + done.err
    assert "Traceback" not in done.err


# --- hosts -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PostgresSettings, str]]:
    """A server that listens on both loopback addresses, on a socket in a folder, and on an abstract one."""
    folder = tmp_path_factory.mktemp("pg")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    sockets = folder / "sockets"
    sockets.mkdir(mode=0o777)
    sockets.chmod(0o777)
    abstract = f"@audit-{os.getpid()}"
    options = (f"unix_socket_directories={sockets},{abstract}", "listen_addresses=127.0.0.1,::1", "fsync=off")
    with embedded_postgres(folder / "postgres", *options) as server:
        yield server, str(sockets)


def _has_ipv6() -> bool:
    try:
        with closing(socket.create_server(("::1", 0), family=socket.AF_INET6)):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "[::1]", "{sockets}", "@{abstract}", "nowhere.invalid,127.0.0.1", "[::1],{sockets}"]
)
def test_a_host_is_taken_as_psql_takes_it(
    reached: Callable[..., Any], everywhere: tuple[PostgresSettings, str], command: Command, host: str
) -> None:
    """An address in brackets, as in URLs, is that address."""
    if "::1" in host and not _has_ipv6():
        pytest.skip("this host has no IPv6")
    server, sockets = everywhere
    settings = {
        "PG_HOST": host.format(sockets=sockets, abstract=f"audit-{os.getpid()}"),
        "PG_PORT": str(server.port),
        "PG_PASSWORD": server.password,
    }

    found = reached(**settings)
    asked = command("pipelines/psql.py", "-Atc", "SELECT 'here'", **settings)

    assert found == [{"user": "postgres", "database": "postgres"}] * 2
    assert asked.out.strip() == "here", asked.err


def test_each_of_several_hosts_may_have_its_port(reached: Callable[..., Any], postgres: PostgresSettings) -> None:
    """Hosts and ports are paired as libpq does."""
    assert reached(PG_HOST="127.0.0.1,127.0.0.1", PG_PORT=f"1,{postgres.port}")[0]["user"] == "postgres"


def test_without_a_password_the_passfile_is_asked(
    reached: Callable[..., Any], postgres: PostgresSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The passfile gives the password, as in psql."""
    file = tmp_path / "pgpass"
    file.write_text(f"*:*:*:*:{postgres.password}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))

    assert reached(PG_PASSWORD="")[0]["user"] == "postgres"


def test_a_password_of_the_env_file_is_not_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`${` may be part of it."""
    monkeypatch.delenv("PG_PASSWORD", raising=False)
    (tmp_path / ".env").write_text("PG_PASSWORD='a${HOME}b$HOME'\n")

    assert read_environment(tmp_path)["PG_PASSWORD"] == "a${HOME}b$HOME"


@pytest.mark.parametrize("value", PASSWORDS + NAMES)
def test_libpq_reads_back_what_was_quoted(value: str) -> None:
    """psycopg2's own parser is libpq's."""
    parameters = {"password": value, "dbname": value, "user": value, "host": "/var/run/a folder"}

    assert psycopg2.extensions.parse_dsn(conninfo(parameters)) == parameters


def test_psqls_variables_are_those_of_libpq() -> None:
    """Their names are no simple rule."""
    names = ["host", "dbname", "connect_timeout", "sslmode", "target_session_attrs", "ssl_min_protocol_version"]

    assert list(variables_of(dict.fromkeys([*names, "client_encoding"], "x"))) == [
        "PGHOST",
        "PGDATABASE",
        "PGCONNECT_TIMEOUT",
        "PGSSLMODE",
        "PGTARGETSESSIONATTRS",
        "PGSSLMINPROTOCOLVERSION",
    ]


def test_what_is_loaded_through_a_socket_is_all_there(
    api: Api, poll: Poll, everywhere: tuple[PostgresSettings, str], stores: Stores
) -> None:
    """The whole run, dlt's own tables included."""
    server, sockets = everywhere
    events = spread(9, ago(hours=1), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)

    report = poll(PG_HOST=sockets, PG_PORT=str(server.port), PG_PASSWORD=server.password)
    stores.postgres = server

    assert not report.failures.destinations
    assert stores.ids() == (sorted(ids(events)),) * 2
