"""One query of a window, and what its pages say: how many events, how far, in order or not. Pure."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from .errors import AccountError
from .events import Page
from .streams import Window

EventKey = tuple[str, int]
"""Event id and microseconds: what tells the events of a stream apart."""

EDGE = timedelta(seconds=1)
"""Events are told apart by id this far back: a server may round times, or not include `since` itself."""

TICK = timedelta(microseconds=1)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

COMMON_CAP = 100
"""Of a page. A number of results that is a multiple of it may be a limit of the server's."""


@dataclass
class Stretch:
    """One query, and what came of it."""

    asked: Window
    per_page: int
    shown: int = 0
    pages: int = 0
    last: int = 0
    largest: int = 0
    fresh: int = 0
    """Events that the reading did not see before."""
    newest: datetime | None = None
    oldest: datetime | None = None
    tables: list[pa.Table] = field(default_factory=list)
    """The keys of its events."""
    is_cut: bool = False
    """We stopped, at its depth."""
    error: AccountError | None = None

    def add(self, page: Page) -> None:
        """Takes note of a page as it came."""
        self.last = page.events.num_rows + page.quarantined.num_rows
        self.largest, self.shown, self.pages = max(self.largest, self.last), self.shown + self.last, self.pages + 1
        self.tables.append(page.events.select(["event_id", "timestamp"]))

    @property
    def length(self) -> timedelta:
        """That of its window."""
        return self.asked.before - self.asked.since

    @property
    def ends_on_full_page(self) -> bool:
        """True if its end may be a limit of the server's: the last page was full, or all are a round number."""
        is_like_others = self.pages > 1 and self.last >= self.largest
        is_full = self.last >= self.per_page or is_like_others
        return self.shown > 0 and (is_full or self.shown % COMMON_CAP == 0)


class Instant(NamedTuple):
    """A time at which the API showed no more than so many events; what follows is asked for without it."""

    time: datetime
    shown: int
    is_refused: bool
    """It refused to show more; otherwise it ended."""


def step_back(events: pa.Table, newest: datetime | None) -> timedelta:
    """How far the events go back in time, at most, from one to the next, or from what came before; zero: in order."""
    if not events.num_rows:
        return timedelta()
    times = events["timestamp"].combine_chunks().cast(pa.int64())
    lowest = pc.min(times).as_py()
    first = times[0].as_py() if newest is None else (newest - EPOCH) // TICK
    steps = pc.min(pc.subtract(times[1:], times[:-1])).as_py() or 0
    return timedelta(microseconds=max(first - lowest, -steps, 0))


def without(events: pa.Table, keys: Collection[EventKey]) -> pa.Table:
    """The events whose keys are others."""
    return events.filter(pa.array([key not in keys for key in keys_of(events)], pa.bool_())) if keys else events


def keys_of(events: pa.Table) -> list[EventKey]:
    """The keys of the events, row by row."""
    return list(zip(events["event_id"].to_pylist(), events["timestamp"].cast(pa.int64()).to_pylist(), strict=True))
