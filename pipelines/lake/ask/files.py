"""The lake's objects of one question, as a file system that DuckDB reads. Never writes.

A question takes the copies of whole days, and the objects of the hours elsewhere. Each object is read in one version,
however often it is opened.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from io import SEEK_CUR, SEEK_END, BytesIO, RawIOBase
from itertools import accumulate
from threading import Lock
from typing import Any, NamedTuple

from fsspec import AbstractFileSystem

from pipelines.lake.objects import ConflictError, Listed
from sources.cloudflare_audit_logs.errors import AuditLogsError

from .places import WILD, Days, FolderPlace, Part, Place

SCHEME = "lake"
AT_ONCE = 32
"""Objects of a bucket that are read at once: DuckDB reads one a thread."""
_WHOLE_BYTES = 2 * 2**20
"""A smaller object is read in one request: it takes as long as two of a few bytes."""
_END_BYTES = 65_536
_HELD_BYTES = 64 * 2**20
"""The bytes that are held of the objects read last: DuckDB opens each twice."""
_AHEAD_BYTES = 16 * 2**20
_LISTINGS = 8
_EVENTS, _COPIES = "audit_logs", "audit_logs_days"
# With a star at the end: a path without one, DuckDB opens unasked.
_PATTERN = re.compile(rf"({_EVENTS}|{_COPIES})/account=([^/]*)/date=([^/]*)(?:/hour=\*/events|/\*)\.parquet")
_UNCHANGING = datetime(2000, 1, 1, tzinfo=UTC)
_NOTHING = Part(b"", "", 0)


class Plan(NamedTuple):
    """The objects of a question, as DuckDB takes them: each event is in one of them."""

    hours: Mapping[str, int]
    """By what DuckDB opens, the size."""
    copies: Mapping[str, int]
    """The same of the copies: of the days that have a whole one."""


class LakeFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The lake's objects for one question. Each is read in one version, however often it is opened.

    Args:
        moving: paths that changed under an earlier attempt; they are held.
        trusts: a bucket's copy is verified when it is opened, and before the question if not.
        unfit: copies that are not used.
    """

    protocol = SCHEME
    cachable = False

    def __init__(
        self, place: Place, moving: Iterable[str] = (), *, trusts: bool = True, unfit: Iterable[str] = ()
    ) -> None:
        super().__init__()
        self.place, self.moving, self._trusts, self._unfit = place, set(moving), trusts, set(unfit)
        self.failure: Exception | None = None
        """The store's, which DuckDB hands on as text."""
        self.opened = 0
        self._changed = set[str]()
        self._listed = dict[str, Listed]()
        self._plans = dict[Days, Plan]()
        self._expected = dict[str, Mapping[str, Listed]]()
        self._versions = dict[str, str]()
        self._held = OrderedDict[str, Part]()
        self._pinned = dict[str, Part]()
        self._lock = Lock()

    # --- lists -------------------------------------------------------------------------------------------------------

    def plan(self, days: Days) -> Plan:
        """Finds the objects of days; the same ones each time."""
        if days not in self._plans:
            with self.place.translated_errors():
                self._plans[days] = self._find(days)
        return self._plans[days]

    def _find(self, days: Days) -> Plan:
        hours = dict[tuple[str, str], dict[str, Listed]]()
        paths = dict[tuple[str, str], dict[str, Listed]]()
        copies = {found.path: found for found in self.place.find(_COPIES, days) if not found.hour}
        for found in self.place.find(_EVENTS, days):
            if found.hour:
                hours.setdefault(found[:2], {})[found.hour] = found.listed
                paths.setdefault(found[:2], {})[found.path] = found.listed
        self._verify_lake(is_empty=not paths)
        whole = self._whole({path: hours.get(found[:2], {}) for path, found in copies.items()}, copies)
        for path in whole:
            del paths[copies[path][:2]]
        objects = {path: listed for day in paths.values() for path, listed in day.items()}
        used = {path: copies[path].listed for path in whole}
        self._listed |= objects | used
        hours_of, copies_of = ({self.url(path): its.size for path, its in found.items()} for found in (objects, used))
        return Plan(hours_of, copies_of)

    def _whole(self, expected: Mapping[str, Mapping[str, Listed]], copies: Mapping[str, Any]) -> list[str]:
        """The copies that are of the hours' objects as they were listed."""
        expected = {
            path: hours
            for path, hours in expected.items()
            if hours and path not in self._unfit and all(listed.version for listed in hours.values())
        }
        self._expected |= expected
        if self._trusts and not self.place.is_local:
            return list(expected)
        with ThreadPoolExecutor(1 if self.place.is_local else AT_ONCE) as pool:
            ends = pool.map(lambda path: self._end(path, copies[path].listed.size), expected)
            return [path for path, end in zip(expected, ends, strict=True) if self._is_whole(path, end)]

    def _is_whole(self, path: str, part: Part) -> bool:
        """True if the copy is of the hours as they were listed, and as it was written, as far as the part shows."""
        from pipelines.lake.day_copies import is_intact, read_footer  # noqa: PLC0415  # pyarrow's compute, which not all need

        copy = read_footer(BytesIO(part.body))
        if copy is None or (copy.path, copy.hours) != (path, self._expected[path]):
            return False
        if not self.place.is_local:
            return len(part.body) < part.size or is_intact(copy, BytesIO(part.body))
        return copy.written == part.version or is_intact(copy, BytesIO(self._end(path, part.size, part.size).body))

    def _verify_lake(self, *, is_empty: bool) -> None:
        if is_empty and not self.place.is_there():
            hint = "check S3_BUCKET, S3_PREFIX or DATA_DIR"
            raise AuditLogsError(f"there is no lake at {self.place.url('').rstrip('/')}", hint=hint)

    def _end(self, path: str, size: int, length: int | None = None) -> Part:
        if length is None:
            length = size if size <= _WHOLE_BYTES and not self.place.is_local else _END_BYTES
        try:
            return self.place.read(path, max(0, size - length), size) if size else _NOTHING
        except FileNotFoundError:
            return _NOTHING

    def glob(self, path: str, **_: Any) -> list[str]:
        """Answers DuckDB's question for the objects of a pattern."""
        pattern = path.removeprefix(f"{SCHEME}://")
        try:
            if found := _PATTERN.fullmatch(pattern):
                plan = self.plan(Days.matching(found[2], found[3]))
                return list(plan.hours if found[1] == _EVENTS else plan.copies)
            with self.place.translated_errors():
                listed = self.place.walk(WILD.split(pattern)[0].rpartition("/")[0])
                self._verify_lake(is_empty=not listed)
        except Exception as error:
            self.failure = error
            raise
        matching = {path: found for path, found in listed.items() if _regex_of(pattern).fullmatch(path)}
        self._listed |= matching
        return list(map(self.url, sorted(matching)))

    def unstrip_protocol(self, name: str) -> str:
        """Returns the name as `glob` gave it: DuckDB reads a file of a folder by itself."""
        return name

    def url(self, path: str) -> str:
        """An object as DuckDB opens it."""
        if self.place.is_local and path not in self.moving:
            return self.place.url(path)
        return f"{SCHEME}://{path}"

    # --- reads -------------------------------------------------------------------------------------------------------

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:  # noqa: ARG002  # fsspec's signature
        """Opens an object: a small one is read whole."""
        path = path.removeprefix(f"{SCHEME}://")
        try:
            with self.place.translated_errors():
                part = self._part(path)
        except Exception as error:
            self.failure = error
            raise
        return BytesIO(part.body) if len(part.body) == part.size else _PartedFile(self, path, part)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """The size of an object that is open."""
        return {"name": path, "size": self._part(path.removeprefix(f"{SCHEME}://")).size, "type": "file"}

    def modified(self, path: str) -> datetime:  # noqa: ARG002  # fsspec's signature
        """The same always: for one question, an object does not change."""
        return _UNCHANGING

    def read_ahead(self, urls: Mapping[str, int]) -> None:
        """Reads the first objects of a bucket side by side, as many as are held, for a question that reads them all."""
        if self.place.is_local:
            return
        with self.place.translated_errors(), ThreadPoolExecutor(_LISTINGS) as pool:
            sizes = accumulate(urls.values())
            first = [url for url, size in zip(urls, sizes, strict=True) if size <= _AHEAD_BYTES]
            for _ in pool.map(lambda url: self._part(url.removeprefix(f"{SCHEME}://")), first):
                pass

    def _part(self, path: str) -> Part:
        """The whole of a small object, the end of a large one; held for a while, because DuckDB opens it twice."""
        with self._lock:
            part = self._pinned.get(path) or self._held.get(path)
        if part is not None:
            return part
        listed, is_moving = self._listed.get(path), path in self.moving
        is_small = is_moving or listed is None or listed.size <= _WHOLE_BYTES
        part = self.read(path) if is_small else self.read(path, -_END_BYTES)
        if path in self._expected and not self._is_whole(path, part):
            self._unfit.add(path)
            self._trusts = False
            self._conflict(path)
        with self._lock:
            self.opened += 1
            (self._pinned if is_moving else self._held)[path] = part
            while len(self._held) > 1 and sum(len(held.body) for held in self._held.values()) > _HELD_BYTES:
                self._held.popitem(last=False)
        return part

    def read(self, path: str, begin: int = 0, end: int | None = None) -> Part:
        """Reads an object or a part of it, of the version that was read first.

        Raises:
            ConflictError: it is another one now, or gone.
        """
        try:
            part = self.place.read(path, begin, end)
        except FileNotFoundError:
            self._conflict(path)
        version = part.version or (str(part.size) if begin or end else sha256(part.body).hexdigest())
        if self._versions.setdefault(path, version) != version:
            self._conflict(path)
        return part

    def _conflict(self, path: str) -> Any:
        self._changed.add(path)
        raise ConflictError(path)

    # --- afterwards --------------------------------------------------------------------------------------------------

    def again(self) -> "LakeFiles | None":
        """The files for another attempt; None if no object has changed under this one."""
        if isinstance(self.place, FolderPlace):
            paths = self._listed.keys() - self.moving
            self._changed |= {path for path in paths if self.place.listed(path) != self._listed[path]}
        if not self._changed:
            return None
        return LakeFiles(self.place, self.moving | self._changed, trusts=self._trusts, unfit=self._unfit)


class _PartedFile(RawIOBase):
    """A large object that is read in parts: its end is there at once, as Parquet needs it."""

    def __init__(self, files: LakeFiles, path: str, end: Part) -> None:
        super().__init__()
        self._files, self._path, self._end, self._at = files, path, end, 0

    def read(self, size: int = -1) -> bytes:
        """Reads from where it is."""
        last = self._end.size if size < 0 else min(self._at + size, self._end.size)
        first, self._at = self._at, max(self._at, last)
        end_begins = self._end.size - len(self._end.body)
        if first >= end_begins:
            return self._end.body[first - end_begins : last - end_begins]
        try:
            with self._files.place.translated_errors():
                return self._files.read(self._path, first, last).body
        except Exception as error:
            self._files.failure = error
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        """Goes to a place."""
        self._at = offset + {SEEK_CUR: self._at, SEEK_END: self._end.size}.get(whence, 0)
        return self._at

    def tell(self) -> int:
        """The place."""
        return self._at

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True


@cache
def _regex_of(pattern: str) -> re.Pattern[str]:
    """The expression for a pattern of DuckDB's: `**/` are any folders."""
    parts = re.split(r"(\*\*/|\*|\?|\[[^]]*\])", pattern)
    wild = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(wild.get(part) or (part if part[:1] == "[" else re.escape(part)) for part in parts))
