"""What our two dlt destinations have in common: the rows of a load go beside dlt, and its configuration is asked once.

dlt carries the keys, and with them its schema, state, load ids and counts. To carry the rows as well, it writes them to
disk, and we read them again: 1.1 of 8.1 CPU seconds for 100,000 events. They are handed over in memory. A package
that a killed process left has no rows, and so loads nothing; its working directory is thrown away anyhow.
"""

import threading
from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from dlt.common.schema import Schema

from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.streams import Stream

if TYPE_CHECKING:
    from dlt.common.destination import Destination
else:
    Destination = object


Refused = Mapping[Stream, int]
"""How many events of a load a store refused and quarantined, by stream."""


class Rows:
    """The events of one load, handed over from whoever runs the pipeline to its load job."""

    def __init__(self, events: pa.Table) -> None:
        self._events, self._lock = events, threading.Lock()
        self.refused: dict[Stream, int] = {}
        """How many of them were quarantined, as the job says."""

    def take(self) -> pa.Table:
        """All of them, to the first of the load's jobs; the others (dlt may make one a resource) get none."""
        with self._lock:
            events, self._events = self._events, self._events.slice(0, 0)
            return events


def rows_of(client: Any) -> Rows:
    """The events that the load of a client's job brings.

    Raises:
        AuditLogsError: someone else runs a pipeline with this destination.
    """
    if client.rows is None:
        hint = "only pipelines/run.py and the commands beside it load into this destination"
        raise AuditLogsError("a load came without its rows", hint=hint)
    rows: Rows = client.rows
    return rows


class OwnDestination(Destination):  # type: ignore[type-arg]  # mixed into a destination of dlt's
    """One for each opening of a store, so that what it remembers ends with that."""

    rows: Rows | None = None
    """Of the load in hand."""

    def client(self, schema: Schema, initial_config: Any = None) -> Any:
        """A client that knows the rows of the load in hand."""
        client: Any = super().client(schema, initial_config)
        client.rows = self.rows
        return client

    # dlt resolves these anew some ten times in a run: 12 % of what a load of 100,000 events took (py-spy).

    def configuration(self, initial_config: Any, accept_partial: bool = False) -> Any:  # noqa: FBT001, FBT002  # dlt's signature
        """A copy of what it was resolved to before, if it was; callers change it."""
        key = "configuration", accept_partial, repr(sorted((initial_config or {}).items(), key=str))
        return self._once(key, lambda: super(OwnDestination, self).configuration(initial_config, accept_partial)).copy()

    def capabilities(self, config: Any = None, naming: Any = None) -> Any:
        """A copy, as above."""
        if config is not None:
            return super().capabilities(config, naming)
        key = "capabilities", type(naming), getattr(naming, "max_length", None)
        return copy(self._once(key, lambda: super(OwnDestination, self).capabilities(None, naming)))

    def _once(self, key: Any, resolve: Any) -> Any:
        resolved = self.__dict__.setdefault("_resolved", {})
        if key not in resolved:
            resolved[key] = resolve()
        return resolved[key]
