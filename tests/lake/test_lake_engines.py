"""The lake read as it is by other engines, with the statements of docs/engines.md.

An engine reads each event once, and opens no object that a question does not name.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.loop.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, OTHER_ACCOUNT, spread
from tests.lake.engines import DUCKDB, STATEMENTS, Place, copy_days, place_of, run
from tests.stores import Stores

pytestmark = [pytest.mark.integration, pytest.mark.engines]

DAY = datetime(2026, 11, 20, tzinfo=UTC)
OF_DIGITS = "00000000000000000000000000000123"

FRAME = """
import json
print(json.dumps({"ids": list(events["event_id"]), "accounts": sorted(set(events["account"]))}))
"""
# Each has the document's statement as STATEMENT, or its text as `sql`.
READERS = {
    "pyarrow": """STATEMENT
events, files = events.to_pydict(), [fragment.path for fragment in lake.get_fragments(filter=of_a_day)]
assert len(files) == expected_files, files
""",
    "pandas": "STATEMENT",
    "polars": """STATEMENT
plan, events = events.explain().splitlines()[0], events.collect()
assert "date=2026-11-20/" in plan, plan
assert expected_files == 1 or f"events.parquet, ... {expected_files - 1} other sources]" in plan, plan
""",
    "daft": """
import contextlib, io
plan = io.StringIO()
with contextlib.redirect_stdout(plan):
    STATEMENT
events = events.to_pydict()
assert f"Num Scan Tasks = {expected_files}\\n" in plan.getvalue(), plan.getvalue()
""",
    "duckdb": DUCKDB
    + """
events = duckdb.sql(sql).fetch_arrow_table().to_pydict()
plan = duckdb.sql("EXPLAIN ANALYZE " + sql).fetchall()[0][1]
assert f"Total Files Read: {expected_files} " in plan, plan
""",
    "datafusion": """
import os, re, datafusion, datafusion.object_store
context = datafusion.SessionContext()
if "AWS_ENDPOINT_URL" in os.environ:
    bucket = sql.partition("s3://")[2].partition("/")[0]
    store = datafusion.object_store.AmazonS3(
        bucket, region=os.environ["AWS_REGION"], endpoint=os.environ["AWS_ENDPOINT_URL"], allow_http=True)
    context.register_object_store("s3://", store, bucket)
table, question, *_ = sql.split(";")
context.sql(table)
events = context.sql(question).to_arrow_table().to_pydict()
plan = str(context.sql("EXPLAIN VERBOSE " + question).to_pydict())
assert len(set(re.findall(r"date=[\\w=/-]+/events.parquet", plan))) == expected_files, plan
""",
    "clickhouse": """
import chdb
events = chdb.query(sql, "DataFrame")
""",
}
PACKAGES = {"clickhouse": "chdb"}
HOUR = re.compile(
    r""", \("hour", pyarrow.int8\(\)\)|, "hour": polars.Int8|, 'hour': TINYINT|/\*(?=/\*/\*/)|, hour(?=\))|/hour=\*"""
)


def _read(name: str, place: Place, *, account: str = ACCOUNT, days: bool = False) -> dict[str, Any]:
    """Returns the answer of the engine to the document's question, of the hours or of the day copies."""
    folder = "_folder" if name == "clickhouse" and not place.endpoint else ""
    statement = place.located(STATEMENTS[name + folder]).replace(ACCOUNT, account)
    if days:
        statement = HOUR.sub("", statement).replace("/audit_logs/", "/audit_logs_days/")
        statement = statement.replace('/audit_logs"', '/audit_logs_days"')
    script = READERS[name].replace("STATEMENT", statement.replace("\n", "\n    ") if name == "daft" else statement)
    files = 1 if days else 24
    return run(PACKAGES.get(name, name), script + FRAME, place, sql=statement, expected_files=files)


@pytest.fixture(params=["folder", "bucket"])
def place(
    request: pytest.FixtureRequest,
    environment: dict[str, str],
    api: Api,
    poll: Callable[..., Report],
    stores: Stores,
    tmp_path: Path,
) -> Place:
    """Two accounts of two days in a lake of each kind."""
    place = place_of(request, environment, stores, f"engines/{tmp_path.name}")
    for account in (ACCOUNT, OTHER_ACCOUNT):
        api.world.add(account, "v1", spread(96, DAY, DAY + timedelta(days=2)))
    poll(CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},{OTHER_ACCOUNT}", INITIAL_CHECKPOINT=DAY.isoformat())
    return place


def _of_the_day(api: Api, account: str = ACCOUNT) -> list[str]:
    """The ids of the events of the first day."""
    events = [json.loads(event.raw) for event in api.world.events(account, "v1")]
    return sorted(event["id"] for event in events if event["when"].startswith("2026-11-20"))


@pytest.mark.wide
@pytest.mark.parametrize("name", READERS)
def test_a_day_of_an_account_is_read_from_its_hours_alone(api: Api, place: Place, name: str) -> None:
    """Each event once, from 24 of 96 objects, in a folder and on S3."""
    answer = _read(name, place)

    assert sorted(answer["ids"]) == _of_the_day(api)
    assert len(answer["ids"]) == 48
    assert answer["accounts"] == [ACCOUNT]


@pytest.mark.wide
@pytest.mark.parametrize("name", READERS)
def test_a_day_of_an_account_is_read_from_its_copy_alone(api: Api, place: Place, name: str) -> None:
    """The same statement, of the folder of the copies and without the hour, opens one object."""
    copy_days(place)

    answer = _read(name, place, days=True)

    assert sorted(answer["ids"]) == _of_the_day(api)


@pytest.mark.wide
@pytest.mark.parametrize("name", [name for name in READERS if name != "clickhouse"])
def test_an_account_of_digits_keeps_its_zeros(api: Api, poll: Callable[..., Report], stores: Stores, name: str) -> None:
    """The statements name the types of the path's columns, so that no engine guesses them."""
    api.world.add(OF_DIGITS, "v1", spread(48, DAY, DAY + timedelta(days=1)))
    poll(CLOUDFLARE_ACCOUNT_ID=OF_DIGITS, INITIAL_CHECKPOINT=DAY.isoformat())

    answer = _read(name, Place(str(stores.lake)), account=OF_DIGITS)

    assert answer["accounts"] == [OF_DIGITS]
    assert sorted(answer["ids"]) == _of_the_day(api, OF_DIGITS)
