"""Loads events into a store beside its loop: no cursor, no state, no writer's lock. For sweep, backfill and repair.

Safe next to the loop and to its like, because both writes are idempotent and ask before they overwrite.
"""

from datetime import datetime
from pathlib import Path

import pyarrow.compute as pc

from pipelines.fetch.reading import Step
from sources.cloudflare_audit_logs import Batch, cloudflare_audit_logs
from sources.cloudflare_audit_logs.events import Page
from sources.cloudflare_audit_logs.files import PageFile
from sources.cloudflare_audit_logs.streams import Stream

from .held_keys import HeldKeys
from .scratch_pipeline import ScratchPipeline
from .spool import Spool
from .store import Lacking, Store, batch_of, lacking, note_refused


class Sidecar:
    """A second way into a store, under a pipeline name of its own. Used by one thread at a time."""

    def __init__(self, store: Store, spool: Spool, purpose: str, *, pipelines_dir: Path) -> None:
        self._store, self._spool = store, spool
        self._pipeline = ScratchPipeline(store, f"{store.pipeline_name}_{purpose}", pipelines_dir, is_stateful=False)
        self._known: dict[Stream, HeldKeys] = {}

    def open(self) -> None:
        """Opens the store as well, where no loop in this process has.

        Raises:
            AuditLogsError: the store is down, or not ours.
        """
        with self._pipeline.client() as client:
            self._store.open(client, takes_lock=False)

    def load(self, step: Step) -> dict[Stream, Batch]:
        """Writes what the store lacks of the step, and returns that.

        Raises:
            AuditLogsError: nothing counts as loaded.
        """
        batches = {}
        for stream, part in step.parts.items():
            found = [self._lacking(stream, page, part.window.since) for page in part.pages]
            batch = batch_of(found, part.window.since, part.reached or part.window.since)
            if batch.events or batch.quarantined:
                batches[stream] = batch
            if part.is_last:
                self._known.pop(stream, None)
        if batches:
            if not self._pipeline.is_open:
                self._pipeline.open()
            note_refused(batches, self._pipeline.run(cloudflare_audit_logs(batches, None)))
        return batches

    def close(self) -> None:
        """Forgets everything. What was loaded stays loaded."""
        self._known.clear()
        self._pipeline.close()

    def _lacking(self, stream: Stream, page: Page | PageFile, since: datetime) -> Lacking:
        """What the store lacks of the page; of the hours before it nothing needs to be known any more."""
        known, times = self._known.setdefault(stream, HeldKeys()), page.keys["timestamp"]
        if len(times):
            known.forget_before(pc.min(times).as_py())
        return lacking(self._store, stream, page, known, since=since, spool=self._spool)
