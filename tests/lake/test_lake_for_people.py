"""The lake as its readers find it: DuckDB by the project's macros, and pyarrow, Polars and pandas as it is."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from benchmarks.servers.commands import Finished
from benchmarks.servers.s3_gate import gate_before
from benchmarks.servers.seaweed import Bucket
from pipelines.loop.report import Report
from pipelines.settings.settings import PROJECT_ROOT
from simulator.api import Api
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA
from tests.factory import ACCOUNT, OTHER_ACCOUNT, encoded, event_at, raw_event, spread, v1_tree
from tests.stores import Stores

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]
DAY = datetime(2026, 11, 20, tzinfo=UTC)
DOCUMENT = (PROJECT_ROOT / "docs" / "lake.md").read_text()


@pytest.fixture(params=["folder", "bucket"])
def lake(
    request: pytest.FixtureRequest, environment: dict[str, str], api: Api, poll: Callable[..., Report], tmp_path: Path
) -> None:
    """Two accounts, two days, one event that could not be placed; both kinds of lake."""
    if request.param == "bucket":
        bucket: Bucket = request.getfixturevalue("bucket")
        environment |= bucket.settings(f"people/{tmp_path.name}")
    for account in (ACCOUNT, OTHER_ACCOUNT):
        api.world.add(account, "v1", spread(48, DAY, DAY + timedelta(days=2)))
    api.world.add(ACCOUNT, "v1", [event_at(DAY, action={"type": "login", "result": False})])
    api.world.add(ACCOUNT, "v1", [raw_event(encoded(v1_tree(when="soon")), time=DAY)])
    poll(CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},{OTHER_ACCOUNT}", INITIAL_CHECKPOINT=DAY.isoformat())


def _rows(done: Finished) -> list[dict[str, Any]]:
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


QUESTIONS = re.findall(r"^\*\*([^*]+)\*\*\n\n```sql\n(.+?)```", DOCUMENT, re.DOTALL | re.MULTILINE)


@pytest.mark.usefixtures("lake")
def test_every_question_of_the_docs_is_answered(command: Command) -> None:
    """With rows, for an account and a day that are there; on both kinds of lake."""
    assert len(QUESTIONS) >= 6
    for title, sql in QUESTIONS:
        asked = sql.replace("023e105f4ecef8ad9ca31a8372d0c353", ACCOUNT)

        assert _rows(command("pipelines/ask.py", asked, "--json")), title


QUARANTINED = re.findall(r'pipelines/ask\.py "(.+)"', (PROJECT_ROOT / "docs" / "runbook.md").read_text())


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_where_nothing_is_the_answer_is_empty(
    request: pytest.FixtureRequest,
    environment: dict[str, str],
    api: Api,
    poll: Callable[..., Report],
    command: Command,
    tmp_path: Path,
    kind: str,
) -> None:
    """Nothing quarantined, a day without events, an unknown account: by the questions of the documents."""
    if kind == "bucket":
        bucket: Bucket = request.getfixturevalue("bucket")
        environment |= bucket.settings(f"empty/{tmp_path.name}")
    api.world.add(ACCOUNT, "v1", [event_at(DAY)])
    poll(INITIAL_CHECKPOINT=DAY.isoformat())
    columns = "SELECT list(column_name) AS names FROM (DESCRIBE FROM audit_logs({}))"

    by_day = QUESTIONS[0][1].replace("023e105f4ecef8ad9ca31a8372d0c353", ACCOUNT).replace("2026-11-20", "2026-11-19")
    empty = [by_day, QUESTIONS[-1][1], "FROM audit_logs('nobody')", *QUARANTINED]
    (absent,), (there,) = (
        _rows(command("pipelines/ask.py", columns.format(of), "--json")) for of in ("'nobody'", f"'{ACCOUNT}'")
    )

    assert len(empty) == 4
    assert [_rows(command("pipelines/ask.py", sql, "--json")) for sql in empty] == [[]] * 4
    assert absent == there
    assert there["names"] == [*EVENT_SCHEMA.names, "account", "date", "hour"]


@pytest.mark.usefixtures("lake")
def test_what_is_named_is_what_is_read(command: Command) -> None:
    """An account, a day, a pattern of days; the path's columns have types."""
    counts = {
        "audit_logs()": 97,
        f"audit_logs('{ACCOUNT}')": 49,
        f"audit_logs('{ACCOUNT}', '2026-11-21')": 24,
        f"audit_logs('{ACCOUNT}', '2026-11-2*')": 49,
        "audit_logs(day := '2026-11-21')": 48,
        "audit_logs_quarantine()": 1,
    }
    sql = " UNION ALL ".join(f"SELECT count(*) AS n FROM {source}" for source in counts)  # in order

    rows = _rows(command("pipelines/ask.py", sql, "--json"))
    first = _rows(command("pipelines/ask.py", "SELECT date, hour FROM audit_logs() ORDER BY ALL LIMIT 1", "--json"))

    assert [row["n"] for row in rows] == list(counts.values())
    assert first == [{"date": "2026-11-20", "hour": 0}]


def test_a_question_that_cannot_be_answered_is_an_error(
    api: Api, poll: Callable[..., Report], command: Command
) -> None:
    """In one line, with what DuckDB says of it."""
    api.world.add(ACCOUNT, "v1", [event_at(DAY)])
    poll()

    wrong = command("pipelines/ask.py", "SELECT nothing FROM audit_logs()")

    assert wrong.code == 1
    assert "the question could not be answered" in wrong.err
    assert "nothing" in wrong.err
    assert "Traceback" not in wrong.err


def test_the_log_names_the_lake_that_is_used(api: Api, command: Command, tmp_path: Path) -> None:
    """Dlt's own name of its place wins over the settings, also where it is shown."""
    api.world.add(ACCOUNT, "v1", [event_at(DAY)])
    place = (tmp_path / "elsewhere").as_uri()

    done = command("pipelines/run.py", "--once", DESTINATION__FILESYSTEM__BUCKET_URL=place)

    assert done.code == 0, done.err
    assert re.search(rf"run\.started .* lake={re.escape(place)}$", done.err, re.MULTILINE)


@pytest.mark.long
def test_whoever_names_a_day_lists_that_day_and_no_more(
    api: Api, poll: Callable[..., Report], command: Command, environment: dict[str, str], bucket: Bucket, tmp_path: Path
) -> None:
    """A question, a rehydration, a comparison: none walks the lake, whose listing grows with the years."""
    prefix = f"gate/{tmp_path.name}"
    with gate_before(bucket.endpoint) as gate:
        environment |= {**bucket.settings(prefix), "S3_ENDPOINT": gate.url}
        api.world.add(ACCOUNT, "v1", spread(48, DAY, DAY + timedelta(days=2)))
        poll(INITIAL_CHECKPOINT=DAY.isoformat())
        window = ("--since", "2026-11-20T00:00Z", "--before", "2026-11-21T00:00Z")
        gate.requests.clear()

        done = [
            command("pipelines/ask.py", f"SELECT count(*) FROM audit_logs('{ACCOUNT}', '2026-11-20')"),
            command("pipelines/rehydrate.py", *window),
            command("pipelines/reconcile.py", *window, "--without-api"),
        ]

    of_account = f"{prefix}/cloudflare/audit_logs/account={ACCOUNT}/"
    copies = f"{prefix}/cloudflare/audit_logs_days/account={ACCOUNT}/date=2026-11-20/"
    listed = [request.key for request in gate.requests if request.action == "s3:ListBucket"]
    beyond = [key for key in listed if not key.startswith(f"{of_account}date=2026-11-20/") and key != copies]
    assert [finished.code for finished in done] == [0, 0, 0]
    # Two ask if there is a lake, of one key; a rehydration asks which days there are, of one name a day.
    assert sorted(set(beyond)) == [f"{prefix}/cloudflare/", of_account]
    assert len(beyond) == 3


@pytest.fixture
def folder(api: Api, poll: Callable[..., Report], stores: Stores) -> Path:
    """A folder lake of 48 events in two days, two objects of which are of releases with a column less, and one more."""
    api.world.add(ACCOUNT, "v1", spread(48, DAY, DAY + timedelta(days=2)))
    poll()
    folder = stores.lake / "cloudflare" / "audit_logs"
    _, older, newer, *_ = sorted(folder.rglob("*.parquet"))
    pq.write_table(pq.ParquetFile(older).read().drop_columns(["zone_name"]), older)
    table = pq.ParquetFile(newer).read()
    pq.write_table(table.append_column("ray", pa.array(["r"] * table.num_rows)), newer)
    return folder


def test_pyarrow_reads_it_as_it_is(folder: Path) -> None:
    """With the columns of the path, and only what they name."""
    dataset = ds.dataset(folder, format="parquet", partitioning="hive", exclude_invalid_files=False)
    day = ds.field("date") == "2026-11-21"

    assert dataset.count_rows() == 48
    assert len(list(dataset.get_fragments(filter=day))) == 24
    assert dataset.to_table(filter=day)["raw_event"].null_count == 0


READERS = {
    "polars": """
import polars as pl
frame = pl.scan_parquet(folder, hive_partitioning=True, missing_columns="insert", extra_columns="ignore")
of_a_day = frame.filter(pl.col("date") == datetime.date(2026, 11, 21)).collect()
total = frame.select(pl.len()).collect().item()
print(total, len(of_a_day), of_a_day["timestamp"].dtype, of_a_day["event_id"].n_unique())
""",
    "pandas": """
import pandas as pd
of_a_day = pd.read_parquet(folder, filters=[("date", "=", "2026-11-21")])
print(len(pd.read_parquet(folder)), len(of_a_day), of_a_day["timestamp"].dtype, of_a_day["event_id"].nunique())
""",
}


@pytest.mark.parametrize("name", READERS)
def test_other_readers_read_it_as_it_is(folder: Path, name: str) -> None:
    """With times that know their zone, and only what the columns of the path name."""
    readers = Path(sys.prefix) / "readers"
    if not (readers / name).exists() and importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: make setup-dev installs it")
    script = f"import datetime; folder = {str(folder)!r}\n{READERS[name]}"
    environment = {**os.environ, "PYTHONPATH": str(readers)}
    read = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)

    assert read.returncode == 0, read.stderr
    total, of_a_day, kind, unique = re.fullmatch(r"(\d+) (\d+) (.+) (\d+)\n", read.stdout).groups()  # type: ignore[union-attr]
    assert (total, of_a_day, unique) == ("48", "24", "24")
    assert "UTC" in kind
