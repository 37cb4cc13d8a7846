"""When the sweep is due, and over what window: it finds events that became visible later than the safety lag.

When a stream was last swept is kept as the time of an empty file. Losing it costs one sweep, never an event.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sources.cloudflare_audit_logs.streams import Stream, Window


@dataclass(frozen=True)
class SweepPlan:
    """Every `interval`, what lies behind the loop's own window is read again, `depth` deep."""

    folder: Path
    interval: timedelta
    """Zero: never."""
    depth: timedelta

    def window(self, destination: str, stream: Stream, polled_since: datetime, now: datetime) -> Window | None:
        """What is to be swept now: it ends where the loop's window begins. None if nothing is due.

        Begins `depth` before whatever came first, the last sweep or that end. So an event is found that becomes
        visible within `depth` of its time, however long the destination, or all of us, was down in between.
        """
        swept = self._last(destination, stream)
        if not self.interval or (swept is not None and timedelta() <= now - swept < self.interval):
            return None
        return Window(min(swept or now, polled_since) - self.interval - self.depth, polled_since)

    def is_covered_by(self, since: datetime, begin: datetime, now: datetime) -> bool:
        """Whether a poll from `since` on has read all that a sweep would: a first start, or one after a long outage."""
        return since <= max(begin, now - self.interval - self.depth)

    def mark(self, destination: str, stream: Stream, begun: datetime) -> None:
        """Notes that what a sweep reads has been read and loaded, from `begun` on."""
        file = self._file(destination, stream)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.utime(file, (begun.timestamp(), begun.timestamp()))

    def _last(self, destination: str, stream: Stream) -> datetime | None:
        try:
            return datetime.fromtimestamp(self._file(destination, stream).stat().st_mtime, UTC)
        except OSError:
            return None

    def _file(self, destination: str, stream: Stream) -> Path:
        return self.folder / destination / stream.name
