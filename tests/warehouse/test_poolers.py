"""Behind PgBouncer: a pool of sessions is as good as the server, a pool of transactions is refused in one line."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

from benchmarks.servers.commands import Finished
from pipelines.settings.settings import PROJECT_ROOT, PostgresSettings, read_environment, read_store_settings
from pipelines.warehouse.connection import value_of
from pipelines.warehouse.destination import open_warehouse
from simulator.api import Api
from sources.cloudflare_audit_logs.errors import AuditLogsError
from tests.factory import ACCOUNT, ago, event_at, ids, spread
from tests.pgbouncer import needs_pgbouncer, pooled
from tests.stores import Stores

pytestmark = [pytest.mark.integration, needs_pgbouncer]

Command = Callable[..., Finished]
Pool = Callable[..., None]


@pytest.fixture
def pool(postgres: PostgresSettings, server_dir: Path, environment: dict[str, str], stores: Stores) -> Iterator[Pool]:
    """Puts a pooler between the settings and the server."""
    with ExitStack() as stack:

        def start(mode: str, **settings: str) -> None:
            folder = server_dir / f"pgbouncer-{stores.schema}"
            reached = stack.enter_context(pooled(postgres, folder, mode, **settings))
            environment.update(PG_HOST=reached.host, PG_PORT=str(reached.port), PG_USER=reached.user)

        yield start


@pytest.mark.long
def test_a_pool_of_sessions_serves_every_command(api: Api, command: Command, stores: Stores, pool: Pool) -> None:
    """By its default settings, which refuse startup parameters such as dlt's `options`."""
    pool("session")
    old, new = spread(9, ago(days=3), ago(days=2)), spread(9, ago(hours=1), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", old + new)
    window = ("--since", f"{ago(days=4):%Y-%m-%d}", "--before", f"{ago():%Y-%m-%dT%H:%M:%SZ}")

    runs = {
        name: command(f"pipelines/{name}", *arguments)
        for name, *arguments in (
            ("run.py", "--once", "--json"),
            ("doctor.py",),
            ("status.py",),
            ("backfill.py", *window),
            ("rehydrate.py", *window),
            ("reconcile.py", *window, "--content"),
            ("convert.py",),
            ("psql.py", "-Atc", f"SELECT count(*) FROM {stores.schema}.audit_logs_all"),
        )
    }

    assert {run.code for run in runs.values()} == {0}, "\n".join(run.err + run.out for run in runs.values() if run.code)
    assert stores.ids() == (sorted(ids(old + new)),) * 2
    assert runs["psql.py"].out.strip() == "18"
    assert "ok    pooling" in runs["doctor.py"].out


def test_a_pool_of_sessions_goes_on_cycle_after_cycle(api: Api, command: Command, stores: Stores, pool: Pool) -> None:
    """The settings of a session end with it: the next one begins anew."""
    pool("session", default_pool_size="3")
    events = []
    for _ in range(3):
        events.append(event_at(ago(seconds=1)))
        api.world.add(ACCOUNT, "v1", [events[-1]])
        assert command("pipelines/run.py", "--once").code == 0

    assert stores.warehouse_ids() == sorted(ids(events))


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_a_pool_of_transactions_is_refused_and_the_lake_goes_on(
    api: Api, command: Command, stores: Stores, pool: Pool, mode: str
) -> None:
    """Its locks mean nothing: two loops would be the one writer."""
    pool(mode)
    events = spread(9, ago(hours=1), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)

    done, doctor = command("pipelines/run.py", "--once"), command("pipelines/doctor.py")

    told = {"transaction": "behind a pool of transactions", "statement": "statement pooling mode"}[mode]
    assert done.code in {1, 75}, done.err
    assert doctor.code == 1
    assert told in done.err
    assert told in doctor.out
    assert "Traceback" not in done.err + doctor.err
    assert (stores.warehouse_ids(), stores.lake_ids()) == ([], sorted(ids(events)))


def test_what_was_set_in_a_pool_of_transactions_is_taken_back(command: Command, stores: Stores, pool: Pool) -> None:
    """The session goes to somebody else, who must not have our lock nor our settings."""
    pool("transaction", default_pool_size="1")
    assert command("pipelines/run.py", "--once").code == 1

    held = "locktype = 'advisory' AND objid::bigint = hashtext('{schema}')::bigint & 4294967295"
    asked = f"SELECT count(*) FROM pg_locks WHERE {held}"
    level = command("pipelines/psql.py", "-Atc", "SHOW client_min_messages").out.strip()

    assert stores.query(asked)[0]["count"] == 0
    assert level == "notice"


def test_a_role_that_the_pooler_alone_knows_is_served(api: Api, command: Command, stores: Stores, pool: Pool) -> None:
    """`role.project`: what is granted, is granted to the role that the server knows."""
    pool("session", user="postgres.project")
    api.world.add(ACCOUNT, "v1", spread(9, ago(hours=1), ago(minutes=1)))

    done, doctor = command("pipelines/run.py", "--once"), command("pipelines/doctor.py")

    assert (done.code, doctor.code) == (0, 0), done.err + doctor.out
    assert "not_prepared" not in done.err
    assert stores.query("SELECT count(*) AS n FROM {schema}.audit_logs_all") == [{"n": 9}]


def test_a_role_of_the_pooler_may_have_an_owner_of_the_pooler(
    api: Api, command: Command, stores: Stores, pool: Pool, environment: dict[str, str]
) -> None:
    """Both of them under names of its own."""
    pool("session", user="postgres.project")
    environment.update(PG_OWNER_USER="postgres.project", PG_OWNER_PASSWORD=environment["PG_PASSWORD"])
    api.world.add(ACCOUNT, "v1", spread(9, ago(hours=1), ago(minutes=1)))

    done, doctor = command("pipelines/run.py", "--once"), command("pipelines/doctor.py")

    assert (done.code, doctor.code) == (0, 0), done.err + doctor.out
    assert stores.query("SELECT sum(events)::bigint AS n FROM {schema}.audit_activity_hourly") == [{"n": 9}]


def test_a_lock_that_is_gone_is_noticed_before_the_next_load(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler's `DISCARD ALL` frees it while the connection stays."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    Container()[PluggableRunContext].reload(str(PROJECT_ROOT))
    with open_warehouse(read_store_settings(read_environment()), takes_lock=True) as (warehouse, _):
        warehouse.verify_lock()
        assert warehouse.connection is not None
        with warehouse.connection.cursor() as cursor:
            value_of(cursor, "SELECT pg_advisory_unlock_all()::text")

        with pytest.raises(AuditLogsError, match="no lock of one lasts"):
            warehouse.verify_lock()
