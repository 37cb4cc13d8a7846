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


def microseconds(time: datetime) -> int:
    """The time as in an `EventKey`."""
    return (time - _EPOCH) // timedelta(microseconds=1)


@dataclass
class Known:
    """The keys that one destination holds of one stream, in the hours that were asked for."""

    digests: set[str] = field(default_factory=set)
    """Of all its quarantined events."""
    keys: set[EventKey] = field(default_factory=set)
    hours: set[datetime] = field(default_factory=set)
    is_complete: bool = False
    """Once a window has been read to its end, only we add to the destination: nothing more need be asked."""

    def lacking(self, events: pa.Table, read_keys: ReadKeys) -> pa.Table:
        """The events that the destination does not hold, each once."""
        if not self.is_complete:
            self._cover(events, read_keys)
        fresh: dict[EventKey, int] = {}
        for index, key in enumerate(event_keys(events)):
            if key not in self.keys:
                fresh.setdefault(key, index)
        return events if len(fresh) == events.num_rows else events.take(pa.array(fresh.values(), pa.int64()))

    def forget_before(self, time: datetime) -> None:
        """Drops what no window asks for any more."""
        floor = microseconds(time)
        self.keys = {key for key in self.keys if key[1] >= floor}
        self.hours = {hour for hour in self.hours if hour + _HOUR > time}

    def _cover(self, events: pa.Table, read_keys: ReadKeys) -> None:
        hours = pc.unique(pc.floor_temporal(events["timestamp"], unit="hour")).to_pylist()
        for hour in {hour.astimezone(UTC) for hour in hours} - self.hours:
            self.keys |= read_keys(hour, hour + _HOUR)
            self.hours.add(hour)
