"""What a destination is known to hold, so that only what it lacks is loaded. Pure, in memory, an optimisation.

Rebuilt from the destination; losing it costs a load that writes nothing, never an event.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

EventKey = tuple[str, int]
"""Event id and time (microseconds since the epoch): the event's key within its stream."""

ReadKeys = Callable[[datetime, datetime], set[EventKey]]
"""Asks a destination for the keys that it holds in `[since, before)`."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)


def event_keys(events: pa.Table) -> list[EventKey]:
    """The keys of the events in a table, row by row."""
    times = events["timestamp"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    return list(zip(events["event_id"].to_pylist(), times.to_pylist(), strict=True))


def is_ascending(times: pa.ChunkedArray) -> bool:
    """Whether each is later than the one before it."""
    values = times.combine_chunks()
    return len(values) <= 1 or bool(pc.all(pc.less(values[:-1], values[1:])).as_py())


def microseconds(time: datetime) -> int:
    """The time as in an `EventKey`."""
    return (time - _EPOCH) // timedelta(microseconds=1)


@dataclass
class Known:
    """The keys that one destination holds of one stream, in the hours that were asked for."""

    digests: set[str] | None = None
    """Of all its quarantined events; None until they were asked for."""
    keys: set[EventKey] = field(default_factory=set)
    newest: int = 0
    """No key is of a later time (microseconds since the epoch)."""
    pages: list[pa.Table] = field(default_factory=list)
    """Events that are held, too, each later than all before: not looked at one by one before someone asks for them."""
    hours: set[datetime] = field(default_factory=set)
    floor: datetime = _EPOCH
    """Nothing before it is remembered."""
    complete_since: datetime | None = None
    """From here on nothing more need be asked: the window was read to its end, and only we add to the destination."""

    def lacking(self, events: pa.Table, read_keys: ReadKeys) -> pa.Table:
        """The events that the destination does not hold, each once; they count as held from then on."""
        if not events.num_rows:
            return events
        for hour in self._unknown_hours(events):
            held = read_keys(hour, hour + _HOUR)
            self.keys |= held
            self.hours.add(hour)
            self.newest = max(self.newest, max((time for _, time in held), default=0))
        times = events["timestamp"]
        is_later = microseconds(times[0].as_py()) > self.newest and is_ascending(times)
        self.newest = max(self.newest, microseconds(pc.max(times).as_py()))
        if is_later:
            self.pages.append(events.select(["event_id", "timestamp"]))
            return events
        self.keys.update(key for page in self.pages for key in event_keys(page))
        self.pages.clear()
        fresh: dict[EventKey, int] = {}
        for index, key in enumerate(event_keys(events)):
            if key not in self.keys:
                fresh.setdefault(key, index)
        self.keys.update(fresh)
        return events if len(fresh) == events.num_rows else events.take(pa.array(fresh.values(), pa.int64()))

    def complete(self, since: datetime) -> None:
        """Says that a window that starts at `since` was read to its end."""
        self.complete_since = max(since, self.floor)

    def forget_before(self, time: datetime) -> None:
        """Drops the hours that no window asks for any more."""
        self.floor = time.replace(minute=0, second=0, microsecond=0)
        lowest = microseconds(self.floor)
        self.keys = {key for key in self.keys if key[1] >= lowest}
        self.pages = [page for page in self.pages if page["timestamp"][-1].as_py() >= self.floor]
        self.hours = {hour for hour in self.hours if hour >= self.floor}
        if self.complete_since is not None:
            self.complete_since = max(self.complete_since, self.floor)

    def _unknown_hours(self, events: pa.Table) -> set[datetime]:
        times = events["timestamp"]
        if self.complete_since is not None:
            times = times.filter(pc.less(times, self.complete_since))
        hours = pc.unique(pc.floor_temporal(times, unit="hour")).to_pylist()
        return {hour.astimezone(UTC) for hour in hours} - self.hours
