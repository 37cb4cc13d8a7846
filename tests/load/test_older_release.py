"""A release continues from the lake, warehouse and cursors of the one before; nothing is lost or doubled."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pyarrow.parquet as pq
import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

from benchmarks.servers.commands import Finished
from pipelines import reconcile
from pipelines.bulk import reconcile_days
from pipelines.loop.report import Report
from pipelines.settings.settings import PROJECT_ROOT, PostgresSettings
from simulator.api import Api
from simulator.world import SimulatedEvent, World
from sources.cloudflare_audit_logs.streams import API_VERSIONS
from tests.conftest import TOKEN
from tests.factory import ACCOUNT, OTHER_ACCOUNT, event_at, raw_event
from tests.stores import Stores

pytestmark = pytest.mark.integration

DATA = Path(__file__).parents[1] / "data" / "older_release"
WRITTEN = datetime(2024, 3, 11, 12, tzinfo=UTC)
"""When the older release ran."""
NEWEST = datetime(2024, 3, 11, 0, 51, 0, 51051, tzinfo=UTC)
AHEAD = WRITTEN + timedelta(hours=2) - datetime.now(UTC)
"""The clock's offset: the tests run two hours after the last write, because the API does not show events for ever."""
WINDOW = ("--since", "2024-03-10T00:00Z", "--before", "2024-03-12T00:00Z")
ODD = {"odd-023", "later-023", "odd-4bb"}
"""Without a time: in the quarantine of both stores."""

Poll = Callable[..., Report]
Command = Callable[..., Finished]


@pytest.fixture
def api() -> Api:
    """A Cloudflare that shows what it showed then."""
    world = World([ACCOUNT, OTHER_ACCOUNT])
    for line in (DATA / "events.ndjson").read_text().splitlines():
        event = json.loads(line)
        time = datetime.fromisoformat(event["time"])
        world.add(event["account"], event["version"], [SimulatedEvent(time, event["raw"].encode())])
    return Api(world, token=TOKEN, clock=_clock)


@pytest.fixture
def environment(environment: dict[str, str], server: PostgresSettings) -> dict[str, str]:
    """The usual environment, with the lake and the warehouse of the older release."""
    shutil.copytree(DATA / "lake", Path(environment["DATA_DIR"]) / "lake")
    accounts = {"CLOUDFLARE_ACCOUNT_ID": f"{ACCOUNT},{OTHER_ACCOUNT}", "CLOUDFLARE_API_VERSION": "v1,v2"}
    return environment | accounts | {"PG_DATABASE": server.database, "PG_SCHEMA": "audit"}


@pytest.fixture
def stores(environment: dict[str, str], server: PostgresSettings) -> Stores:
    """The destinations of `environment`."""
    return Stores(server, "audit", Path(environment["DATA_DIR"]) / "lake", environment)


@pytest.fixture
def server(postgres: PostgresSettings) -> Iterator[PostgresSettings]:
    """A database that the dump of the older release was loaded into."""
    of_test = replace(postgres, database="older_release")
    _run(postgres, "DROP DATABASE IF EXISTS older_release WITH (FORCE)")
    _run(postgres, "CREATE DATABASE older_release")
    _run(of_test, (DATA / "warehouse.sql").read_text())
    yield of_test
    _run(postgres, "DROP DATABASE older_release WITH (FORCE)")


def test_the_cursors_are_honoured_and_new_events_join_the_old_hours(api: Api, poll: Poll, stores: Stores) -> None:
    """No window begins before the last day of the older release, whatever INITIAL_CHECKPOINT says."""
    held = _held(stores)
    new = event_at(NEWEST + timedelta(minutes=1), id="new")
    late = event_at(NEWEST - timedelta(hours=15, minutes=45), version="v2", id="late")
    odd = raw_event('{"id":"new-odd"}', time=NEWEST + timedelta(minutes=2))
    api.world.add(ACCOUNT, "v1", [new, odd])
    api.world.add(OTHER_ACCOUNT, "v2", [late])

    first = poll(ahead=AHEAD, INITIAL_CHECKPOINT="2024-02-01T00:00:00Z")
    second = poll(ahead=AHEAD, INITIAL_CHECKPOINT="2024-02-01T00:00:00Z")

    assert not first.failures.destinations
    assert not first.failures.accounts.failed
    oldest = min(datetime.fromisoformat(request.params["since"]) for request in api.requests)
    assert WRITTEN - timedelta(days=3) < oldest < NEWEST
    assert (first.new, first.late) == (Counter(warehouse=1, lake=1), Counter(warehouse=1, lake=1))
    assert (second.new, second.late) == (Counter(), Counter())
    both: Counter[tuple[str, ...]] = Counter({(ACCOUNT, "v1", "new"): 1, (OTHER_ACCOUNT, "v2", "late"): 1})
    assert _held(stores) == tuple(before + both for before in held)
    assert _quarantined(stores) == (ODD | {"new-odd"},) * 2
    (of_day,) = (stores.lake / "cloudflare/audit_logs_quarantine").rglob("date=2024-03-11/events.parquet")
    assert pq.ParquetFile(of_day).read()["raw_event"].to_pylist() == ['{"id":"new-odd"}']


@pytest.mark.long
def test_a_comparison_finds_the_old_hours_complete(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], poll: Poll
) -> None:
    """By counts and by contents, before the first load and after it, when its tables have been looked at."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    Container()[PluggableRunContext].reload(str(PROJECT_ROOT))  # dlt reads its configuration once a process
    for module in (reconcile, reconcile_days):
        monkeypatch.setattr(module, "utc_now", _clock)

    for options in ((), ("--content",), ("--repair", "--content")):
        code = reconcile.main([*WINDOW, "--json", *options])
        found = json.loads(capsys.readouterr().out)
        assert (code, found["gaps"], found["broken_quarantines"]) == (0, [], []), found
        assert (found["events"], found["not_in_api"]) == (33, 0)
    assert not poll(ahead=AHEAD).failures.destinations
    assert reconcile.main([*WINDOW, "--content"]) == 0


def test_every_command_reads_what_is_there(command: Command, stores: Stores) -> None:
    """Status, doctor, ask and rehydrate: the numbers of the older release, and no complaint."""
    counts = "SELECT account, count(*) AS n, count(raw_event) AS raw FROM audit_logs() GROUP BY 1 ORDER BY 1"
    quarantine = "SELECT event_id FROM audit_logs_quarantine() ORDER BY 1"

    status = command("pipelines/status.py", "--json").report
    doctor = command("pipelines/doctor.py", "--json")
    asked = [_rows(command("pipelines/ask.py", "--json", question)) for question in (counts, quarantine)]
    rehydrated = command("pipelines/rehydrate.py", *WINDOW)

    cursors = [stream["cursor"] for store in ("warehouse", "lake") for stream in status[store]["streams"]]
    assert (len(cursors), max(cursors)) == (8, NEWEST.isoformat())
    assert sum(stream["quarantined"] for stream in status["warehouse"]["streams"]) == len(ODD) + 1
    failed = [line for line in _rows(doctor) if line.get("status") == "fail"]
    assert [line for line in failed if "clock" not in json.dumps(line)] == [], doctor.out
    assert asked == [
        [{"account": ACCOUNT, "n": 21, "raw": 21}, {"account": OTHER_ACCOUNT, "n": 12, "raw": 12}],
        [{"event_id": event_id} for event_id in sorted(ODD)],
    ]
    assert rehydrated.code == 0, rehydrated.err
    # What PostgreSQL refuses is not brought back; ten events of the second account were there before.
    assert stores.query("SELECT count(*) AS n FROM {schema}.audit_logs_rehydrated") == [{"n": 32}]
    assert stores.query("SELECT count(*) AS n FROM {schema}.audit_logs_all") == [{"n": 32}]


def _clock() -> datetime:
    return datetime.now(UTC) + AHEAD


def _run(server: PostgresSettings, sql: str) -> None:
    connection = psycopg2.connect(
        host=server.host, port=server.port, dbname=server.database, user=server.user, password=server.password
    )
    with closing(connection), connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(sql)


def _held(stores: Stores) -> tuple[Counter[tuple[str, ...]], Counter[tuple[str, ...]]]:
    """Counts each event in the warehouse, refused ones included, and in the lake."""
    refused = stores.query("SELECT * FROM {schema}.audit_logs_quarantine WHERE timestamp IS NOT NULL")
    return _keys([*stores.warehouse(), *refused]), _keys(stores.lake_events())


def _keys(rows: list[dict[str, Any]]) -> Counter[tuple[str, ...]]:
    assert {row["api_version"] for row in rows} == set(API_VERSIONS)
    return Counter((row["account_id"], row["api_version"], row["event_id"]) for row in rows)


def _quarantined(stores: Stores) -> tuple[set[str], set[str]]:
    """The ids in both quarantines."""
    warehouse = stores.query("SELECT * FROM {schema}.audit_logs_quarantine WHERE timestamp IS NULL")
    lake = stores.lake_table("audit_logs_quarantine").to_pylist()
    assert len(lake) == len({(row["account_id"], row["digest"]) for row in lake})
    return {json.loads(row["raw_event"])["id"] for row in warehouse}, {json.loads(r["raw_event"])["id"] for r in lake}


def _rows(done: Finished) -> list[dict[str, Any]]:
    """One JSON object a line, or a list of them."""
    rows = [json.loads(line) for line in done.out.splitlines()]
    return rows[0] if len(rows) == 1 and isinstance(rows[0], list) else rows
