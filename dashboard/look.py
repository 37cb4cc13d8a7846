"""One look at the events: what is looked at, who answers, and what a section hands to its template."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .ask.conditions import Filters
from .ask.deadline import Deadline
from .ask.questions import Question
from .ask.search import Term
from .ask.stores import EventStore, Row, WarehouseStore, ask, resolved
from .names import Countries
from .view import View

TITLES = {
    "actor": "Actor",
    "action": "Action",
    "description": "Operation",
    "result": "Result",
    "address": "Address",
    "type": "Type",
    "resource": "Resource",
    "zone": "Zone",
    "product": "Product",
    "token": "Token",
    "context": "By",
    "actor_id": "Actor id",
    "account": "Account",
    "version": "API",
}
COUNTS = {"events": "Records", "failures": "Failed"}
TIMES = {"first_seen": "First (UTC)", "last_seen": "Latest (UTC)"}


@dataclass(frozen=True)
class Table:
    """Rows to show and to export."""

    name: str
    columns: Mapping[str, str]
    """By the name in a row, the title."""
    rows: list[Row]
    nothing: str = "None."
    to: str = ""
    """The section that its links lead to; none: the same."""
    by: tuple[str, ...] = ()
    """The fields whose values together are the events that a row counts."""
    also: tuple[Term, ...] = ()
    """Further conditions that those events meet."""
    opens: bool = False
    """True if its rows are events that can be opened."""
    beside: tuple[str, ...] = ()
    """Values that stand beside others in the page, or in an event that is opened, and have a column in a file."""
    title: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Shown:
    """A section's answer: its template's names, and its tables."""

    tables: tuple[Table, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """One look at a section: what is looked at, and who answers."""

    view: View
    stores: Mapping[str, Any]
    countries: Countries
    now: datetime
    deadline: Deadline

    @property
    def store(self) -> EventStore:
        """The store that is looked at."""
        store: EventStore = self.stores[self.view.store]
        return store

    @property
    def warehouse(self) -> WarehouseStore:
        """The warehouse, whichever store is looked at."""
        store: WarehouseStore = self.stores["warehouse"]
        return store

    @property
    def filters(self) -> Filters:
        """The events that are looked at, with the addresses of networks."""
        return resolved(self.store, self.view.filters, self.deadline)

    def ask(self, *asked: Question) -> list[list[Row]]:
        """The store's answers."""
        return ask(self.store, *asked, deadline=self.deadline)
