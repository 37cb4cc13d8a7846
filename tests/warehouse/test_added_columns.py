"""A column can be added: what an older release wrote stays readable, and what a newer one wrote stays as it is."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from benchmarks.servers.commands import Finished
from pipelines.lake.ask.database import LAKE_SQL
from pipelines.loop.report import Report
from pipelines.proof import contents
from pipelines.proof.contents import contents_of
from pipelines.settings.settings import PROJECT_ROOT
from pipelines.warehouse.setup import columns_of_tables
from pipelines.warehouse.statements import sections_of
from simulator.api import Api
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, QUARANTINE_SCHEMA, TIME
from tests.factory import ACCOUNT, ago, event_at
from tests.faults.stores.test_least_rights import roles
from tests.lake.test_object_columns import FIRST, events, with_ray, without
from tests.stores import Stores

__all__ = ["roles"]

Poll = Callable[..., Report]
Command = Callable[..., Finished]

_RAY = "\n\n\ndef _ray(text: bytes) -> str:\n    return str(msgspec.json.decode(text)['ray'])\n\n\n#"
_OF_MAP = "'ingestion_time': {name: 'ingestion_time', type: 'TIMESTAMPTZ', default_value: NULL}"
NEWER_RELEASE = {
    "sources/cloudflare_audit_logs/schema.py": (
        ('        _required("ingestion_time", TIME),\n', '        pa.field("ray", pa.string()),\n'),
        ("ADDED_COLUMNS: frozenset[str] = ", 'frozenset({"ray"}) or '),
    ),
    "sources/cloudflare_audit_logs/events.py": (
        (
            '"raw_event": pa.array(readable, pa.string()),\n',
            '        "ray": pa.array(map(_ray, readable), pa.string()),\n',
        ),
        ("# --- ids and text", _RAY),
    ),
    "pipelines/warehouse/sql/tables.sql": (
        ("    ingestion_time   timestamptz NOT NULL DEFAULT now(),\n", "    ray text,\n"),
    ),
    "pipelines/lake/lake.sql": (
        ("NULL::TIMESTAMPTZ AS ingestion_time,", " NULL::VARCHAR AS ray,"),
        (_OF_MAP, f", {_OF_MAP.replace('ingestion_time', 'ray').replace('TIMESTAMPTZ', 'VARCHAR')}"),
    ),
}
"""By file, behind which text docs/columns.md says to add what, for a column `ray`."""


def test_the_columns_are_named_alike_everywhere() -> None:
    """In the DDL of the warehouse and in the lake's macros, with the types and the nulls of the schema."""
    tables = {
        "audit_logs": EVENT_SCHEMA,
        "audit_logs_rehydrated": EVENT_SCHEMA,
        "audit_logs_quarantine": QUARANTINE_SCHEMA,
    }
    lake = " ".join(LAKE_SQL.read_text().split())

    for table, schema in tables.items():
        columns = [column for column in columns_of_tables() if column.table == table]
        assert [(c.name, c.is_nullable) for c in columns] == [(field.name, field.nullable) for field in schema]
        assert [c.type == "timestamptz" for c in columns] == [field.type == TIME for field in schema]
        assert ", ".join(map(_as_in_lake_sql, schema)) in lake


def _as_in_lake_sql(field: pa.Field) -> str:
    kind = "TIMESTAMPTZ" if field.type == TIME else "VARCHAR"
    return f"'{field.name}': {{name: '{field.name}', type: '{kind}', default_value: NULL}}"


@pytest.mark.long
@pytest.mark.integration
def test_releases_before_and_behind_a_column_load_the_same_stores(
    api: Api, command: Command, environment: dict[str, str], stores: Stores, tmp_path: Path
) -> None:
    """Ours, one with a column more, ours again: into the same hour, with all values, in both stores."""
    newer = _newer_release(tmp_path, environment)
    hour = ago(hours=3).replace(minute=0, second=0, microsecond=0)
    runs: list[tuple[str, Callable[..., Finished]]] = [("a", command), ("b", newer), ("c", command), ("d", newer)]

    for number, (event_id, run) in enumerate(runs):
        api.world.add(
            ACCOUNT, "v1", [event_at(hour + timedelta(minutes=1 + number), id=event_id, ray=f"ray-{event_id}")]
        )
        done = run("pipelines/run.py", "--once")
        assert done.code == 0, done.err

    expected = {"a": None, "b": "ray-b", "c": None, "d": "ray-d"}
    window = ("--since", hour.isoformat(), "--before", (hour + timedelta(hours=1)).isoformat())
    compared = [run("pipelines/reconcile.py", *window, "--content", "--json") for run in (command, newer)]
    rehydrated = newer("pipelines/rehydrate.py", *window)
    asked = newer("pipelines/ask.py", "--json", "SELECT event_id, ray FROM audit_logs() ORDER BY 1")
    old_asked = command("pipelines/ask.py", "--json", "SELECT * FROM audit_logs()")
    assert [(done.code, done.report["gaps"], done.report["events"]) for done in compared] == [(0, [], 4)] * 2
    assert {row["event_id"]: row["ray"] for row in map(json.loads, asked.out.splitlines())} == expected
    assert len(old_asked.out.splitlines()) == len(expected)
    assert rehydrated.code == 0, rehydrated.err
    for table in ("audit_logs", "audit_logs_rehydrated", "audit_logs_all"):
        rows = stores.query(f"SELECT event_id, ray FROM {{schema}}.{table}")
        assert {row["event_id"]: row["ray"] for row in rows} == expected, table


@pytest.mark.integration
def test_readers_of_others_read_objects_with_and_without_a_column(
    api: Api, poll: Poll, command: Command, stores: Stores
) -> None:
    """The dataset of pyarrow, with our schema; the commands; the objects of a folder are of three releases."""
    since = ago(hours=6).replace(minute=0, second=0, microsecond=0)
    api.world.add(ACCOUNT, "v1", [event_at(since + timedelta(hours=n), id=f"e{n}") for n in range(3)])
    poll()
    for path, change in zip(_objects(stores), (None, without_zone, with_ray), strict=True):
        if change is not None:
            path.write_bytes(change(pq.ParquetFile(path).read()))

    asked = command("pipelines/ask.py", "--json", "SELECT event_id, zone_name FROM audit_logs() ORDER BY 1")
    rehydrated = command("pipelines/rehydrate.py", "--since", since.isoformat(), "--before", ago().isoformat())
    dataset = ds.dataset(stores.lake / "cloudflare/audit_logs", partitioning="hive", schema=EVENT_SCHEMA)

    zones = ["example.com", None, "example.com"]
    assert [json.loads(line)["zone_name"] for line in asked.out.splitlines()] == zones
    assert dataset.to_table().sort_by("event_id")["zone_name"].to_pylist() == zones
    assert rehydrated.code == 0, rehydrated.err
    brought = stores.query("SELECT zone_name FROM {schema}.audit_logs_rehydrated ORDER BY event_id")
    assert [row["zone_name"] for row in brought] == zones


def without_zone(table: pa.Table) -> bytes:
    """An object of a release that did not know the zone's name."""
    return without("zone_name", table)


@pytest.mark.integration
def test_an_object_of_a_newer_release_is_neither_changed_nor_set_aside(
    api: Api, poll: Poll, command: Command, stores: Stores
) -> None:
    """One clear line in the loop and in the repair, which leaves it where it is."""
    hour = ago(hours=3).replace(minute=0, second=0, microsecond=0)
    api.world.add(ACCOUNT, "v1", [event_at(hour, id="held")])
    poll()
    (path,) = _objects(stores)
    pq.write_table(pq.ParquetFile(path).read().replace_schema_metadata({"schema_version": "99"}), path)
    newer = path.read_bytes()
    api.world.add(ACCOUNT, "v1", [event_at(hour + timedelta(minutes=1), id="new")])

    failed = poll()
    window = ("--since", hour.isoformat(), "--before", (hour + timedelta(hours=1)).isoformat())
    repaired = command("pipelines/reconcile.py", *window, "--repair")
    rehydrated = command("pipelines/rehydrate.py", *window)

    assert "was written by a newer release" in str(failed.failures.destinations["lake"])
    assert "schema_version is 99" in repaired.err
    assert (repaired.code, rehydrated.code) == (1, 1), repaired.err + rehydrated.err
    assert path.read_bytes() == newer
    assert not (stores.lake / "cloudflare/_broken").exists()


@pytest.mark.integration
@pytest.mark.parametrize("column", ["zone_name", "metadata"])
def test_a_table_of_an_older_release_gets_its_column_from_its_owner(
    api: Api, poll: Poll, stores: Stores, command: Command, column: str
) -> None:
    """The related tables get it, too, and the view follows; the doctor does not complain of what the loop mends."""
    api.world.add(ACCOUNT, "v1", [event_at(ago(hours=2), id="old")])
    poll()
    for table in ("audit_logs", "audit_logs_rehydrated"):
        stores.query(f"ALTER TABLE {{schema}}.{table} DROP COLUMN {column} CASCADE")
    stores.query("ALTER TABLE {schema}.audit_completeness DROP COLUMN differing")
    doctor = command("pipelines/doctor.py")
    api.world.add(ACCOUNT, "v1", [event_at(ago(hours=1), id="new")])

    assert not poll().failures.destinations

    rows = stores.query(f"SELECT event_id, {column} IS NULL AS lacks FROM {{schema}}.audit_logs_all ORDER BY 1")
    assert rows == [{"event_id": "new", "lacks": False}, {"event_id": "old", "lacks": True}]
    assert "no column" not in doctor.out
    assert stores.query("SELECT differing FROM {schema}.audit_completeness") == []


@pytest.mark.integration
def test_a_role_that_owns_nothing_hears_of_the_column(
    api: Api, command: Command, stores: Stores, roles: Mapping[str, str]
) -> None:
    """A role that owns nothing is asked for the column, and loads nothing; with its owner's login it loads."""
    server, database = stores.postgres, roles["PG_DATABASE"]
    uri = f"postgresql://{server.user}:{server.password}@{server.host}:{server.port}/{database}"
    assert command("pipelines/run.py", "--once").code == 0
    with adbc.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {stores.schema}.audit_logs DROP COLUMN zone_id CASCADE")
    api.world.add(ACCOUNT, "v1", [event_at(ago(hours=1), id="new")])

    alone = command("pipelines/run.py", "--once", PG_OWNER_USER=None, PG_OWNER_PASSWORD=None)
    with_owner = command("pipelines/run.py", "--once")

    assert alone.code == 1, alone.err
    assert f"the table {stores.schema}.audit_logs has no column zone_id" in alone.err
    assert with_owner.code == 0, with_owner.err


def test_what_an_older_release_did_not_have_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a store that was filled before and one that was filled after."""
    filled = events(FIRST, id="a")
    empty = filled.set_column(15, EVENT_SCHEMA.field("zone_name"), pa.nulls(1, pa.string()))
    assert list(contents_of(filled)) != list(contents_of(empty))

    monkeypatch.setattr(contents, "_COMPARED", [name for name in contents._COMPARED if name != "zone_name"])  # noqa: SLF001

    assert list(contents_of(filled)) == list(contents_of(empty))


def _objects(stores: Stores) -> list[Path]:
    return sorted((stores.lake / "cloudflare/audit_logs").rglob("*.parquet"))


def _newer_release(folder: Path, environment: Mapping[str, str]) -> Callable[..., Finished]:
    """Runs commands of a copy of this release that has a column more."""
    root = folder / "newer"
    for part in ("sources", "pipelines", ".dlt"):
        shutil.copytree(PROJECT_ROOT / part, root / part)
    for name, edits in NEWER_RELEASE.items():
        text = (root / name).read_text()
        for behind, added in edits:
            assert text.count(behind) == 1, (name, behind)
            text = text.replace(behind, behind + added)
        (root / name).write_text(text)

    def run(*arguments: str) -> Finished:
        own = {**os.environ, **environment, "PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, *arguments], env=own, cwd=root, capture_output=True, text=True, timeout=120, check=False
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


def test_the_view_names_the_columns_in_the_order_of_the_schema() -> None:
    """So that a column that is added at the end does not move one: PostgreSQL would refuse to replace the view."""
    sections = sections_of("after_load.sql", columns=", ".join(EVENT_SCHEMA.names))

    assert ", ".join(EVENT_SCHEMA.names) in sections["view audit_logs_all"][0]
