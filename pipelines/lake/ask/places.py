"""Where the lake is, and how many of its objects are listed and read at once. Never writes.

A bucket is read by obstore, which takes a hundredth of s3fs's CPU for an object; a folder by the system's own calls.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, Union

from pipelines.lake.objects import DATASET, Listed
from pipelines.settings.dlt_names import dlt_is_silent
from pipelines.settings.settings import StoreSettings, read_environment, read_store_settings
from sources.cloudflare_audit_logs.errors import AuditLogsError

if TYPE_CHECKING:
    from .bucket_place import BucketPlace

WILD = re.compile(r"[*?\[]")
_HOUR = re.compile(r"hour=(\d\d)")
_LAST = "\U0010ffff"

Place: TypeAlias = Union["FolderPlace", "BucketPlace"]
"""A lake's dataset, read by many objects at once: both have the same methods."""


class Days(NamedTuple):
    """The days that are asked for: of accounts by a pattern, from one date to another, whose names match a pattern."""

    accounts: str = "*"
    first: str = ""
    last: str = _LAST
    pattern: str = "*"

    @classmethod
    def matching(cls, accounts: str, dates: str) -> "Days":
        """The days whose names match, asked for from the first that can."""
        begin = WILD.split(dates)[0]
        return cls(accounts, begin, f"{begin}{_LAST}", dates)

    def has(self, date: str) -> bool:
        """True if the date is one of these."""
        return self.first <= date <= self.last and (self.pattern == "*" or fnmatchcase(date, self.pattern))


class Found(NamedTuple):
    """An object of a day: of an hour, or the day's copy."""

    account_id: str
    date: str
    hour: str
    """Two digits; of a day's copy nothing."""
    path: str
    listed: Listed


class Part(NamedTuple):
    """A part of an object, or the whole."""

    body: bytes
    version: str
    size: int
    """The bytes of the whole."""


class FolderPlace:
    """A folder. DuckDB reads its files by itself."""

    is_local = True

    def __init__(self, root: Path) -> None:
        self._root = root

    def url(self, path: str) -> str:
        """The file's path."""
        return str(self._root / path)

    def accounts(self, table: str) -> list[str]:
        """The accounts that a table has a folder of."""
        return ids_of(name for name, is_folder in self._entries(table) if is_folder)

    def dates(self, table: str, account_id: str) -> set[str]:
        """The days that a table has a folder of, of an account."""
        return {name.removeprefix("date=") for name, _ in self._entries(f"{table}/account={account_id}")}

    def find(self, table: str, days: Days) -> Iterator[Found]:
        """Finds the objects of the days, in order."""
        for account_id in self.accounts(table):
            if not fnmatchcase(account_id, days.accounts):
                continue
            folder = f"{table}/account={account_id}"
            for name, _ in self._entries(folder):
                date = name.removeprefix("date=")
                if date != name and days.has(date):
                    yield from self._of_day(account_id, date, f"{folder}/{name}")

    def _of_day(self, account_id: str, date: str, folder: str) -> Iterator[Found]:
        for name, is_folder in self._entries(folder):
            path = f"{folder}/{name}/events.parquet" if is_folder else f"{folder}/{name}"
            if (hour := hour_in(name)) is not None and (listed := self.listed(path)):
                yield Found(account_id, date, hour, path, listed)

    def walk(self, folder: str) -> dict[str, Listed]:
        """Lists all files below a folder. Raises AuditLogsError if there is no lake, or no folder in its place."""
        if not self._root.is_dir():
            raise AuditLogsError(f"there is no lake at {self._root}", hint="check S3_BUCKET or DATA_DIR")
        found: dict[str, Listed] = {}
        for name, is_folder in self._entries(folder):
            path = f"{folder}/{name}"
            if is_folder and (self._root / path).is_symlink():  # it may lead back to where it is
                found[path] = Listed(0, "")
            elif is_folder:
                found |= self.walk(path)
            elif listed := self.listed(path):
                found[path] = listed
        return found

    def listed(self, path: str) -> Listed | None:
        """A file as a listing shows it; None if it is not there."""
        try:
            found = os.stat(f"{self._root}/{path}")  # noqa: PTH116  # 13,152 of them: pathlib takes three times as long
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for
            return None
        return Listed(found.st_size, str(found.st_mtime_ns))

    def read(self, path: str, begin: int = 0, end: int | None = None) -> Part:
        """Reads a file or a part of it; a negative `begin` counts from its end."""
        with (self._root / path).open("rb") as file:
            found = os.fstat(file.fileno())
            first = max(0, found.st_size + begin) if begin < 0 else begin
            body = os.pread(file.fileno(), (found.st_size if end is None else end) - first, first)
        return Part(body, str(found.st_mtime_ns), found.st_size)

    def is_there(self) -> bool:
        """True if there is anything of the lake."""
        return any(True for _ in self._entries(""))

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """A block whose errors of the system are raised as ours."""
        try:
            yield
        except OSError as error:
            hint = f"check {error.filename}, its rights and space"
            raise AuditLogsError("the lake is not available", detail=str(error), hint=hint) from error

    def _entries(self, folder: str) -> list[tuple[str, bool]]:
        try:
            with os.scandir(f"{self._root}/{folder}") as entries:
                return sorted((entry.name, entry.is_dir()) for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return []


def open_place() -> Place:
    """The lake of the settings; dlt is asked where names of its own may say another one.

    Raises:
        SettingsError: the settings are wrong.
        AuditLogsError: there are no credentials.
    """
    environment = read_environment()
    place = place_of_settings(read_store_settings(environment)) if dlt_is_silent(environment) else None
    if place is not None:
        return place
    from pipelines.lake.reads import place_of_dlt  # noqa: PLC0415  # a second of CPU

    return place_of_dlt()


def place_of_settings(stores: StoreSettings) -> Place | None:
    """The lake that the settings name; None if they leave a part of it to what AWS's clients look for by themselves."""
    root = f"{stores.lake_prefix}/{DATASET}".lstrip("/")
    s3 = stores.s3
    if s3 is None:
        return FolderPlace(stores.data_dir / "lake" / root)
    if not (s3.endpoint and s3.region and s3.access_key):
        return None
    from .bucket_place import BucketPlace  # noqa: PLC0415  # a folder does without

    keys = s3.access_key, s3.secret_key, None
    return BucketPlace(s3.bucket, root, {"endpoint": s3.endpoint, "region": s3.region}, lambda: keys)


def ids_of(names: Iterable[str]) -> list[str]:
    """The accounts of the names of folders."""
    return sorted(name.removeprefix("account=") for name in names if name.startswith("account="))


def hour_in(name: str) -> str | None:
    """The hour of the name in a day's folder, nothing for that of the day's copy; None: it is none of ours."""
    found = _HOUR.fullmatch(name)
    return found[1] if found else "" if name == "events.parquet" else None
