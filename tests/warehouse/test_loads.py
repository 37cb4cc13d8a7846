"""A load has one form, whatever the size; what would load in another way, or nowhere, is refused."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from adbc_driver_manager.dbapi import Cursor

from benchmarks.servers.commands import Finished
from pipelines.load.dlt_settings import verify_hooks
from pipelines.loop.report import Report
from pipelines.warehouse.dlt_client import WarehouseClient
from simulator.api import Api
from sources.cloudflare_audit_logs.errors import AuditLogsError
from tests.factory import ACCOUNT, ago, spread
from tests.stores import Stores

Poll = Callable[..., Report]
Command = Callable[..., Finished]


@pytest.mark.integration
def test_a_load_writes_by_copy_and_insert_on_conflict_alone(
    api: Api, poll: Poll, stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The form that costs the same at any size and works on compressed chunks: no MERGE, no DELETE, no staging."""
    statements: list[str] = []
    execute = Cursor.execute

    def recording(cursor: Cursor, sql: Any, *rest: Any) -> Any:
        statements.append(str(sql))
        return execute(cursor, sql, *rest)

    api.world.add(ACCOUNT, "v1", spread(3, ago(minutes=9), ago(minutes=1)))
    with monkeypatch.context() as patch:
        patch.setattr(Cursor, "execute", recording)
        poll()

    writing = [sql for sql in statements if re.match(r"\s*(INSERT|MERGE|DELETE|UPDATE)", sql)]
    writing = [sql for sql in writing if "audit_hourly_counts" not in sql]  # the step after a first load
    assert len(writing) == 1
    assert re.fullmatch(
        rf'INSERT INTO {stores.schema}\."audit_logs" \((?P<columns>.+)\) SELECT .+ FROM pg_temp\.staged_batch AS s'
        r' ON CONFLICT \("account_id", "timestamp", "event_id", "api_version"\) DO NOTHING',
        writing[0],
    )
    assert [sql for sql in statements if "staged_batch" in sql and sql.startswith("CREATE TEMPORARY TABLE")]


@pytest.mark.parametrize(
    ("hook", "change"),
    [
        ("_create_merge_followup_jobs", "gone"),
        ("_create_merge_followup_jobs", "other parameters"),
        ("create_load_job", "other parameters"),
    ],
)
def test_another_dlt_is_refused(monkeypatch: pytest.MonkeyPatch, hook: str, change: str) -> None:
    """One that no longer has what we extend would load in a way of its own, without an error."""
    owner = WarehouseClient.__mro__[1]
    if change == "gone":
        monkeypatch.delattr(next(base for base in owner.__mro__ if hook in vars(base)), hook)
    else:
        monkeypatch.setattr(owner, hook, lambda self: self)

    with pytest.raises(AuditLogsError, match=rf"dlt 1\.31.* not the one .*{hook}.*make setup"):
        verify_hooks()


@pytest.mark.integration
@pytest.mark.parametrize("program", [("pipelines/run.py", "--once"), ("pipelines/retention.py",)])
def test_a_schema_that_is_a_word_of_sql_is_refused(command: Command, program: tuple[str, ...]) -> None:
    """By the server's own word; it never passes by itself."""
    done = command(*program, PG_SCHEMA="order", TIMESCALE_RETENTION_DAYS="5")

    assert done.code == 1
    assert "PG_SCHEMA=order is a word of SQL" in done.err
