"""The sweep: when it is due, and its window. It finds events that became visible later than the safety lag.

Each destination and stream has a mark, a small file: until when everything that became visible, up to `depth` late,
has been read, and where the destination's cursor was then. Without its mark (a new host), or with a cursor that is
behind it (a restored backup), the destination is taken for as old as its cursor. So losing a mark costs a sweep, never
an event.
"""

from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from pipelines.host.logs import log
from sources.cloudflare_audit_logs.streams import Stream, Window

_FIRST_YEAR = 2000


class Mark(NamedTuple):
    """The progress of the sweep in a destination."""

    swept: datetime
    cursor: datetime


class SweepPlan:
    """Every `interval`, what lies behind the loop's own window is read again, `depth` deep."""

    def __init__(self, folder: Path, interval: timedelta, depth: timedelta) -> None:
        self._folder, self._interval, self._depth = folder, interval, depth
        self._marks: dict[tuple[str, Stream], Mark] = {}

    def note(self, destination: str, stream: Stream, cursor: datetime) -> None:
        """Before each poll, which moves the cursor: sees to a mark that is not ahead of what the destination holds."""
        mark = self._mark(destination, stream)
        if mark is None or cursor < mark.cursor:
            self._set(destination, stream, Mark(cursor, cursor))

    def window(self, destination: str, stream: Stream, polled_since: datetime, now: datetime) -> Window | None:
        """Returns the window to be swept now; it ends where the loop's window begins. None if no sweep is due.

        Begins `depth` before the last sweep. So an event is found that becomes visible within `depth` of its time,
        however long the destination, or all of us, was down in between.
        """
        mark = self._mark(destination, stream)
        if not self._interval or (mark is not None and timedelta() <= now - mark.swept < self._interval):
            return None
        return Window(min(self._begin(mark, now), polled_since), polled_since)

    def is_covered_by(self, destination: str, stream: Stream, since: datetime, now: datetime) -> bool:
        """True if a poll from `since` on has read all that a sweep would."""
        return since <= self._begin(self._mark(destination, stream), now)

    def mark(self, destination: str, stream: Stream, begun: datetime, cursor: datetime) -> None:
        """Notes that what a sweep reads has been read and loaded, from `begun` on."""
        self._set(destination, stream, Mark(begun, cursor))

    def _begin(self, mark: Mark | None, now: datetime) -> datetime:
        return min(mark.swept if mark else now, now) - self._interval - self._depth

    def _mark(self, destination: str, stream: Stream) -> Mark | None:
        known = self._marks.get((destination, stream))
        if known is not None:
            return known
        try:
            swept, cursor = map(_time_of, self._file(destination, stream).read_text().split())
        except (OSError, ValueError):
            return None
        return Mark(swept, cursor)

    def _set(self, destination: str, stream: Stream, mark: Mark) -> None:
        self._marks[destination, stream] = mark
        file = self._file(destination, stream)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            partial.write_text(f"{mark.swept.isoformat()} {mark.cursor.isoformat()}\n")
            partial.replace(file)
        except OSError as error:
            log.warning("sweep.mark_not_kept", file=file, error=error, hint="the next start sweeps once more")

    def _file(self, destination: str, stream: Stream) -> Path:
        return self._folder / destination / stream.name


def _time_of(text: str) -> datetime:
    """Raises ValueError for what no sweep has written: the API keeps events of 18 months."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None or time.year < _FIRST_YEAR:
        raise ValueError(text)
    return time
