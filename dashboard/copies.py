"""The lake's events without their payloads: a file an account and day, made when it is first asked for.

An object an hour is small, and what a question costs is the number of objects: 24 of them become one file of this
host's, kept as long as the dashboard runs, and made anew when an object of that day has changed. Never writes to the
lake.
"""

import atexit
import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from urllib.parse import urlsplit

import duckdb
from pyarrow.fs import FileInfo, FileSelector, FileSystem, LocalFileSystem, S3FileSystem

from pipelines.lake.database import duckdb_schema
from pipelines.lake.destination import Lake
from pipelines.lake.partitions import account_folder, day_folder
from pipelines.lake.reads import LakeReader
from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, EVENTS_TABLE
from sources.cloudflare_audit_logs.streams import Window

Ask = Callable[..., object]
_COLUMNS = ", ".join(f'"{name}"' for name in EVENT_SCHEMA.names if name not in {"raw_event", "metadata"})
EVENTS = duckdb_schema(EVENT_SCHEMA)
"""A column that an object of an older release lacks is null."""
_OBJECT = re.compile(r"/hour=\d\d/events\.parquet$")
_AT_ONCE = 8
_KEPT_SECONDS = 60
"""An older copy stays for so long: another page may be about to read it."""
_folder = TemporaryDirectory(prefix="audit-dashboard-", ignore_cleanup_errors=True)
atexit.register(_folder.cleanup)

T = TypeVar("T")
R = TypeVar("R")


class Deadline:
    """When a question has to be answered."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    def check(self) -> None:
        """Raises AuditLogsError when it is over."""
        if time.monotonic() > self._ends:
            raise too_long()

    @contextmanager
    def interrupting(self, database: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """A block whose question is stopped when it is over."""
        timer = threading.Timer(max(0, self._ends - time.monotonic()), database.interrupt)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def too_long() -> AuditLogsError:
    """The same of both stores."""
    return AuditLogsError("the question took too long", hint="choose a shorter time or an account")


class LakeFiles:
    """The lake's objects by pyarrow's file system, which takes a fifth of the CPU that Python's takes for an object.

    Listed once, as long as the page does not ask for a new store.
    """

    def __init__(self, lake: LakeReader) -> None:
        self._files, self._root = _native(lake), lake.objects.url("").removeprefix("s3://").rstrip("/")
        self._listed: dict[str, list[FileInfo]] = {}

    def accounts(self) -> list[str]:
        """An account is a folder."""
        return sorted(info.base_name.removeprefix("account=") for info in self._list(EVENTS_TABLE))

    def copies(self, window: Window, account_id: str, deadline: Deadline, ask: Ask) -> list[str]:
        """Files with the events of the days of a window, of one account or all; `ask` is DuckDB.

        Raises:
            AuditLogsError: an object is none of ours, or it takes too long; what was copied by then is kept.
            TemporaryError: the lake is not available.
        """
        with Lake().translated_errors():
            accounts = [account_id] if account_id else self.accounts()
            days = [(account, day) for account in accounts for day in self._days(account, window)]
            objects = _each(lambda of: self._list(day_folder(*of), recursive=True), days, deadline)
            return [self._copy(infos, deadline, ask) for infos in objects if infos]

    def _days(self, account_id: str, window: Window) -> Iterator[datetime]:
        """The days that the account has, by one listing: a window may begin with the calendar."""
        for info in self._list(account_folder(account_id)):
            name = info.base_name.removeprefix("date=")
            if (
                re.fullmatch(r"\d{4}-[01]\d-[0-3]\d", name)
                and f"{window.since:%Y-%m-%d}" <= name <= f"{window.before:%Y-%m-%d}"
            ):
                yield datetime.fromisoformat(name).replace(tzinfo=UTC)

    def _list(self, folder: str, *, recursive: bool = False) -> list[FileInfo]:
        if folder not in self._listed:
            selector = FileSelector(f"{self._root}/{folder}", allow_not_found=True, recursive=recursive)
            found = self._files.get_file_info(selector)
            wanted = [info for info in found if (_OBJECT.search(info.path) if recursive else not info.is_file)]
            self._listed[folder] = sorted(wanted, key=lambda info: info.path)
        return self._listed[folder]

    def _copy(self, objects: list[FileInfo], deadline: Deadline, ask: Ask) -> str:
        version = repr([(info.path, info.size, info.mtime_ns) for info in objects])
        day = hashlib.sha256(objects[0].path.rpartition("/hour=")[0].encode()).hexdigest()
        path = Path(_folder.name) / f"{day}.{hashlib.sha256(version.encode()).hexdigest()}.parquet"
        if not path.exists():
            unfinished = path.with_suffix(f".{threading.get_ident()}")
            with self._as_files(objects, deadline) as files:
                read = f"SELECT {_COLUMNS} FROM read_parquet($1, hive_partitioning = false, schema = {EVENTS})"  # noqa: S608  # ours
                ask(f"COPY ({read}) TO '{unfinished}' (FORMAT parquet, COMPRESSION zstd)", files)
            unfinished.rename(path)
            _forget_older(path, day)
        return str(path)

    @contextmanager
    def _as_files(self, objects: list[FileInfo], deadline: Deadline) -> Iterator[list[str]]:
        """The objects as files of this host, as long as the block: DuckDB reads them with half of pyarrow's CPU."""
        if isinstance(self._files, LocalFileSystem):
            yield [info.path for info in objects]
            return
        with TemporaryDirectory(dir=_folder.name) as folder:
            yield _each(lambda info: self._fetch(info.path, Path(folder)), objects, deadline)

    def _fetch(self, path: str, folder: Path) -> str:
        with self._files.open_input_stream(path) as file:
            fetched = folder / path.removeprefix(self._root).strip("/").replace("/", ",")
            fetched.write_bytes(file.read())
        return str(fetched)


def _forget_older(path: Path, day: str) -> None:
    for older in path.parent.glob(f"{day}.*.parquet"):
        with suppress(FileNotFoundError):  # another page was faster
            if older != path and older.stat().st_mtime < time.time() - _KEPT_SECONDS:
                older.unlink()


def remove_copies() -> None:
    """Once the dashboard ends."""
    _folder.cleanup()


def _each(do: Callable[[T], R], items: Iterable[T], deadline: Deadline) -> list[R]:
    """Side by side, until the deadline."""

    def checked(item: T) -> R:
        deadline.check()
        return do(item)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(checked, items))


def _native(lake: LakeReader) -> FileSystem:
    if lake.filesystem is None:
        return LocalFileSystem()
    keys = lake.credentials.to_session_credentials()
    return S3FileSystem(
        access_key=keys["aws_access_key_id"],
        secret_key=keys["aws_secret_access_key"],
        session_token=keys["aws_session_token"],
        endpoint_override=lake.credentials.endpoint_url,
        scheme=urlsplit(lake.credentials.endpoint_url or "https:").scheme,
        region=lake.credentials.region_name,
        tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE"),
    )
