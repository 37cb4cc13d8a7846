"""The lake read as it is by engines for large ones, which open no object that a question does not name.

They live outside the environment of the tests, as `.venv/readers` does: `make test-engines` installs them.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.servers.seaweed import S3_KEYS, Bucket
from pipelines.loop.report import Report
from pipelines.settings.settings import PROJECT_ROOT
from simulator.api import Api
from tests.factory import ACCOUNT, OTHER_ACCOUNT, event_at, spread
from tests.stores import Stores

pytestmark = [pytest.mark.integration, pytest.mark.engines]

DAY = datetime(2026, 11, 20, tzinfo=UTC)
REGISTRATION = re.findall(r"```python iceberg\n(.+?)```", (PROJECT_ROOT / "docs" / "lake.md").read_text(), re.DOTALL)

DAFT = """
import contextlib, datetime, io, json, os, daft
from daft.io import IOConfig, S3Config
store = S3Config(endpoint_url=endpoint, key_id=key, access_key=secret, region_name="us-east-1", use_ssl=False)
config = {"io_config": IOConfig(s3=store)} if endpoint else {}
frame = daft.read_parquet(f"{lake}/**/*.parquet", hive_partitioning=True, **config)
day = frame.where((daft.col("account") == account) & (daft.col("date") == datetime.date(2026, 11, 21)))
plan = io.StringIO()
day.explain(show_all=True, file=plan)
ids = day.select("event_id").to_pydict()["event_id"]
print(json.dumps({"total": frame.count_rows(), "ids": ids, "plan": plan.getvalue()}))
"""

POLARS = """
import datetime, json, polars
options = {"aws_endpoint_url": endpoint, "aws_allow_http": "true", "aws_region": "us-east-1",
           "aws_access_key_id": key, "aws_secret_access_key": secret}
frame = polars.scan_parquet(f"{lake}/", hive_partitioning=True, storage_options=options if endpoint else None)
day = frame.filter(polars.col("account") == account, polars.col("date") == datetime.date(2026, 11, 21))
total = frame.select(polars.len()).collect().item()
print(json.dumps({"total": total, "ids": day.collect()["event_id"].to_list(), "plan": day.explain()}))
"""

ICEBERG = """
import json, os
from pyiceberg.catalog.sql import SqlCatalog
catalog = SqlCatalog("test", uri=f"sqlite:///{home}/catalog.db", warehouse=f"file://{home}")
catalog.create_namespace_if_not_exists("audit")
exec(compile(script, "docs/lake.md", "exec"))
table = catalog.load_table("audit.audit_logs")
since, before = "2026-11-21T00:00:00+00:00", "2026-11-22T00:00:00+00:00"
day = table.scan(row_filter=f"account_id = '{account}' AND timestamp >= '{since}' AND timestamp < '{before}'")
files = [task.file.file_path for task in day.plan_files()]
ids, total = day.to_arrow()["event_id"].to_pylist(), table.scan().count()
print(json.dumps({"total": total, "read": table.scan().to_arrow().num_rows, "ids": ids, "files": files}))
"""


@pytest.fixture(params=["folder", "bucket"])
def lake(
    request: pytest.FixtureRequest,
    environment: dict[str, str],
    api: Api,
    poll: Callable[..., Report],
    stores: Stores,
    tmp_path: Path,
) -> dict[str, str]:
    """Two accounts of two days; where it is, as the scripts take it."""
    place = {"lake": str(stores.lake / "cloudflare" / "audit_logs"), "endpoint": "", "key": "", "secret": ""}
    if request.param == "bucket":
        bucket: Bucket = request.getfixturevalue("bucket")
        environment |= bucket.settings(f"engines/{tmp_path.name}")
        place = {
            "lake": f"s3://{bucket.name}/engines/{tmp_path.name}/cloudflare/audit_logs",
            "endpoint": bucket.endpoint,
            "key": S3_KEYS["S3_ACCESS_KEY"],
            "secret": S3_KEYS["S3_SECRET_KEY"],
        }
    for account in (ACCOUNT, OTHER_ACCOUNT):
        api.world.add(account, "v1", spread(96, DAY, DAY + timedelta(days=2)))
    poll(CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},{OTHER_ACCOUNT}", INITIAL_CHECKPOINT=DAY.isoformat())
    return place


def _run(folder: str, package: str, script: str, names: Mapping[str, str]) -> dict[str, Any]:
    """Returns the output of the script, in a process that has the folder's packages."""
    packages = Path(sys.prefix) / folder
    if not (packages / package).exists():
        pytest.skip(f"{package} is not installed: make test-engines installs it")
    head = "".join(f"{name} = {value!r}\n" for name, value in {"account": ACCOUNT, **names}.items())
    environment = {**os.environ, "PYTHONPATH": str(packages), "DO_NOT_TRACK": "true"}
    done = subprocess.run(
        [sys.executable, "-c", head + script], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


def _expected(api: Api) -> list[str]:
    """The ids of the second day."""
    events = [json.loads(event.raw) for event in api.world.events(ACCOUNT, "v1")]
    return sorted(event["id"] for event in events if event["when"].startswith("2026-11-21"))


def test_daft_plans_the_objects_of_a_day_alone(api: Api, lake: dict[str, str]) -> None:
    """24 of 96, by the partitions, in a folder and on S3."""
    answer = _run("engines", "daft", DAFT, lake)

    assert (answer["total"], sorted(answer["ids"])) == (192, _expected(api))
    assert re.search(r"Num Scan Tasks = 24\b", answer["plan"])
    assert "Partition Filter = [col(account)" in answer["plan"]


def test_polars_plans_the_objects_of_a_day_alone(api: Api, lake: dict[str, str]) -> None:
    """As above."""
    answer = _run("readers", "polars", POLARS, lake)

    assert (answer["total"], sorted(answer["ids"])) == (192, _expected(api))
    first = answer["plan"].splitlines()[0]
    assert f"account={ACCOUNT}/date=2026-11-21/hour=00/events.parquet, ... 23 other sources]" in first


def test_iceberg_registers_closed_hours_where_they_are(
    api: Api, poll: Callable[..., Report], stores: Stores, tmp_path: Path
) -> None:
    """By the docs' own lines: newer hours wait, and an object that was replaced is taken anew."""
    recent = datetime.now(UTC) - timedelta(hours=2)
    api.world.add(ACCOUNT, "v1", [*spread(96, DAY, DAY + timedelta(days=2)), event_at(recent)])
    poll(INITIAL_CHECKPOINT=DAY.isoformat())
    lake = (stores.lake / "cloudflare" / "audit_logs").as_uri()
    names = {"lake": lake, "home": str(tmp_path), "script": REGISTRATION[0]}

    first = _run("engines", "pyiceberg", ICEBERG, names)
    api.world.add(ACCOUNT, "v1", [event_at(DAY + timedelta(hours=30, minutes=7))])
    poll(SWEEP_WINDOW_HOURS="12000", SWEEP_INTERVAL_SECONDS="0.001")
    again = _run("engines", "pyiceberg", ICEBERG, names)

    assert first["total"] == first["read"] == 96
    assert len(first["files"]) == len(set(first["files"])) == 24
    assert again["total"] == again["read"] == 97
    assert len(again["files"]) == 24
    assert sorted(again["ids"]) == _expected(api)
    assert len(stores.lake_ids()) == 98
