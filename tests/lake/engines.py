"""Runs the statements of docs/engines.md, each in a process with the packages of its engine.

They live outside the environment of the tests, as `.venv/readers` does: `make test-engines` installs them.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from benchmarks.servers.seaweed import S3_KEYS, Bucket
from pipelines.settings.settings import PROJECT_ROOT
from tests.stores import Stores

DOCUMENT = (PROJECT_ROOT / "docs" / "engines.md").read_text()
STATEMENTS = dict(re.findall(r"^```(?:python|sql) (\w+)\n(.+?)```", DOCUMENT, re.DOTALL | re.MULTILINE))
TIMEOUT_SECONDS = 170
DUCKDB = """
import duckdb, os, pathlib
for extension in pathlib.Path(packages).glob("duckdb_extension_*/extensions/*/*.duckdb_extension"):
    duckdb.sql(f"LOAD '{extension}'")
if "AWS_ENDPOINT_URL" in os.environ:
    key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    host = os.environ["AWS_ENDPOINT_URL"].partition("//")[2]
    duckdb.sql(f"CREATE SECRET (TYPE s3, KEY_ID '{key}', SECRET '{secret}', ENDPOINT '{host}',"
        " URL_STYLE path, USE_SSL false)")
"""
"""With its extensions and, for a bucket, the secret that docs/engines.md speaks of."""


@dataclass(frozen=True)
class Place:
    """The folder or bucket that has `cloudflare/`, as an engine takes it."""

    url: str
    endpoint: str = ""

    def located(self, text: str) -> str:
        """The document's text with this place instead of its example."""
        if not self.endpoint:
            return text.replace("s3://BUCKET", self.url).replace("'/lake/", f"'{self.url}/")
        bucket, prefix = self.url.removeprefix("s3://").split("/", 1)
        text = text.replace("https://BUCKET.s3.amazonaws.com", f"{self.endpoint}/{bucket}/{prefix}")
        return text.replace("s3://BUCKET", self.url)

    @property
    def environment(self) -> dict[str, str]:
        """The keys by the names that docs/engines.md gives; none for a folder."""
        if not self.endpoint:
            return {}
        return {
            "AWS_ACCESS_KEY_ID": S3_KEYS["S3_ACCESS_KEY"],
            "AWS_SECRET_ACCESS_KEY": S3_KEYS["S3_SECRET_KEY"],
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
        }

    def store(self) -> tuple[pafs.FileSystem, str]:
        """A file system, and its path of the place."""
        if not self.endpoint:
            return pafs.LocalFileSystem(), self.url
        keys = {"access_key": S3_KEYS["S3_ACCESS_KEY"], "secret_key": S3_KEYS["S3_SECRET_KEY"]}
        return pafs.S3FileSystem(endpoint_override=self.endpoint, **keys), self.url.removeprefix("s3://")


def bucket_place(bucket: Bucket, prefix: str) -> Place:
    """The place of the settings `bucket.settings(prefix)`."""
    return Place(f"s3://{bucket.name}/{prefix}", bucket.endpoint)


def place_of(request: pytest.FixtureRequest, environment: dict[str, str], stores: Stores, prefix: str) -> Place:
    """Returns the stores' folder or, if the test asks for a bucket, a prefix of one, named in the environment."""
    if request.param == "folder":
        return Place(str(stores.lake))
    bucket: Bucket = request.getfixturevalue("bucket")
    environment |= bucket.settings(prefix)
    return bucket_place(bucket, prefix)


def objects(place: Place, folder: str) -> list[str]:
    """The paths of the objects of a folder of the lake."""
    store, root = place.store()
    selector = pafs.FileSelector(f"{root}/cloudflare/{folder}", recursive=True, allow_not_found=True)
    return sorted(info.path for info in store.get_file_info(selector) if info.base_name == "events.parquet")


def copy_days(place: Place) -> None:
    """Writes the day copies of every hour that is there."""
    store, _ = place.store()
    days: dict[str, list[pa.Table]] = {}
    for path in objects(place, "audit_logs"):
        day = path.rpartition("/hour=")[0].replace("/audit_logs/", "/audit_logs_days/")
        days.setdefault(day, []).append(pq.ParquetFile(store.open_input_file(path)).read())
    assert days
    for day, tables in days.items():
        if not place.endpoint:
            store.create_dir(day, recursive=True)
        pq.write_table(pa.concat_tables(tables), f"{day}/events.parquet", filesystem=store, compression="zstd")


def run(package: str, script: str, place: Place, *, keys: bool = True, **names: Any) -> dict[str, Any]:
    """Returns the last line of the script's output, in a process that has the package and the names.

    Skips the test if the package is not installed.
    """
    folders = [Path(sys.prefix) / folder for folder in ("readers", "engines")]
    folder = next((folder for folder in folders if (folder / package).exists()), None)
    if folder is None:
        pytest.skip(f"{package} is not installed: make test-engines installs it")
    head = "".join(f"{name} = {value!r}\n" for name, value in {"packages": str(folder), **names}.items())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"PYTHONPATH": str(folder), "DO_NOT_TRACK": "true", **(place.environment if keys else {})}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", head + script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(answer, dict)
    return answer
