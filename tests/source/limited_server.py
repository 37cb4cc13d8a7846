"""A server that answers queries of some events, within limits that a test sets."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from sources.cloudflare_audit_logs.errors import (
    RefusedError,
)
from sources.cloudflare_audit_logs.events import Page
from sources.cloudflare_audit_logs.reach import Reach
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, QUARANTINE_SCHEMA, TIME
from sources.cloudflare_audit_logs.streams import Window
from sources.cloudflare_audit_logs.stretches import read_whole

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)


MONTH = Window(BEGIN, BEGIN + timedelta(days=30))


Event = tuple[datetime, str]


@dataclass
class Server:
    """Answers queries of these events, oldest first, as long as they are within its limits."""

    events: list[Event]
    most: int | None = None
    """Results that it shows of a query."""
    says_so: bool = False
    """With an error past them; otherwise the pages end."""
    longest: timedelta = timedelta.max
    fullest: int | None = None
    """Events in a range."""
    largest_page: int = 1_000
    includes_since: bool = True
    order: Callable[[list[Event]], list[Event]] = sorted
    queries: list[Window] = field(default_factory=list)
    requests: int = 0
    patient: int = 0
    """Requests that would have been sent again."""

    def ask(self, window: Window, direction: str, per_page: int, is_patient: Callable[[], bool]) -> Iterator[Page]:
        """One query, page by page."""
        assert direction == "asc"
        self.queries.append(window)
        found = [event for event in self.events if self._is_in(event[0], window)]
        shown = self.order(found)[: self.most]
        for start in range(0, max(len(shown), 1) + per_page, per_page):
            self.requests += 1
            self.patient += is_patient()
            self._refuse(window, per_page, len(found), start)
            page = shown[start : start + per_page]
            if page:
                yield page_of(page)
            if len(page) < min(per_page, 100):
                return

    def _is_in(self, time: datetime, window: Window) -> bool:
        is_since = time == window.since and self.includes_since
        return is_since or window.since < time < window.before

    def _refuse(self, window: Window, per_page: int, found: int, start: int) -> None:
        is_too_full = self.fullest is not None and found > self.fullest
        is_too_deep = self.says_so and self.most is not None and start + per_page > self.most
        if window.before - window.since > self.longest or is_too_full or is_too_deep or per_page > self.largest_page:
            message = "too much"
            raise RefusedError(message, too_much="window")


def read(
    server: Server,
    window: Window = MONTH,
    per_page: int = 100,
    reach: Reach | None = None,
    found: Counter[Event] | None = None,
) -> Counter[Event]:
    """Returns the events that a reading yields; `found` has them even if it fails."""
    read_events = Counter[Event]() if found is None else found
    for page in read_whole(server.ask, window, reach or Reach(per_page), "asc"):
        times, event_ids = page.events["timestamp"].to_pylist(), page.events["event_id"].to_pylist()
        read_events.update(zip(times, event_ids, strict=True))
    return read_events


def burst(count: int, since: datetime, length: timedelta) -> list[Event]:
    """Events at even distances."""
    return [(since + index * length / count, f"{since:%d%H%M%S}-{index}") for index in range(count)]


def page_of(events: list[Event]) -> Page:
    """A page of these events."""
    columns = {
        name: pa.nulls(len(events), kind.type) for name, kind in zip(EVENT_SCHEMA.names, EVENT_SCHEMA, strict=True)
    }
    columns["event_id"] = pa.array([event_id for _, event_id in events])
    columns["timestamp"] = pa.array([time for time, _ in events], TIME)
    return Page(pa.table(columns, schema=EVENT_SCHEMA), QUARANTINE_SCHEMA.empty_table())
