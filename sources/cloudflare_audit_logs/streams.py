"""A stream of events, and a window of it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

API_VERSIONS = ("v1", "v2")


@dataclass(frozen=True, order=True)
class Stream:
    """The events of one account in one API version. v1 and v2 are different records with ids of their own."""

    account_id: str
    api_version: str

    @property
    def name(self) -> str:
        """The dlt resource name, and so a key of dlt's state: never rename."""
        return f"audit_logs_{self.api_version}_{self.account_id}"


@dataclass(frozen=True)
class Window:
    """Event times `[since, before)`, half open, UTC. `before` stays as it is until the window is read."""

    since: datetime
    before: datetime

    def parts(self, length: timedelta) -> Iterator["Window"]:
        """Its parts between multiples of a length that divides a day, oldest first."""
        since = self.since
        while since < self.before:
            midnight = since.replace(hour=0, minute=0, second=0, microsecond=0)
            before = min(midnight + ((since - midnight) // length + 1) * length, self.before)
            yield Window(since, before)
            since = before
