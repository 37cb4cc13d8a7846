"""Large tables are left to a command, and what is older than the retention is deleted."""

import json
import re
from collections.abc import Callable
from datetime import timedelta

import pytest

from benchmarks.events import insert_events
from benchmarks.servers.commands import Finished, process_of, wait_until
from pipelines.loop.report import Report
from pipelines.warehouse.upkeep import LARGE_TABLE_ROWS
from simulator.api import Api
from tests.factory import ACCOUNT, ago, event_at, ids, spread
from tests.stores import Stores

Poll = Callable[..., Report]
Command = Callable[..., Finished]


@pytest.mark.long
@pytest.mark.integration
def test_a_large_table_is_left_to_a_command(
    api: Api,
    poll: Poll,
    command: Command,
    stores: Stores,
    environment: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The loop names the steps that it leaves; the command does them, but not while the loop runs."""
    poll()
    stores.query(insert_events(stores.schema, LARGE_TABLE_ROWS + 1, ago(days=1), timedelta(days=30)))
    stores.query("DROP INDEX {schema}.audit_logs_actor")
    api.world.add(ACCOUNT, "v1", [event_at(ago(seconds=1))])

    left = poll()
    with process_of(environment, "pipelines/run.py", POLL_INTERVAL_SECONDS="60"):
        wait_until(lambda: bool(stores.query("SELECT 1 AS one FROM pg_locks WHERE locktype = 'advisory'")))
        refused = command("pipelines/convert.py")
    done = command("pipelines/convert.py")
    again = command("pipelines/convert.py")

    assert left.new["warehouse"] == 1
    assert re.search(
        r'step="index actor" reason="a table has more than 100,000 rows: run cloudflare-audit convert', caplog.text
    )
    assert (refused.code, done.code, again.code) == (75, 0, 0), refused.err + done.err
    assert "another process loads this warehouse" in refused.err
    assert (done.out.split(",")[0], again.out.split(",")[0]) == ("1 steps done", "0 steps done")
    assert stores.query(
        "SELECT 1 AS one FROM pg_indexes WHERE schemaname = '{schema}' AND indexname = 'audit_logs_actor'"
    )


@pytest.mark.integration
def test_what_is_older_than_the_retention_is_deleted_and_stays_so(
    api: Api, poll: Poll, command: Command, stores: Stores
) -> None:
    """By the command in the warehouse; the lake keeps it, and neither a poll nor a sweep brings it back."""
    retention = {"TIMESCALE_RETENTION_DAYS": "5"}
    old, young = spread(20, ago(days=9), ago(days=5)), spread(10, ago(days=4), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", old + young)
    poll()

    unset = command("pipelines/retention.py")
    counted = command("pipelines/retention.py", "--dry-run", "--json", **retention)
    kept = stores.warehouse_ids()
    done = command("pipelines/retention.py", **retention)
    late = event_at(ago(days=6))
    api.world.add(ACCOUNT, "v1", [late])
    swept = poll(**retention, SWEEP_INTERVAL_SECONDS="0.1", SWEEP_WINDOW_HOURS="240")

    assert (unset.code, "TIMESCALE_RETENTION_DAYS" in unset.err) == (2, True)
    assert (counted.code, json.loads(counted.out)["events"], len(kept)) == (0, 20, 30)
    assert (done.code, done.out.split(" from ")[0]) == (0, "20 events"), done.err
    assert +swept.late == {"lake": 1}
    assert stores.ids() == (sorted(ids(young)), sorted(ids([*old, *young, late])))


@pytest.mark.integration
def test_a_first_start_loads_what_the_warehouse_is_to_keep(api: Api, poll: Poll, stores: Stores) -> None:
    """The lake gets all of it, and both cursors end at the newest event."""
    old, young = spread(20, ago(days=9), ago(days=5)), spread(10, ago(days=4), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", old + young)

    poll(TIMESCALE_RETENTION_DAYS="5")
    again = poll(TIMESCALE_RETENTION_DAYS="5")

    assert stores.ids() == (sorted(ids(young)), sorted(ids(old + young)))
    assert again.new == {}
