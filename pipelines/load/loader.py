"""Loads steps into a store: the loader for the loop, with cursors, and the sidecar beside it, without.

The destination is the checkpoint. What a loader remembers of it and the pipeline's working directory are thrown away at
every opening, which happens at the start, after a failed load, and when the destination's newest state is not the one
last seen (restored from a backup). So nothing that a crash leaves behind, and nothing that is remembered, can make it
skip an event.
"""

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.common.versioned_state import decompress_state

from pipelines.fetch.reading import Part, Step
from pipelines.host.aside import aside
from sources.cloudflare_audit_logs import Batch, Position, stored_position
from sources.cloudflare_audit_logs.errors import TemporaryError
from sources.cloudflare_audit_logs.events import Page
from sources.cloudflare_audit_logs.files import PageFile
from sources.cloudflare_audit_logs.schema import QUARANTINE_SCHEMA
from sources.cloudflare_audit_logs.streams import Stream, Window

from .held_keys import HeldKeys
from .pipeline import ScratchPipeline
from .spool import Spool
from .store import Store, positions_of

LOADS_BETWEEN_PRUNINGS = 50
_ROW = "row"


class Sidecar:
    """Loads events beside the loop: no cursor, no state, no writer's lock. For sweep, backfill and repair.

    Safe next to the loop and other sidecars, because both writes are idempotent and ask before they overwrite. Has a
    pipeline name of its own. Used by one thread at a time.
    """

    def __init__(self, store: Store, spool: Spool, purpose: str, *, pipelines_dir: Path) -> None:
        self._store, self._spool = store, spool
        self._pipeline = ScratchPipeline(store, f"{store.pipeline_name}_{purpose}", pipelines_dir)
        self._held: dict[Stream, HeldKeys] = {}

    def open(self) -> None:
        """Opens the store as well, where no loop in this process has.

        Raises:
            AuditLogsError: the store is down, or not ours.
        """
        with self._pipeline.client() as client:
            self._store.open(client, takes_lock=False)

    def take_lock(self) -> None:
        """Takes the purpose for this process at once, not with the first load.

        Raises:
            TemporaryError: another process on this host has it.
        """
        self._pipeline.take_lock()

    def load(self, step: Step) -> dict[Stream, Batch]:
        """Writes what the store lacks of the step, and returns that.

        Raises:
            AuditLogsError: nothing counts as loaded.
        """
        batches = {}
        for stream, part in step.parts.items():
            held = self._held.setdefault(stream, HeldKeys())
            batch = Batch(part.window.since, part.reached or part.window.since)
            for page in part.pages:
                if len(times := page.keys["timestamp"]):
                    held.forget_before(pc.min(times).as_py())  # no later page asks for the hours before
                _add_lacking(batch, page, self._store, stream, held, since=part.window.since, spool=self._spool)
            if batch.events or batch.quarantined:
                batches[stream] = batch
            if part.is_last:
                del self._held[stream]
        if batches:
            if not self._pipeline.is_open:
                self._pipeline.open()
            self._pipeline.load(batches, None)
        return batches

    def close(self) -> None:
        """Forgets everything. What was loaded stays loaded."""
        self._held.clear()
        self._pipeline.close()


class Loader:
    """A store as the loop sees it: its positions, and its loads. Used by one thread at a time."""

    def __init__(self, store: Store, spool: Spool, *, pipelines_dir: Path, lag: Callable[[Stream], timedelta]) -> None:
        self.name = store.name
        self._store, self._spool, self._lag = store, spool, lag
        self._pipeline = ScratchPipeline(store, store.pipeline_name, pipelines_dir)
        self._sidecar = Sidecar(store, spool, "sweep", pipelines_dir=pipelines_dir)
        self._state: Mapping[str, Any] = {}
        """The pipeline's state as last seen in the store."""
        self._inherited: dict[Stream, Position] = {}
        """Where the store holds more of a stream than our own state says, by other shards; until we load it."""
        self._held: dict[Stream, HeldKeys] = {}
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
        self._held.clear()
        self._is_settled = False
        with self._pipeline.client() as client:
            self._pipeline.take_lock()
            self._store.open(client, takes_lock=True)
            stored = positions_of(*self._store.states(client))
        self._pipeline.open()
        self._state = self._pipeline.state
        self._inherited = {s: p for s, p in stored.items() if p != stored_position(self._state, s)}

    def close(self) -> None:
        """Gives the lock back and forgets everything. What was loaded stays loaded."""
        self._sidecar.close()
        self._store.close()
        self._pipeline.close()

    def position(self, stream: Stream) -> Position | None:
        """The position up to which the store holds the stream; None if it never saw it."""
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
            self._held[stream].forget_before((part.reached or part.window.since) - self._lag(stream))
            if part.is_last:
                self._held[stream].complete(part.window.since)
        if not self._is_settled:
            with aside("after_load"), self._pipeline.client() as client:
                self._is_settled = self._store.after_load(client)
        return new

    def load_late(self, step: Step) -> dict[Stream, Batch]:
        """Writes what the store lacks of a step of the sweep; no cursor moves. As `load` otherwise."""
        return self._sidecar.load(step)

    def _batch(self, stream: Stream, part: Part) -> Batch:
        held, since = self._held.setdefault(stream, HeldKeys()), part.window.since
        position = self.position(stream) or Position(since, since)
        batch = Batch(position.begin, max(position.cursor, part.reached or since))
        for page in part.pages:
            _add_lacking(batch, page, self._store, stream, held, since=since, spool=self._spool)
        return batch

    def _is_new(self, stream: Stream, batch: Batch) -> bool:
        moved = Position(batch.since, batch.cursor) != stored_position(self._state, stream)
        return moved or bool(batch.events or batch.quarantined)

    def _commit(self, new: Mapping[Stream, Batch]) -> None:
        """Loads events and cursors in one run of dlt."""
        self._store.verify_lock()
        self._verify_state(new.keys() & self._inherited.keys())
        self._pipeline.load(new, {stream: self._lag(stream).total_seconds() for stream in new})
        self._state = self._pipeline.state
        for stream in new:
            self._inherited.pop(stream, None)
        self._loads += 1
        if self._loads % LOADS_BETWEEN_PRUNINGS == 0:
            with aside("prune"), self._pipeline.client() as client, client:
                self._store.prune(client)

    def _verify_state(self, inherited: Collection[Stream]) -> None:
        """Raises unless the newest state in the destination is the one last seen: else its data are not those we know.

        The positions of the inherited streams, in the other shards' states, must not have gone back either. dlt takes
        the state for the newest that has the latest time of its host, so our clock must be past that.
        """
        newest, stored = None, {}
        with self._pipeline.client() as client, client:
            with suppress(DestinationUndefinedEntity):
                newest = client.get_stored_state(self._store.pipeline_name)
            if inherited:
                stored = positions_of(*self._store.states(client))
        ahead = float(newest._dlt_load_id or 0) - time.time() if newest else -1.0  # noqa: SLF001  # a field of dlt's
        if ahead >= 0:
            raise TemporaryError(
                f"the newest load of the {self.name} is {ahead:.0f} s ahead of this host's clock",
                hint="the clock jumped back, or another host's is ahead: it goes on when that time has passed",
            )
        known = decompress_state(newest.state) if newest else {}
        seen = self._state if self._state.get("sources") else {}
        is_lost = any(not _covers(stored.get(stream), self._inherited[stream]) for stream in inherited)
        if is_lost or known.get("_version_hash") != seen.get("_version_hash"):
            raise TemporaryError(
                f"the {self.name} is not as it was last seen",
                detail="its newest pipeline state is another one",
                hint="restored from a backup, or loaded by someone else; it is read again from where it stands now",
            )


def _covers(position: Position | None, wanted: Position) -> bool:
    return position is not None and position.begin <= wanted.begin and wanted.cursor <= position.cursor


def _add_lacking(
    batch: Batch, page: Page | PageFile, store: Store, stream: Stream, held: HeldKeys, *, since: datetime, spool: Spool
) -> None:
    """Adds the part of a page to the batch that the store does not hold; it counts as held from then on.

    The page is of a window that begins at `since`. The store is asked for hours that are not known yet. Should the load
    fail, `held` is to be thrown away. Events older than was asked for are kept: what the API shows is not for us to
    drop; only the store's retention is.
    """
    with store.translated_errors():
        keys = page.keys
        keys = keys.append_column(_ROW, pa.array(range(keys.num_rows), pa.int64()))
        if (oldest := store.oldest_kept) is not None:
            keys = keys.filter(pc.greater_equal(keys["timestamp"], oldest))
        fresh = held.lacking(keys, lambda since, before: store.event_keys(stream, since, before))
        with spool.writing(QUARANTINE_SCHEMA) as quarantined:
            for group in page.quarantine_groups():  # none: a quarantine that cannot be read does not matter
                # An event of this window was not received before the window began.
                received = Window(since, pc.max(group["received_at"]).as_py())
                ask_store = partial(store.held_digests, stream, received=received)
                is_new = held.are_new(group["digest"].to_pylist(), since, ask_store)
                quarantined.write(group.filter(pa.array(is_new, pa.bool_())))
        batch.event_files += spool.files_of(page, fresh[_ROW])
        batch.quarantine_files += quarantined.files
