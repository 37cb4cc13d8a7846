"""Compares what API, warehouse and lake hold, hour by hour, and says what is missing where.

Counts and digests first; the ids only of hours in which they differ. An event that any of the three has is missing
wherever it is not; only the API may lack one, for it forgets what is old.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from pipelines.lake.partitions import HOUR, hour_of
from pipelines.lake.reads import LakeReader
from pipelines.load.tally import NOTHING, Tally
from pipelines.warehouse.reads import WarehouseReader
from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.events import EventKey, event_keys
from sources.cloudflare_audit_logs.schema import TIME
from sources.cloudflare_audit_logs.streams import Stream, Window

from .contents import contents_of, copied_from_jsonb
from .sides import ApiSide, LakeSide, Side

STORES = ("warehouse", "lake")
SIDES = ("api", *STORES)

_COUNTS = [f"{side}_events" for side in SIDES] + [f"missing_in_{side}" for side in (*STORES, "api")]
_CHECK_SCHEMA = pa.schema(
    {
        "account_id": pa.string(),
        "api_version": pa.string(),
        "hour": TIME,
        "checked_at": TIME,
        "status": pa.string(),
        **dict.fromkeys([*_COUNTS, "doubled_in_lake", "differing"], pa.int64()),
        "api_digest": pa.string(),
    }
)


@dataclass
class HourCheck:
    """The result of the comparison of an hour, or of the part of it that was asked for."""

    stream: Stream
    window: Window
    checked_at: datetime
    events: dict[str, int]
    """By side that was asked and could be read: `api`, `warehouse`, `lake`; doubles count twice."""
    api_digest: int | None = None
    missing: dict[str, list[EventKey]] = field(default_factory=dict)
    """By side that lacks some. Of the API it is no gap."""
    doubled: list[EventKey] = field(default_factory=list)
    """In the lake."""
    differing: dict[str, list[EventKey]] | None = None
    """By store, the events whose content is not that of the API, or else the lake; None: not compared."""
    broken: AuditLogsError | None = None
    """Why the lake's object cannot be read."""
    stray: int = 0
    """Rows of the lake's object that belong into another one."""
    lost: int = 0
    """So many more there were when the hour was last found complete."""
    inexact: int = 0
    """Events that a repair has copied from the warehouse into the lake: nobody knows the API's text of them."""
    hidden: int = 0
    """Instants at which the API holds more events than it shows: no side has the others."""

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
        return bool(self.problems)

    @property
    def most_events(self) -> int:
        """The number of events on the side that has most of them."""
        return max(self.events.values(), default=0)

    @property
    def about(self) -> dict[str, str]:
        """Its stream and hour, as fields of a log line."""
        return {
            "account": self.stream.account_id,
            "version": self.stream.api_version,
            "hour": self.hour.isoformat(),
        }

    @property
    def problems(self) -> list[str]:
        """The reasons that make it a gap, for people."""
        counts = {f"missing in the {store}": len(self.missing.get(store, ())) for store in STORES}
        counts |= {"doubled in the lake": len(self.doubled), "in the wrong object": self.stray}
        counts |= {"fewer than when it was complete": self.lost}
        counts |= {"instants of which the API does not show all events": self.hidden}
        counts |= {f"differ in the {store}": len(keys) for store, keys in (self.differing or {}).items()}
        broken = [f"broken: {self.broken.message}"] if self.broken else []
        return [f"{count:,} {what}" for what, count in counts.items() if count] + broken

    def as_row(self) -> dict[str, Any]:
        """Returns its row of the table `audit_completeness`."""
        return {
            "account_id": self.stream.account_id,
            "api_version": self.stream.api_version,
            "hour": self.hour,
            "checked_at": self.checked_at,
            "status": "gap" if self.is_gap else "complete",
            **{f"{side}_events": self.events.get(side) for side in SIDES},
            **{f"missing_in_{store}": len(self.missing.get(store, ())) for store in STORES},
            "missing_in_api": len(self.missing.get("api", ())) if "api" in self.events else None,
            "doubled_in_lake": len(self.doubled),
            "differing": None if self.differing is None else len(set().union(*self.differing.values())),
            "api_digest": None if self.api_digest is None else str(self.api_digest),
        }


class Completeness:
    """Compares the sides, and keeps the results. Used by one thread at a time."""

    def __init__(
        self,
        warehouse: WarehouseReader,
        lake: LakeReader,
        *,
        clock: Callable[[], datetime],
        with_contents: bool = False,
        is_all_asked_for: Callable[[Stream], bool] = lambda _: True,
    ) -> None:
        """Takes what says if the settings hide no event: otherwise, what the API shows is no proof for a backfill."""
        self._warehouse, self._lake, self._is_all_asked_for = warehouse, lake, is_all_asked_for
        self._clock, self._with_contents = clock, with_contents

    def check(
        self,
        stream: Stream,
        window: Window,
        api: ApiSide | None,
        set_aside: Mapping[datetime, AuditLogsError] = MappingProxyType({}),
    ) -> list[HourCheck]:
        """Compares each hour of a window of a day or less, and keeps the results of the whole hours.

        `api` is what the API shows of the window; without it, the two stores are compared alone. `set_aside` are the
        hours whose broken object a repair has just set aside: one that no side has an event of stays broken, as what
        its object held is lost. Raises TemporaryError if a store is down.
        """
        checked_at, lake = self._clock(), LakeSide(self._lake)
        sides: dict[str, Side] = {"warehouse": self._warehouse, "lake": lake, **({} if api is None else {"api": api})}
        tallies = {name: side.tallies(stream, window) for name, side in sides.items()}
        known = self._warehouse.known_events(stream, window)
        checks = []
        for part in window.parts(HOUR):
            hour = hour_of(part)
            asked = {name: side for name, side in sides.items() if self._is_expected(name, part.since)}
            found = {name: tallies[name].get(hour, NOTHING) for name in asked}
            check = HourCheck(stream, part, checked_at, {name: tally.events for name, tally in found.items()})
            check.stray = lake.stray.get(hour, 0)
            if api is not None:
                check.hidden = api.hidden[hour]
                check.api_digest = found["api"].digest if self._is_all_asked_for(stream) else None
            if self._with_contents:
                _compare_contents(check, asked)  # an object may be broken where its keys are not
            check.broken = lake.broken.get(hour) or (None if check.most_events else set_aside.get(hour))
            if check.broken is not None or len(set(found.values())) > 1:
                _compare_keys(check, asked)
            if check.is_whole:
                check.lost = max(0, known.get(hour, 0) - check.most_events)
            checks.append(check)
        self._record(checks)
        return checks

    def check_quiet(self, stream: Stream, window: Window, *, asks_api: bool) -> list[HourCheck] | None:
        """The same for many days of which lake and API have nothing; None if the warehouse has, or they once had."""
        checked_at, known = self._clock(), self._warehouse.known_events(stream, window)
        if any(known.values()) or self._warehouse.tallies(stream, window):
            return None
        digest = NOTHING.digest if asks_api and self._is_all_asked_for(stream) else None
        names = SIDES if asks_api else STORES
        differing: dict[str, list[EventKey]] | None = {} if self._with_contents else None
        checks = [
            HourCheck(
                stream,
                part,
                checked_at,
                {name: 0 for name in names if self._is_expected(name, part.since)},
                digest,
                differing=differing,
            )
            for part in window.parts(HOUR)
        ]
        self._record(checks)
        return checks

    def _record(self, checks: Sequence[HourCheck]) -> None:
        """Keeps the results of the whole hours."""
        if rows := [check.as_row() for check in checks if check.is_whole]:
            self._warehouse.record(pa.Table.from_pylist(rows, schema=_CHECK_SCHEMA))

    def is_proven(self, stream: Stream, window: Window, lateness: timedelta) -> bool:
        """True if all of a window was found complete, `lateness` after it or later, and both stores still hold that."""
        latest = self._warehouse.latest_checks(stream, window)
        if not self._is_all_asked_for(stream) or any(
            part.before - part.since < HOUR
            or (row := latest.get(part.since)) is None
            or row["status"] != "complete"
            or row["api_digest"] is None
            or row["checked_at"] < part.before + lateness
            for part in window.parts(HOUR)
        ):
            return False
        proven = {hour: Tally(row["api_events"], int(row["api_digest"])) for hour, row in latest.items()}
        proven = {hour: tally for hour, tally in proven.items() if tally != NOTHING}
        lake = LakeSide(self._lake)
        is_in_lake = lake.tallies(stream, window) == proven and not lake.broken and not lake.stray
        return is_in_lake and self._kept(self._warehouse.tallies(stream, window)) == self._kept(proven)

    def _kept(self, tallies: Mapping[datetime, Tally]) -> dict[datetime, Tally]:
        return {hour: tally for hour, tally in tallies.items() if self._is_expected("warehouse", hour)}

    def _is_expected(self, side: str, since: datetime) -> bool:
        """The retention deletes in the warehouse."""
        oldest = self._warehouse.oldest_kept
        return side != "warehouse" or oldest is None or since >= oldest


def _compare_keys(check: HourCheck, sides: Mapping[str, Side]) -> None:
    held = {name: Counter(event_keys(side.keys(check.stream, check.window))) for name, side in sides.items()}
    everything = set().union(*held.values())
    if check.broken is not None:
        del check.events["lake"]
    check.missing = {name: missing for name, keys in held.items() if (missing := sorted(everything - keys.keys()))}
    check.doubled = sorted(key for key, count in held["lake"].items() if count > 1)


def _compare_contents(check: HourCheck, sides: Mapping[str, Side]) -> None:
    """Compares with the API's content where it shows the event, with the lake's otherwise.

    Content counts by its meaning; only a text that a repair has copied from a warehouse differs from the API's own.
    """
    events = {name: side.events(check.stream, check.window) for name, side in sides.items()}
    contents: dict[str, dict[EventKey, set[str]]] = {name: {} for name in (*STORES, "api")}
    for name, its_events in events.items():
        for key, content in contents_of(its_events):
            contents[name].setdefault(key, set()).add(content)  # more than one if a double differs
    right = contents["lake"] | contents["api"]
    differing = {
        store: sorted(key for key, found in contents[store].items() if found != right.get(key, found))
        for store in STORES
    }
    if "api" in events:
        differing["lake"] = sorted({*differing["lake"], *copied_from_jsonb(events["lake"], events["api"])})
    check.differing = {store: keys for store, keys in differing.items() if keys}
