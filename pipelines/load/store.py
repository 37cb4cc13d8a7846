"""What PostgreSQL and the lake have in common: asked what they hold, locked for one writer, loaded by dlt."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from sources.cloudflare_audit_logs import Batch
from sources.cloudflare_audit_logs.events import Page
from sources.cloudflare_audit_logs.files import PageFile, RowFile
from sources.cloudflare_audit_logs.schema import QUARANTINE_SCHEMA
from sources.cloudflare_audit_logs.streams import Stream, Window

from .held_keys import EventKey, HeldKeys
from .spool import Spool

Refused = Mapping[Stream, int]
"""How many events of a load a store refused and quarantined, by stream."""

ROW = "row"


class Store(Protocol):
    """The warehouse or the lake. Whatever it raises inside `translated_errors` is one of our errors."""

    name: str
    pipeline_name: str
    dataset_name: str

    @property
    def oldest_kept(self) -> datetime | None:
        """Events before this time are not to be loaded: they were deleted for their age. None: all are kept."""

    def destination(self) -> Any:
        """The dlt destination."""

    def translated_errors(self) -> AbstractContextManager[None]:
        """A block that raises the store's errors as ours."""

    def open(self, client: Any, *, takes_lock: bool) -> None:
        """Prepares the store, for the loop with the writer's lock, for whoever works beside it without; repeatable."""

    def states(self, client: Any) -> list[Any]:
        """Of each pipeline that loads the store or a shard of its accounts, the newest state that counts, as dlt's."""

    def verify_lock(self) -> None:
        """Raises if the lock may be lost."""

    def after_load(self, client: Any) -> bool:
        """After an opening's first load: brings up to date what is around the events; False: to be called again."""

    def take_refused(self) -> Refused:
        """The events that were refused and quarantined by the loads since the last call."""

    def prune(self, client: Any) -> None:
        """Removes what dlt keeps of loads that nobody needs any more, so that its own tables do not grow for ever."""

    def close(self) -> None:
        """Gives the lock back."""

    def event_keys(self, stream: Stream, since: datetime, before: datetime) -> set[EventKey]:
        """The keys of the events held in `[since, before)`."""

    def held_digests(self, stream: Stream, digests: Sequence[str], received: Window) -> set[str]:
        """Those of the digests whose events are quarantined; `received` is when they can have been received."""


class Lacking(NamedTuple):
    """What a store lacks of a page."""

    events: list[RowFile]
    quarantined: list[RowFile]


def note_refused(batches: Mapping[Stream, Batch], refused: Refused) -> None:
    """Notes in the batches what their load has shown."""
    for stream, events in refused.items():
        batches[stream].refused = events


def lacking(
    store: Store, stream: Stream, page: Page | PageFile, known: HeldKeys, *, since: datetime, spool: Spool
) -> Lacking:
    """The part of a page that the store does not hold, which counts as known from then on.

    The page is of a window that begins at `since`. The store is asked for hours that are not known yet. Should the load
    fail, `known` is to be thrown away. Events older than was asked for are kept: what the API shows is not for us to
    drop; only the store's retention is.
    """
    with store.translated_errors():
        keys = page.keys
        keys = keys.append_column(ROW, pa.array(range(keys.num_rows), pa.int64()))
        if (oldest := store.oldest_kept) is not None:
            keys = keys.filter(pc.greater_equal(keys["timestamp"], oldest))
        fresh = known.lacking(keys, lambda since, before: store.event_keys(stream, since, before))
        with spool.writing(QUARANTINE_SCHEMA) as quarantined:
            for group in page.quarantine_groups():
                quarantined.write(group.filter(_are_new(store, stream, group, known, since)))
        return Lacking(spool.files_of(page, fresh[ROW]), quarantined.files)


def batch_of(lacking: Iterable[Lacking], since: datetime, cursor: datetime) -> Batch:
    """What a store lacks of a stream, as its load takes it."""
    batch = Batch(since, cursor)
    for of_page in lacking:
        batch.event_files += of_page.events
        batch.quarantine_files += of_page.quarantined
    return batch


def _are_new(store: Store, stream: Stream, quarantined: pa.Table, known: HeldKeys, since: datetime) -> pa.Array:
    """The same; who has nothing quarantined is not held up by a quarantine that cannot be read."""

    def held(digests: list[str]) -> set[str]:
        # What shows in a window was not received before it began.
        return store.held_digests(stream, digests, Window(since, pc.max(quarantined["received_at"]).as_py()))

    return pa.array(known.are_new(quarantined["digest"].to_pylist(), since, held), pa.bool_())
