"""Compares what API, warehouse and lake hold, hour by hour, and says what is missing where.

Counts and digests first; the ids only of hours in which they differ. An event that either of the three has is missing
wherever it is not; only the API may lack one, for it forgets what is old.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Protocol

import pyarrow as pa

from pipelines.fetch.reading import FetchPages, fetch_exactly, within
from pipelines.lake.partitions import HOUR, hour_of
from pipelines.lake.reads import LakeReader
from pipelines.load.held_keys import EventKey, event_keys
from pipelines.load.tally import NOTHING, Tally
from pipelines.warehouse.reads import WarehouseReader
from sources.cloudflare_audit_logs.errors import AuditLogsError, BrokenObjectError, HiddenEventsError
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, TIME
from sources.cloudflare_audit_logs.streams import Stream, Window

from .contents import contents_of, tallies_of

STORES = ("warehouse", "lake")
KEYS = ["event_id", "timestamp"]

_LAKE_READERS = 8
"""Objects of an hour that are read at once: in a bucket, each waits for two answers."""

_CHECK_SCHEMA = pa.schema(
    [
        pa.field("account_id", pa.string()),
        pa.field("api_version", pa.string()),
        pa.field("hour", TIME),
        pa.field("checked_at", TIME),
        pa.field("status", pa.string()),
        pa.field("api_events", pa.int64()),
        pa.field("warehouse_events", pa.int64()),
        pa.field("lake_events", pa.int64()),
        pa.field("missing_in_warehouse", pa.int64()),
        pa.field("missing_in_lake", pa.int64()),
        pa.field("doubled_in_lake", pa.int64()),
        pa.field("differing", pa.int64()),
        pa.field("missing_in_api", pa.int64()),
        pa.field("api_digest", pa.string()),
    ]
)


@dataclass
class HourCheck:
    """What became of the comparison of an hour, or of the part of it that was asked for."""

    stream: Stream
    window: Window
    checked_at: datetime
    events: dict[str, int]
    """By side that was asked and could be read: `api`, `warehouse`, `lake`; doubles count twice."""
    api_digest: int | None = None
    missing: dict[str, list[EventKey]] = field(default_factory=dict)
    """By side. Of the API it is no gap."""
    doubled: list[EventKey] = field(default_factory=list)
    """In the lake."""
    differing: dict[str, list[EventKey]] | None = None
    """By store, whose content is not that of the API, or else the lake; None: not compared."""
    broken: AuditLogsError | None = None
    """Why the lake's object cannot be read."""
    stray: int = 0
    """Rows of the lake's object that belong into another one."""
    lost: int = 0
    """So many more there were when the hour was last found complete."""
    hidden: int = 0
    """Instants at which the API holds more events than it shows: nobody has the others."""

    @property
    def hour(self) -> datetime:
        """Its begin."""
        return hour_of(self.window)

    @property
    def is_whole(self) -> bool:
        """True if all of the hour was compared."""
        return self.window == Window(self.hour, self.hour + HOUR)

    @property
    def is_gap(self) -> bool:
        """True if a store does not hold each event once, as it should."""
        found = [*(self.missing.get(store) for store in STORES), self.doubled, *(self.differing or {}).values()]
        return self.broken is not None or self.stray > 0 or self.lost > 0 or self.hidden > 0 or any(found)

    @property
    def problems(self) -> list[str]:
        """What makes it a gap, for people."""
        counts = {f"missing in the {store}": len(self.missing.get(store, [])) for store in STORES}
        counts |= {"doubled in the lake": len(self.doubled)}
        counts |= {"in the wrong object": self.stray, "fewer than when it was complete": self.lost}
        counts |= {"instants of which the API does not show all events": self.hidden}
        counts |= {f"differ in the {store}": len(keys) for store, keys in (self.differing or {}).items()}
        broken = [f"broken: {self.broken.message}"] if self.broken else []
        return [f"{count:,} {what}" for what, count in counts.items() if count] + broken

    def as_row(self) -> dict[str, Any]:
        """As the table `audit_completeness` has it."""
        return {
            "account_id": self.stream.account_id,
            "api_version": self.stream.api_version,
            "hour": self.hour,
            "checked_at": self.checked_at,
            "status": "gap" if self.is_gap else "complete",
            **{f"{side}_events": self.events.get(side) for side in ("api", *STORES)},
            **{f"missing_in_{store}": len(self.missing.get(store, [])) for store in STORES},
            "missing_in_api": len(self.missing.get("api", [])) if "api" in self.events else None,
            "doubled_in_lake": len(self.doubled),
            "differing": None if self.differing is None else len(set().union(*self.differing.values())),
            "api_digest": None if self.api_digest is None else str(self.api_digest),
        }


class Side(Protocol):
    """Whoever holds events."""

    def tallies(self, stream: Stream, window: Window) -> Mapping[datetime, Tally]:
        """Of each hour in which there is an event."""

    def keys(self, stream: Stream, window: Window) -> pa.Table:
        """`event_id` and `timestamp` in a window of at most an hour, as often as they are there."""

    def events(self, stream: Stream, window: Window) -> pa.Table:
        """The same whole."""


class ApiSide:
    """What the API shows of a stream in a window that was read whole."""

    def __init__(self, events: Iterable[pa.Table], hidden: Sequence[datetime] = ()) -> None:
        """Of the events on its pages, or of their keys alone; at the `hidden` instants, the API does not show all."""
        self.hidden = Counter(map(_hour, hidden))
        rows = pa.concat_tables(events)
        # Pages that drift show an event twice; that is the API's way of paging, not a double.
        numbers = pa.array(range(rows.num_rows), pa.int64())
        first = rows.select(KEYS).append_column("row", numbers).group_by(KEYS).aggregate([("row", "min")])
        self._events = rows.take(first["row_min"])

    @classmethod
    def read(cls, fetch_pages: FetchPages, stream: Stream, window: Window, *, with_contents: bool) -> "ApiSide":
        """Asks the API; raises AccountError if the window could not be read to its end."""
        columns = EVENT_SCHEMA.names if with_contents else KEYS
        tables, hidden = [EVENT_SCHEMA.empty_table().select(columns)], list[datetime]()
        try:
            pages = fetch_exactly(fetch_pages)(stream, window, "asc")
            tables.extend(page.events.select(columns) for page in pages)
        except HiddenEventsError as error:
            hidden = error.instants
        return cls(tables, hidden)

    def tallies(self, stream: Stream, window: Window) -> dict[datetime, Tally]:  # noqa: ARG002  # a side's signature
        """Of the window that was read."""
        return tallies_of(self._events)

    def keys(self, stream: Stream, window: Window) -> pa.Table:  # noqa: ARG002  # a side's signature
        """Of a part of it."""
        return within(self._events, window).select(KEYS)

    def events(self, stream: Stream, window: Window) -> pa.Table:  # noqa: ARG002  # a side's signature
        """Of a part of it."""
        return within(self._events, window)


class LakeSide:
    """The lake, whose objects may be broken one by one."""

    def __init__(self, reader: LakeReader) -> None:
        self._reader = reader
        self.broken: dict[datetime, AuditLogsError] = {}
        self.stray: dict[datetime, int] = {}

    def tallies(self, stream: Stream, window: Window) -> dict[datetime, Tally]:
        """Of the hours whose object can be read."""
        with ThreadPoolExecutor(_LAKE_READERS) as pool:
            keys = list(pool.map(lambda part: self._keys_or_nothing(stream, part), window.parts(HOUR)))
        return tallies_of(pa.concat_tables(keys))

    def keys(self, stream: Stream, window: Window) -> pa.Table:
        """Doubles included."""
        return self._keys_or_nothing(stream, window)

    def events(self, stream: Stream, window: Window) -> pa.Table:
        """Doubles included."""
        with self._noting_what_is_broken(window):
            return self._reader.events(stream, window)
        return EVENT_SCHEMA.empty_table()

    def _keys_or_nothing(self, stream: Stream, window: Window) -> pa.Table:
        with self._noting_what_is_broken(window):
            keys, stray = self._reader.keys(stream, window)
            if stray:
                self.stray[hour_of(window)] = stray
            return keys
        return EVENT_SCHEMA.empty_table().select(KEYS)

    @contextmanager
    def _noting_what_is_broken(self, window: Window) -> Iterator[None]:
        try:
            yield
        except BrokenObjectError as error:
            self.broken[hour_of(window)] = error


class Completeness:
    """Compares the sides. Used by one thread at a time."""

    def __init__(
        self,
        warehouse: WarehouseReader,
        lake: LakeReader,
        *,
        clock: Callable[[], datetime],
        with_contents: bool = False,
        is_all_asked_for: Callable[[Stream], bool] = lambda _: True,
    ) -> None:
        """With settings that hide some events, what the API shows is no proof for a backfill without them."""
        self._warehouse, self._lake, self._is_all_asked_for = warehouse, lake, is_all_asked_for
        self._clock, self._with_contents = clock, with_contents

    def check(
        self,
        stream: Stream,
        window: Window,
        api: ApiSide | None,
        set_aside: Mapping[datetime, AuditLogsError] = MappingProxyType({}),
    ) -> list[HourCheck]:
        """Compares each hour of a window, and keeps the results of those that are in it whole.

        Args:
            stream: whose events.
            window: a day or less of it.
            api: what the API shows of it; None: the two copies are compared alone.
            set_aside: the hours whose broken object a repair has just set aside. One that nobody has an event of stays
                broken: what the object held is lost.

        Raises:
            TemporaryError: a store is down.
        """
        checked_at = self._clock()
        lake = LakeSide(self._lake)
        sides: dict[str, Side] = {"warehouse": self._warehouse, "lake": lake}
        if api is not None:
            sides["api"] = api
        tallies = {name: side.tallies(stream, window) for name, side in sides.items()}
        known = self._warehouse.known_events(stream, window)
        checks = []
        for part in window.parts(HOUR):
            hour = hour_of(part)
            asked = {name: side for name, side in sides.items() if self._is_expected(name, part)}
            found = {name: tallies[name].get(hour, NOTHING) for name in asked}
            check = HourCheck(stream, part, checked_at, {name: tally.events for name, tally in found.items()})
            check.stray = lake.stray.get(hour, 0)
            check.hidden = api.hidden[hour] if api is not None else 0
            check.api_digest = found["api"].digest if "api" in found and self._is_all_asked_for(stream) else None
            if self._with_contents:
                _compare_contents(check, asked)
            is_empty = not any(check.events.values())
            check.broken = lake.broken.get(hour) or (set_aside.get(hour) if is_empty else None)
            if check.broken is not None:
                del check.events["lake"]
            if check.broken is not None or len(set(found.values())) > 1:
                _compare_keys(check, asked)
            if check.is_whole and hour in known:
                check.lost = max(0, known[hour] - max(check.events.values(), default=0))
            checks.append(check)
        self._record(checks)
        return checks

    def is_proven(self, stream: Stream, window: Window, lateness: timedelta) -> bool:
        """True if all of a window was found complete, `lateness` after it or later, and both stores still hold that."""
        hours = list(window.parts(HOUR))
        latest = self._warehouse.latest_checks(stream, window)
        if not self._is_all_asked_for(stream) or any(
            part.before - part.since < HOUR
            or (row := latest.get(part.since)) is None
            or row["status"] != "complete"
            or row["api_digest"] is None
            or row["checked_at"] < part.before + lateness
            for part in hours
        ):
            return False
        proven = {hour: Tally(row["api_events"], int(row["api_digest"])) for hour, row in latest.items()}
        proven = {hour: tally for hour, tally in proven.items() if tally != NOTHING}
        lake = LakeSide(self._lake)
        is_in_lake = lake.tallies(stream, window) == proven and not lake.broken and not lake.stray
        return is_in_lake and self._kept(self._warehouse.tallies(stream, window)) == self._kept(proven)

    def _kept(self, tallies: Mapping[datetime, Tally]) -> dict[datetime, Tally]:
        return {hour: t for hour, t in tallies.items() if self._is_expected("warehouse", Window(hour, hour + HOUR))}

    def _is_expected(self, side: str, window: Window) -> bool:
        """The retention deletes in the warehouse."""
        oldest = self._warehouse.oldest_kept
        return side != "warehouse" or oldest is None or window.since >= oldest

    def _record(self, checks: Sequence[HourCheck]) -> None:
        rows = [check.as_row() for check in checks if check.is_whole]
        if rows:
            self._warehouse.record(pa.Table.from_pylist(rows, schema=_CHECK_SCHEMA))


def _hour(time: datetime) -> datetime:
    return time.replace(minute=0, second=0, microsecond=0)


def _compare_keys(check: HourCheck, sides: Mapping[str, Side]) -> None:
    held = {name: Counter(event_keys(side.keys(check.stream, check.window))) for name, side in sides.items()}
    everything = set().union(*held.values())
    for name, keys in held.items():
        missing = sorted(everything - keys.keys())
        if missing:
            check.missing[name] = missing
    check.doubled = sorted(key for key, count in held["lake"].items() if count > 1)


def _compare_contents(check: HourCheck, sides: Mapping[str, Side]) -> None:
    """Against the API's where it shows the event, the lake's otherwise."""
    contents = {name: _contents(side, check) for name, side in sides.items()}
    authority = {**contents.get("lake", {}), **contents.get("api", {})}
    check.differing = {}
    for store in STORES:
        differing = sorted(key for key, found in contents.get(store, {}).items() if found != authority.get(key, found))
        if differing:
            check.differing[store] = differing


def _contents(side: Side, check: HourCheck) -> dict[EventKey, set[str]]:
    """By key, what is said of it: more than one thing if a double differs."""
    contents: dict[EventKey, set[str]] = {}
    for key, content in contents_of(side.events(check.stream, check.window)):
        contents.setdefault(key, set()).add(content)
    return contents
