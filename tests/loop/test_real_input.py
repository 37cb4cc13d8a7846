"""Published payloads go through the real path into both destinations, and every field that they hold is found again."""

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.servers.commands import Finished
from benchmarks.servers.seaweed import Bucket
from pipelines.loop.report import Report
from simulator.api import Api
from simulator.world import SimulatedEvent
from sources.cloudflare_audit_logs.answers import parse_answer
from tests.factory import ACCOUNT, time_of
from tests.samples import V1_EVENTS, V2_PAGE, V2_PAGE_WITHOUT_ID
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]
V2_EVENTS = parse_answer(V2_PAGE).slices + parse_answer(V2_PAGE_WITHOUT_ID).slices
SINCE = {"INITIAL_CHECKPOINT": "2017-01-01T00:00:00Z", "CLOUDFLARE_API_VERSION": "v1,v2"}


@pytest.fixture(autouse=True)
def samples(api: Api) -> None:
    """A Cloudflare that plays them."""
    for version, events in (("v1", V1_EVENTS), ("v2", V2_EVENTS)):
        api.world.add(ACCOUNT, version, [_simulated(version, raw) for raw in events])


def test_both_destinations_hold_exactly_the_published_events(command: Command, stores: Stores) -> None:
    """Both destinations have exactly the published events, and a second run changes nothing."""
    first = command("pipelines/run.py", "--once", "--json", **SINCE)
    held = stores.warehouse(), stores.lake_events()

    second = command("pipelines/run.py", "--once", "--json", **SINCE)

    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert sorted(row["raw_event"].encode() for row in held[1]) == sorted(V1_EVENTS + V2_EVENTS)
    assert [row["event_id"] for row in held[0]] == [row["event_id"] for row in held[1]]
    assert (stores.warehouse(), stores.lake_events()) == held
    assert second.report["new"] == {}


def test_every_published_field_is_found_again_in_the_payloads(poll: Poll, stores: Stores) -> None:
    """In the lake as the very text, in the warehouse as the same JSON."""
    poll(**SINCE)

    published = sorted(_canonical(raw) for raw in V1_EVENTS + V2_EVENTS)
    for rows in (stores.warehouse(), stores.lake_events()):
        assert sorted(_canonical(row["raw_event"]) for row in rows) == published


def test_the_typed_columns_of_a_v1_event(poll: Poll, stores: Stores) -> None:
    """As docs/columns.md maps them."""
    poll(**SINCE)

    row = next(row for row in stores.warehouse() if row["event_id"] == "d5b0f326-1232-4452-8858-1089bd7168ef")
    expected = {
        "timestamp": datetime(2017, 4, 26, 17, 31, 7, tzinfo=UTC),
        "account_id": ACCOUNT,
        "api_version": "v1",
        "action_type": "change_setting",
        "action_result": "success",
        "actor_id": "f6b5de0326bb5182b8a4840ee01ec774",
        "actor_email": "michelle@example.com",
        "actor_type": "user",
        "actor_context": "API",
        "ip_address": "198.41.129.166",
        "resource_type": "zone",
        "resource_id": "023e105f4ecef8ad9ca31a8372d0c353",
        "resource_product": None,
        "zone_id": None,
        "zone_name": "example.com",
    }
    assert {name: row[name] for name in expected} == expected
    assert json.loads(row["metadata"])["value"] == "high"


def test_the_typed_columns_of_a_v2_event(poll: Poll, stores: Stores) -> None:
    """As docs/columns.md maps them."""
    poll(**SINCE)

    row = next(row for row in stores.lake_events() if row["event_id"] == "023e105f4ecef8ad9ca31a8372d0c353")
    expected = {
        "timestamp": datetime(2024, 4, 26, 17, 31, 7, tzinfo=UTC),
        "account_id": ACCOUNT,
        "api_version": "v2",
        "action_type": "create",
        "action_result": "success",
        "actor_id": "f6b5de0326bb5182b8a4840ee01ec774",
        "actor_email": "alice@example.com",
        "actor_type": "user",
        "actor_context": "dash",
        "ip_address": "198.41.129.166",
        "resource_type": "type",
        "resource_id": "id",
        "resource_product": "members",
        "zone_id": "id",
        "zone_name": "example.com",
    }
    metadata = json.loads(row["metadata"])
    assert {name: row[name] for name in expected} == expected
    assert (metadata["token_id"], metadata["token_name"]) == ("token_id", "token_name")
    assert metadata["raw"]["cf_ray_id"] == "8e9b1c60ef9e1c9a"


def test_a_bucket_and_an_ordinary_postgresql_hold_the_same_as_the_embedded_defaults(
    command: Command, stores: Stores, bucket: Bucket, server_dir: Path
) -> None:
    """`ingestion_time` aside, nothing differs; the embedded defaults need only a token and an account id."""
    ordinary = command("pipelines/run.py", "--once", **SINCE, **bucket.settings("equal/to-the-folder"))
    on_bucket = _bucket_events(bucket, "equal/to-the-folder/cloudflare/audit_logs/")
    no_server = dict.fromkeys(("PG_HOST", "PG_PORT", "PG_PASSWORD", "PG_SCHEMA"))

    embedded = command("pipelines/run.py", "--once", DATA_DIR=str(server_dir / "embedded"), **no_server, **SINCE)
    sql = "COPY (SELECT event_id, timestamp, raw_event, metadata FROM audit_logs ORDER BY 1) TO STDOUT"
    psql = command("pipelines/psql.py", "-c", sql, DATA_DIR=str(server_dir / "embedded"), **no_server)

    assert (ordinary.code, embedded.code, psql.code) == (0, 0, 0), ordinary.err + embedded.err + psql.err
    folder = Stores(stores.postgres, stores.schema, server_dir / "embedded" / "lake")
    assert on_bucket == _without_ingestion_time(folder.lake_events())
    line = "concat_ws(E'\\t', event_id, timestamp, raw_event, metadata)"
    rows = stores.query(f"SELECT {line} AS line FROM {{schema}}.audit_logs ORDER BY event_id")
    assert [row["line"] for row in rows] == psql.out.splitlines()


@pytest.mark.parametrize("name", ["cloudflare_audit_warehouse", "cloudflare_audit_lake"])
def test_dlt_shows_state_and_cursors_from_the_projects_root(command: Command, name: str) -> None:
    """`dlt pipeline … info` works as it is."""
    command("pipelines/run.py", "--once", **SINCE)

    shown = command("-m", "dlt", "pipeline", "-v", name, "info")

    assert shown.code == 0, shown.err
    assert f"audit_logs_v1_{ACCOUNT}" in shown.out
    assert "last_value" in shown.out
    assert "2024-08-09" in shown.out


def _bucket_events(bucket: Bucket, prefix: str) -> list[dict[str, Any]]:
    listed = bucket.client.list_objects_v2(Bucket=bucket.name, Prefix=prefix)["Contents"]
    bodies = [bucket.client.get_object(Bucket=bucket.name, Key=item["Key"])["Body"].read() for item in listed]
    rows = [row for body in bodies for row in pq.ParquetFile(io.BytesIO(body)).read().to_pylist()]
    return _without_ingestion_time(sorted(rows, key=lambda row: (row["account_id"], row["timestamp"], row["event_id"])))


def _without_ingestion_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "ingestion_time"} for row in rows]


def _canonical(raw: str | bytes) -> str:
    return json.dumps(json.loads(raw), sort_keys=True)


def _simulated(version: str, raw: bytes) -> SimulatedEvent:
    tree = json.loads(raw)
    time = time_of(tree["when"] if version == "v1" else tree["action"]["time"])
    return SimulatedEvent(time, raw, time)
