"""One of the two pipelines: a store, the dlt pipeline that loads it, and what is remembered of both.

The destination is the checkpoint. What we remember of it and the pipeline's working directory are thrown away at every
opening, which happens at the start, after a failed load, and when the destination's newest state is not the one last
seen (restored from a backup). So nothing that a crash leaves behind, and nothing that we remember, can make it skip an
event.
"""

import time
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from dlt.common.destination.client import StateInfo
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.common.versioned_state import decompress_state

from pipelines.fetch.reading import Part, Step
from pipelines.host.aside import aside
from sources.cloudflare_audit_logs import Batch, Position, cloudflare_audit_logs, stored_position
from sources.cloudflare_audit_logs.errors import TemporaryError
from sources.cloudflare_audit_logs.streams import Stream

from .held_keys import HeldKeys
from .positions import positions_of
from .scratch_pipeline import ScratchPipeline
from .sidecar import Sidecar
from .spool import Spool
from .store import Store, batch_of, lacking, note_refused

LOADS_BETWEEN_PRUNINGS = 50


class Loader:
    """A store as the loop sees it: where it stands, and how it is loaded. Used by one thread at a time."""

    def __init__(self, store: Store, spool: Spool, *, pipelines_dir: Path, lag: Callable[[Stream], timedelta]) -> None:
        self.name = store.name
        self._store, self._spool, self._lag = store, spool, lag
        self._pipeline = ScratchPipeline(store, store.pipeline_name, pipelines_dir, is_stateful=True)
        self._sidecar = Sidecar(store, spool, "sweep", pipelines_dir=pipelines_dir)
        self._state: Mapping[str, Any] = {}
        """The pipeline's state as last seen in the store."""
        self._inherited: dict[Stream, Position] = {}
        """Where the store holds more of a stream than our own state says, by other shards; until we load it."""
        self._known: dict[Stream, HeldKeys] = {}
        self._loads = 0
        self._is_settled = False
        """True if the steps after the load have been taken, since it was opened."""

    @property
    def is_open(self) -> bool:
        """True if it can be asked and loaded."""
        return self._pipeline.is_open

    def open(self) -> None:
        """Takes the writer's lock, throws the working directory away, and restores the state from the store.

        Raises:
            AuditLogsError: the store is down, locked by another process, or not ours.
        """
        self._known.clear()
        self._is_settled = False
        with self._pipeline.client() as client:
            self._pipeline.take_lock()
            self._store.open(client, takes_lock=True)
            held = positions_of(*self._store.states(client))
        self._pipeline.open()
        self._state = self._pipeline.state
        self._inherited = {s: p for s, p in held.items() if p != stored_position(self._state, s)}

    def close(self) -> None:
        """Gives the lock back and forgets everything. What was loaded stays loaded."""
        self._sidecar.close()
        self._store.close()
        self._pipeline.close()

    def position(self, stream: Stream) -> Position | None:
        """How far the store holds the stream; None if it never saw it."""
        return self._inherited.get(stream) or stored_position(self._state, stream)

    def load(self, step: Step) -> dict[Stream, Batch]:
        """Writes what the store lacks of the step, commits the cursors, and returns the batches that were new.

        A batch that brings nothing and moves no cursor is left out; if that leaves none, dlt is not started.

        Raises:
            AuditLogsError: nothing counts as loaded; close it and open it again before the next load.
        """
        batches = {stream: self._batch(stream, part) for stream, part in step.parts.items()}
        new = {stream: batch for stream, batch in batches.items() if self._is_new(stream, batch)}
        if new:
            self._commit(new)
        for stream, part in step.parts.items():
            self._known[stream].forget_before(_reached(part) - self._lag(stream))
            if part.is_last:
                self._known[stream].complete(part.window.since)
        if not self._is_settled:
            with aside("after_load"), self._pipeline.client() as client:
                self._is_settled = self._store.after_load(client)
        return new

    def _commit(self, new: Mapping[Stream, Batch]) -> None:
        """Loads events and cursors in one run of dlt."""
        self._store.verify_lock()
        self._verify_state(new.keys() & self._inherited.keys())
        lags = {stream: self._lag(stream).total_seconds() for stream in new}
        note_refused(new, self._pipeline.run(cloudflare_audit_logs(new, lags)))
        self._state = self._pipeline.state
        for stream in new:
            self._inherited.pop(stream, None)
        self._prune_now_and_then()

    def load_late(self, step: Step) -> dict[Stream, Batch]:
        """Writes what the store lacks of a step of the sweep; no cursor moves. As `load` otherwise."""
        return self._sidecar.load(step)

    def _batch(self, stream: Stream, part: Part) -> Batch:
        """What the store lacks of the part."""
        known = self._known.setdefault(stream, HeldKeys())
        position = self.position(stream) or Position(part.window.since, part.window.since)
        found = [
            lacking(self._store, stream, page, known, since=part.window.since, spool=self._spool) for page in part.pages
        ]
        return batch_of(found, position.begin, max(position.cursor, _reached(part)))

    def _is_new(self, stream: Stream, batch: Batch) -> bool:
        moved = Position(batch.since, batch.cursor) != stored_position(self._state, stream)
        return moved or bool(batch.events or batch.quarantined)

    def _verify_state(self, inherited: Collection[Stream]) -> None:
        """The newest state in the destination must be the one last seen: otherwise its data are not those we know.

        So must be, of the streams that are inherited, what the other shards' states say.

        What dlt takes for the newest is told by the clock of the host that loaded it, so ours must be past that.
        """
        with self._pipeline.client() as client, client:
            newest = _newest_state(client, self._store.pipeline_name)
            held = positions_of(*self._store.states(client)) if inherited else {}
        ahead = float(newest._dlt_load_id or 0) - time.time() if newest else -1.0  # noqa: SLF001  # a field of dlt's
        if ahead >= 0:
            raise TemporaryError(
                f"the newest load of the {self.name} is {ahead:.0f} s ahead of this host's clock",
                hint="the clock jumped back, or another host's is ahead: it goes on when that time has passed",
            )
        stored = decompress_state(newest.state) if newest else {}
        seen = self._state if self._state.get("sources") else {}
        is_lost = any(not _covers(held.get(stream), self._inherited[stream]) for stream in inherited)
        if is_lost or stored.get("_version_hash") != seen.get("_version_hash"):
            raise TemporaryError(
                f"the {self.name} is not as it was last seen",
                detail="its newest pipeline state is another one",
                hint="restored from a backup, or loaded by someone else; it is read again from where it stands now",
            )

    def _prune_now_and_then(self) -> None:
        self._loads += 1
        if self._loads % LOADS_BETWEEN_PRUNINGS == 0:
            with aside("prune"), self._pipeline.client() as client, client:
                self._store.prune(client)


def _reached(part: Part) -> datetime:
    return part.reached or part.window.since


def _covers(position: Position | None, wanted: Position) -> bool:
    return position is not None and position.begin <= wanted.begin and wanted.cursor <= position.cursor


def _newest_state(client: Any, pipeline_name: str) -> StateInfo | None:
    try:
        newest: StateInfo | None = client.get_stored_state(pipeline_name)
    except DestinationUndefinedEntity:
        return None
    return newest
