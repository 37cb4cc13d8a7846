"""Loads events into a store beside its loop: no cursor, no state, no writer's lock. For sweep, backfill and repair.

Safe next to the loop and to its like, because both writes are idempotent and ask before they overwrite.
"""

from datetime import datetime
from pathlib import Path

import pyarrow.compute as pc

from sources.cloudflare_audit_logs import Batch, cloudflare_audit_logs, events_of
from sources.cloudflare_audit_logs.events import Page
from sources.cloudflare_audit_logs.streams import Stream

from .known import Known
from .reading import Step
from .scratch_pipeline import ScratchPipeline
from .store import Store, lacking, note_refused


class Sidecar:
    """A second way into a store, under a pipeline name of its own. Used by one thread at a time."""

    def __init__(self, store: Store, purpose: str, *, pipelines_dir: Path) -> None:
        self._store = store
        self._pipeline = ScratchPipeline(store, f"{store.pipeline_name}_{purpose}", pipelines_dir, is_stateful=False)
        self._known: dict[Stream, Known] = {}

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
            pages = [self._lacking(stream, page, part.window.since) for page in part.pages]
            batch = Batch(since=part.window.since, cursor=part.reached or part.window.since, pages=pages)
            if batch.events or batch.quarantined:
                batches[stream] = batch
            if part.is_last:
                self._known.pop(stream, None)
        if batches:
            if not self._pipeline.is_open:
                self._pipeline.open()
            refused = self._pipeline.run(cloudflare_audit_logs(batches, None), events_of(batches))
            note_refused(batches, refused)
        return batches

    def close(self) -> None:
        """Forgets everything. What was loaded stays loaded."""
        self._known.clear()
        self._pipeline.close()

    def _lacking(self, stream: Stream, page: Page, since: datetime) -> Page:
        """What the store lacks of the page; of the hours before it nothing needs to be known any more."""
        known = self._known.setdefault(stream, Known())
        if page.events.num_rows:
            known.forget_before(pc.min(page.events["timestamp"]).as_py())
        return lacking(self._store, stream, page, known, since)
