"""The lake registered as a table of Spark, Iceberg and DuckLake, with the statements of docs/engines.md.

Shows what such a table does when objects are added, replaced or gone, and what may delete them.
"""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.servers.seaweed import S3_KEYS
from pipelines.loop.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, event_at, spread
from tests.lake.engines import DUCKDB, STATEMENTS, Place, copy_days, objects, place_of, run
from tests.stores import Stores

pytestmark = [pytest.mark.integration, pytest.mark.engines]

DAY = datetime(2026, 11, 20, tzinfo=UTC)

ICEBERG = """
import json, os
from pyiceberg.catalog.sql import SqlCatalog
catalog = SqlCatalog("test", uri=f"sqlite:///{home}/catalog.db", warehouse=f"file://{home}", **properties)
if before_all:
    exec(before_all)
try:
    exec(compile(lines, "docs/engines.md", "exec"))
except SystemExit as error:
    refused = str(error)
else:
    refused = None
answer = {"refused": refused}
if catalog.table_exists("audit.audit_logs"):
    table = catalog.load_table("audit.audit_logs")
    since, before = "2026-11-21T00:00:00+00:00", "2026-11-22T00:00:00+00:00"
    day = table.scan(row_filter=f"account_id = '{account}' AND timestamp >= '{since}' AND timestamp < '{before}'")
    answer["files"] = [task.file.file_path for task in day.plan_files()]
    answer["total"] = table.scan().count()
    answer["ids"] = table.scan().to_arrow()["event_id"].to_pylist()
    answer["columns"] = table.schema().column_names
print(json.dumps(answer))
"""


class Registration:
    """The lines of docs/engines.md that register a folder in an Iceberg catalog, which a test may run repeatedly."""

    def __init__(self, place: Place, home: Path) -> None:
        self.place, self.home = place, home
        home.mkdir()

    def __call__(self, lake: str, *, before_all: str = "") -> dict[str, Any]:
        """Runs them; returns the table's contents, and why they stopped."""
        # For a bucket, the keys are in the catalog's properties alone.
        properties = {
            "s3.endpoint": self.place.endpoint,
            "s3.access-key-id": S3_KEYS["S3_ACCESS_KEY"],
            "s3.secret-access-key": S3_KEYS["S3_SECRET_KEY"],
            "s3.region": "us-east-1",
        }
        names = {"home": str(self.home), "properties": properties if self.place.endpoint else {}, "account": ACCOUNT}
        names |= {"lake": lake, "lines": STATEMENTS["iceberg"], "before_all": before_all}
        return run("pyiceberg", ICEBERG, self.place, keys=False, **names)


@pytest.fixture(params=["folder", "bucket"])
def place(
    request: pytest.FixtureRequest,
    environment: dict[str, str],
    api: Api,
    poll: Callable[..., Report],
    stores: Stores,
    tmp_path: Path,
) -> Place:
    """A lake of each kind, with two days of an account and their copies, and an event of two hours ago."""
    place = place_of(request, environment, stores, f"registered/{tmp_path.name}")
    api.world.add(ACCOUNT, "v1", spread(96, DAY, DAY + timedelta(days=2)))
    poll(INITIAL_CHECKPOINT=DAY.isoformat())
    copy_days(place)
    api.world.add(ACCOUNT, "v1", [event_at(datetime.now(UTC) - timedelta(hours=2))])
    poll()
    return place


def _add(place: Place, path: str, count: int, *, row_group: int | None = None, **columns: str) -> None:
    """Replaces an object by one with as many more events, and perhaps more columns."""
    store, _ = place.store()
    table = pq.ParquetFile(store.open_input_file(path)).read()
    more = table.slice(0, 1).set_column(0, table.schema.field(0), pa.array([f"late {path[-40:]}"]))
    table = pa.concat_tables([table, *[more] * count])
    for name, value in columns.items():
        table = table.append_column(name, pa.array([value] * table.num_rows))
    pq.write_table(table, path, filesystem=store, compression="zstd", row_group_size=row_group)


def test_iceberg_shows_each_event_of_the_day_copies_once(place: Place, tmp_path: Path) -> None:
    """With the keys in the catalog alone; again, with a slash at the end, nothing changes."""
    register = Registration(place, tmp_path / "iceberg")
    lake = f"{place.url}/cloudflare/audit_logs_days"

    first, again = register(lake), register(f"{lake}/")

    assert first["refused"] is None
    assert len(first["ids"]) == len(set(first["ids"])) == first["total"] == 96
    assert [path.split("/")[-2] for path in first["files"]] == ["date=2026-11-21"]
    assert again == first


def test_iceberg_follows_copies_that_are_replaced_added_or_gone(place: Place, tmp_path: Path) -> None:
    """Also if a newer one has a column more, and if one comes back."""
    register = Registration(place, tmp_path / "iceberg")
    lake = f"{place.url}/cloudflare/audit_logs_days"
    register(lake)
    store, _ = place.store()
    gone, replaced = objects(place, "audit_logs_days")[:2]
    _add(place, replaced, 1, ray="r")
    store.delete_file(gone)

    changed = register(lake)
    copy_days(place)
    added = register(lake)

    assert changed["total"] == len(changed["ids"]) == 49
    assert changed["columns"][-1] == "ray"
    assert added["total"] == len(added["ids"]) == len(set(added["ids"])) == 96


def test_iceberg_registers_hours_once_they_are_closed(place: Place, tmp_path: Path) -> None:
    """The event of two hours ago waits."""
    answer = Registration(place, tmp_path / "iceberg")(f"{place.url}/cloudflare/audit_logs")

    assert answer["total"] == len(set(answer["ids"])) == 96
    assert len(answer["files"]) == 24


@pytest.mark.parametrize("folder", ["audit_logs", "audit_logs_days"])
def test_iceberg_says_that_a_young_lake_has_nothing_to_register(
    api: Api, poll: Callable[..., Report], stores: Stores, tmp_path: Path, folder: str
) -> None:
    """No hour is closed and no day copied; no table is made."""
    api.world.add(ACCOUNT, "v1", [event_at(datetime.now(UTC) - timedelta(hours=2))])
    poll()

    answer = Registration(Place(str(stores.lake)), tmp_path / "iceberg")(f"{stores.lake}/cloudflare/{folder}")

    assert answer == {"refused": f"{stores.lake}/cloudflare/{folder}: nothing to register yet"}


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_iceberg_registers_no_place_under_a_second_name(place: Place, tmp_path: Path) -> None:
    """A relative path and a URL are the same place; another spelling, and the hours beside the days, are refused."""
    register = Registration(place, tmp_path / "iceberg")
    lake = f"{place.url}/cloudflare/audit_logs_days"
    (tmp_path / "link").symlink_to(place.url)

    first = register("cloudflare/audit_logs_days", before_all=f"os.chdir({place.url!r})")
    url, link, hours = (
        register(spelt)
        for spelt in (f"file://{lake}", f"{tmp_path}/link/cloudflare/audit_logs_days", lake.removesuffix("_days"))
    )

    assert first["total"] == 96
    assert url == first
    for refused in (link, hours):
        assert refused.pop("refused").startswith("audit.audit_logs has the objects of another place")
        assert refused.items() <= first.items()


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_iceberg_purges_the_copies_and_drops_nothing(place: Place, tmp_path: Path) -> None:
    """`drop_table` leaves every object; `purge_table` deletes the registered ones in spite of `gc.enabled`."""
    register = Registration(place, tmp_path / "iceberg")
    lake, hours = f"{place.url}/cloudflare/audit_logs_days", objects(place, "audit_logs")
    register(lake)

    dropped = register(lake, before_all="catalog.drop_table('audit.audit_logs')")
    purged = register(lake, before_all="catalog.purge_table('audit.audit_logs')")

    assert dropped["total"] == 96
    assert purged["refused"]
    assert objects(place, "audit_logs_days") == []
    assert len(hours) == 49
    assert objects(place, "audit_logs") == hours


SPARK = """
import json, os
from pyspark.sql import SparkSession
os.chdir(home)
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").config(
    "spark.sql.session.timeZone", "UTC").config("spark.sql.shuffle.partitions", "1").getOrCreate()
def run(script):
    for statement in script.split(";"):
        if statement.strip():
            spark.sql(statement)
def count(where="true"):
    return spark.sql(f"SELECT count(*), count(DISTINCT event_id) FROM audit_logs WHERE {where}").first()[0]
run(table)
frame = spark.sql(f"SELECT * FROM audit_logs WHERE account = '{account}' AND date = DATE'2026-11-20'")
question = f"account = '{account}' AND date = DATE'2026-11-20' AND hour = 9"
first = {"total": count(), "hour": count(question), "types": dict(frame.dtypes), "files": len(frame.inputFiles())}
for kept, other in replaced.items():
    os.replace(other, kept)
stale = count(question)
run(refresh)
print(json.dumps({"first": first, "stale": stale, "total": count(), "hour": count(question)}))
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_spark_sees_what_an_hour_gained_once_it_is_told(place: Place, tmp_path: Path) -> None:
    """A kept session counts too few until `REFRESH TABLE`, and misses new hours until `MSCK REPAIR TABLE`."""
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java: apt-get install openjdk-17-jre-headless")
    nine = next(path for path in objects(place, "audit_logs") if "date=2026-11-20/hour=09" in path)
    grown, added = tmp_path / "grown.parquet", Path(nine.replace("date=2026-11-20", "date=2026-11-22"))
    for path in (grown, tmp_path / "new.parquet"):
        shutil.copy(nine, path)
    _add(place, str(grown), 60, row_group=1)
    added.parent.mkdir(parents=True)
    names = {"home": str(tmp_path), "account": ACCOUNT, "refresh": STATEMENTS["spark_refresh"]}
    names["table"] = place.located(STATEMENTS["spark"].replace("s3a://", "s3://"))
    names["replaced"] = {nine: str(grown), str(added): str(tmp_path / "new.parquet")}

    answer = run("pyspark", SPARK, place, **names)

    types = answer["first"].pop("types")
    assert answer["first"] == {"total": 97, "hour": 2, "files": 24}
    assert {types[name] for name in ("timestamp", "ingestion_time")} == {"timestamp"}
    assert (types["account"], types["date"], types["hour"]) == ("string", "date", "int")
    assert answer["stale"] < answer["hour"] == 62
    assert answer["total"] == 97 + 60 + 2


DUCKLAKE = (
    DUCKDB
    + """
import json
os.chdir(home)
duckdb.execute(sql)
duckdb.execute("DETACH archive")
os.replace("new.ducklake", "kept.ducklake")
duckdb.execute("ATTACH 'ducklake:kept.ducklake' AS archive (READ_ONLY)")
total, unique = duckdb.sql("SELECT count(*), count(DISTINCT event_id) FROM archive.audit_logs").fetchone()
(day,) = duckdb.sql(
    f"SELECT count(*) FROM archive.audit_logs WHERE account = '{account}' AND date = '2026-11-21'").fetchone()
print(json.dumps({"total": total, "unique": unique, "day": day}))
"""
)


def test_ducklake_shows_each_event_of_the_day_copies_once(place: Place, tmp_path: Path) -> None:
    """By a catalog that is made anew each time, also after a copy was replaced."""
    home = tmp_path / "ducklake"
    home.mkdir()
    names: dict[str, Any] = {"sql": place.located(STATEMENTS["ducklake"]), "home": str(home), "account": ACCOUNT}

    first = run("duckdb", DUCKLAKE, place, **names)
    _add(place, objects(place, "audit_logs_days")[-1], 1)
    again = run("duckdb", DUCKLAKE, place, **names)

    assert first == {"total": 96, "unique": 96, "day": 48}
    assert again == {"total": 97, "unique": 97, "day": 49}
