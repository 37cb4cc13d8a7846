"""The keys that a destination is known to hold, so that only what it lacks is loaded. Pure, in memory, an optimisation.

Rebuilt from the destination; losing it costs a load that writes nothing, never an event.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from sources.cloudflare_audit_logs.events import EventKey, event_keys

ReadKeys = Callable[[datetime, datetime], set[EventKey]]
"""Asks a destination for the keys that it holds in `[since, before)`."""

HeldDigests = Callable[[list[str]], Collection[str]]
"""Asks a destination which of some digests it holds."""

MOST_DIGESTS = 20_000
"""Remembered at a time, twice at most: 3 MB each. Of more in one reading, the first are forgotten: if they show again,
they are loaded again, and the store finds that it has them."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)


def is_ascending(times: pa.ChunkedArray) -> bool:
    """True if each is later than the one before it."""
    values = times.combine_chunks()
    return len(values) <= 1 or bool(pc.all(pc.less(values[:-1], values[1:])).as_py())


def microseconds(time: datetime) -> int:
    """The time as in an `EventKey`."""
    return (time - _EPOCH) // timedelta(microseconds=1)


@dataclass
class HeldKeys:
    """The keys that one destination holds of one stream, in the hours that were asked for."""

    digests: set[str] = field(default_factory=set)
    """The digests of quarantined events that this reading has shown."""
    earlier_digests: set[str] = field(default_factory=set)
    """The same of the reading before it; in a long one, of what came before."""
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

    def are_new(self, digests: Sequence[str], since: datetime, held: HeldDigests) -> list[bool]:
        """Which of the quarantined events of a window from `since` on the destination lacks; they count as held then.

        It is asked for no more than is not remembered; and not at all once all of that window was read, because what
        shows for the first time then was never received before.
        """
        unknown = dict.fromkeys(digest for digest in digests if not self._remembers(digest))
        if unknown and (self.complete_since is None or since < self.complete_since):
            for digest in held(list(unknown)):
                unknown.pop(digest, None)
        self.digests.update(digests)
        if len(self.digests) > MOST_DIGESTS:
            self.earlier_digests, self.digests = self.digests, set()
        return [unknown.pop(digest, 0) is None for digest in digests]

    def _remembers(self, digest: str) -> bool:
        return digest in self.digests or digest in self.earlier_digests

    def complete(self, since: datetime) -> None:
        """Says that a window that starts at `since` was read to its end."""
        self.complete_since = max(since, self.floor)
        if len(self.earlier_digests) <= MOST_DIGESTS:  # otherwise they are of this reading
            self.earlier_digests, self.digests = self.digests, set()

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
