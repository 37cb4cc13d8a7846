"""Fills in missing events from the side that has them: the API first, then the lake, then the warehouse.

Events are added on the way of the sweep: idempotent, beside the loop, no cursor. Doubles, payloads that differ and
objects that cannot be read are replaced in one transaction or one conditional write; an unreadable object is kept under
another name.
"""

import hashlib
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.fetch.reading import FetchPages, Part, Step
from pipelines.fetch.refusals import refused_versions
from pipelines.host.logs import log
from pipelines.lake.object_format import encode, open_object, read_rows, with_others
from pipelines.lake.object_rows import NewerObjectError, reading
from pipelines.lake.objects import update
from pipelines.lake.partitions import (
    HOUR,
    Partition,
    merge_events,
    only_of,
    partition_of,
    replace_events,
    share_out,
    split,
)
from pipelines.load.loader import Sidecar
from pipelines.seals.amending import Notary
from pipelines.warehouse.connection import connect
from pipelines.warehouse.write import update_events
from sources.cloudflare_audit_logs.errors import AuditLogsError, HiddenEventsError, RefusedError
from sources.cloudflare_audit_logs.events import EventKey, Page, event_keys
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, QUARANTINE_SCHEMA
from sources.cloudflare_audit_logs.streams import API_VERSIONS, Stream, Window

from .both_stores import Copies
from .compare import HourCheck
from .sides import ApiSide

BROKEN_FOLDER = "_broken"
"""Holds the objects that could not be read."""


@dataclass
class Repair:
    """Repairs one hour, or one account's quarantine, at a time."""

    copies: Copies
    sidecars: dict[str, Sidecar]
    fetch_pages: FetchPages | None
    """None: the API is not asked."""
    is_asked_for: Callable[[Stream], bool]
    """True if the settings ask the API for a stream."""
    locks: Mapping[str, threading.Lock]
    """By account: its versions share objects, so that one at a time fills them."""
    notary: Notary | None = None
    """Says in a seal what goes and why, before it does; None: nothing is sealed."""

    def mend(self, check: HourCheck) -> int:
        """Makes both stores hold each event of the hour once, and the same of it.

        Returns the number of events that the lake got from the warehouse: JSON by its meaning, not the API's text.

        Raises:
            AuditLogsError: a side could not be read, or a store not be written. What was done until then stays.
        """
        stream, partition = check.stream, Partition(check.stream.account_id, check.hour)
        lock = self.locks[stream.account_id]
        if check.stray:
            with lock:
                self._put_into_place(partition)
        if check.broken is None:
            from_api = self._events_of_api(stream, check.window)
            with lock:
                return self._fill(stream, check.window, check, from_api)
        # The object held all of the hour, of every version, whatever was asked for.
        whole = Window(check.hour, check.hour + HOUR)
        shown = self._of_api(stream.account_id, whole, self._events_of_api, EVENT_SCHEMA)
        with lock:
            self._set_aside(partition.path, EVENT_SCHEMA, encode(EVENT_SCHEMA.empty_table()))
            return sum(self._fill(of_version, whole, check, events) for of_version, events in shown.items())

    def mend_quarantine(self, account_id: str, window: Window, received: Window) -> bool:
        """Makes the broken objects of an account's quarantine of some days anew; False if no side has events for them.

        They hold what no other object holds of what the API shows of the window, and of all that the warehouse has.
        Raises as above.
        """
        broken = self.copies.lake.broken_quarantines([account_id], received).get(account_id, {})
        shown = self._of_api(account_id, window, self._quarantined_of_api, QUARANTINE_SCHEMA)
        lost = pa.concat_tables(self._lost(stream, its, broken) for stream, its in shown.items())
        for path, rows in share_out(lost, sorted(broken)):
            # In one write: no comparison looks into it later.
            self._set_aside(path, QUARANTINE_SCHEMA, encode(rows))
            log.info("repair.quarantine_written", account=account_id, path=path, events=rows.num_rows)
        for stream, quarantined in shown.items():
            page = Page(EVENT_SCHEMA.empty_table(), quarantined)
            for sidecar in self.sidecars.values():
                sidecar.load(Step({stream: Part(window, [page], is_last=True)}))
        return bool(lost.num_rows)

    def _lost(self, stream: Stream, shown: pa.Table, broken: Collection[str]) -> pa.Table:
        """Returns each event that the API or the warehouse has, and no readable object."""
        digests = {*self.copies.warehouse.quarantined_digests(stream), *shown["digest"].to_pylist()}
        lost = digests - self.copies.lake.held_digests(stream, sorted(digests), but=broken)
        # The warehouse's first: it has the time at which they were received.
        rows = pa.concat_tables([self.copies.warehouse.quarantined(stream, sorted(lost)), shown])
        return rows.filter(pc.is_in(rows["digest"], pa.array(lost, pa.string())))

    def _of_api(
        self, account_id: str, window: Window, read: Callable[[Stream, Window], pa.Table], schema: pa.Schema
    ) -> dict[Stream, pa.Table]:
        """Returns what the API shows of each version: nothing of one that is not read, or refused beside another."""
        shown = {Stream(account_id, version): schema.empty_table() for version in API_VERSIONS}
        readable: set[Stream] = set()
        refused: dict[Stream, RefusedError] = {}
        for stream in filter(self.is_asked_for, shown):
            try:
                shown[stream] = read(stream, window)
                readable.add(stream)
            except RefusedError as error:
                refused[stream] = error
        alone = refused_versions(refused, readable)
        for stream, refusal in refused.items():
            if stream not in alone:
                raise refusal
            hint = "its events come from the other store alone"
            log.info("repair.version_refused", account=account_id, version=stream.api_version, error=refusal, hint=hint)
        return shown

    def _events_of_api(self, stream: Stream, window: Window) -> pa.Table:
        if self.fetch_pages is None:
            return EVENT_SCHEMA.empty_table()
        return ApiSide.read(self.fetch_pages, stream, window, with_contents=True).events(stream, window)

    def _quarantined_of_api(self, stream: Stream, window: Window) -> pa.Table:
        tables = [QUARANTINE_SCHEMA.empty_table()]
        try:
            pages = self.fetch_pages(stream, window, "asc") if self.fetch_pages else ()
            tables.extend(page.quarantined for page in pages)
        except HiddenEventsError as error:
            log.error("repair.hidden", account=stream.account_id, version=stream.api_version, error=error)
        return pa.concat_tables(tables)

    def _fill(self, stream: Stream, window: Window, check: HourCheck, from_api: pa.Table) -> int:
        path = Partition(stream.account_id, check.hour).path
        if check.doubled:
            # Merged with nothing, a double is there once.
            self._change(path, lambda held: merge_events(held, EVENT_SCHEMA.empty_table()), "doubled rows")
        self._add("warehouse", stream, window, from_api)
        self._add("lake", stream, window, from_api)
        self._add("warehouse", stream, window, self.copies.lake.events(stream, window))
        inexact = self._add("lake", stream, window, self.copies.warehouse.events(stream, window))
        # In this order, merging keeps what the API says, and what the lake says of all else.
        merged = merge_events(from_api, self.copies.lake.events(stream, window))
        right = from_api if merged is None else merged
        differing = check.differing or {}
        # Of a double with two texts, one was kept: it need not be the API's.
        in_lake = _chosen(right, [*differing.get("lake", []), *check.doubled])
        self._replace(path, in_lake, _chosen(right, differing.get("warehouse", [])))
        return inexact

    def _replace(self, path: str, in_lake: pa.Table, in_warehouse: pa.Table) -> None:
        if in_lake.num_rows:
            self._change(path, lambda held: replace_events(held, in_lake), "contents replaced")
            log.warning("repair.replaced", store="lake", events=in_lake.num_rows, path=path)
        if in_warehouse.num_rows:
            with self.copies.warehouse.translated_errors(), connect(self.copies.owner, autocommit=True) as connection:
                update_events(connection, self.copies.schema, in_warehouse)
            log.warning("repair.replaced", store="warehouse", events=in_warehouse.num_rows)

    def _put_into_place(self, partition: Partition) -> None:
        """Moves rows of an object that belong into another one."""
        for place, rows in split(self.copies.lake.stray(partition)):
            for version in rows["api_version"].unique().to_pylist():
                its_rows = rows.filter(pc.equal(rows["api_version"], version))
                window = Window(place.hour, place.hour + HOUR)
                self._add("lake", Stream(place.account_id, version), window, its_rows)
        self._change(partition.path, lambda held: only_of(partition, held)[0], "rows of another hour or account")

    def _add(self, store: str, stream: Stream, window: Window, events: pa.Table) -> int:
        """Adds what the store lacks of the events; returns how many."""
        if not events.num_rows:
            return 0
        if store == "lake" and self.notary is not None:
            self.notary.permit_old(events, "repair: brought back")
        part = Part(window, [Page(events, QUARANTINE_SCHEMA.empty_table())], is_last=True)
        added = self.sidecars[store].load(Step({stream: part}, events.num_rows))
        for batch in added.values():
            log.info("repair.added", store=store, events=batch.events, hour=window.since.isoformat())
        return sum(batch.events for batch in added.values())

    def _set_aside(self, path: str, schema: pa.Schema, anew: bytes) -> None:
        """Keeps an object that cannot be read under another name, and puts a new one in its place."""

        def change(body: bytes | None) -> bytes | None:
            if body is None or _is_readable(body, path, schema):
                return None
            # Not beside it: readers of the lake take every file below the events for one of them.
            kept_as = f"{BROKEN_FOLDER}/{path}-{hashlib.sha256(body).hexdigest()[:8]}"
            if self.copies.lake.objects.read(kept_as) is None:
                self.copies.lake.objects.write(kept_as, body, None)
            log.warning("repair.set_aside", path=path, kept_as=kept_as)
            if self.notary is not None and (partition := partition_of(path)) is not None:
                self.notary.permit_any(partition, f"repair: the object could not be read, and is kept as {kept_as}")
            return anew

        update(self.copies.lake.objects, path, change)

    def _change(self, path: str, change: Callable[[pa.Table], pa.Table | None], why: str) -> None:
        """Replaces an object by what `change` makes of it, which is said in a seal before."""

        def change_body(body: bytes | None) -> bytes | None:
            if body is None:
                return None
            with reading(path):
                held = open_object(body)
                rows = read_rows(held, with_others(EVENT_SCHEMA, held.schema_arrow))
                changed = change(rows)
            if changed is not None and self.notary is not None and (partition := partition_of(path)) is not None:
                self.notary.permit_change(partition, rows, changed, f"repair: {why}")
            return None if changed is None else encode(changed)

        update(self.copies.lake.objects, path, change_body)


def _chosen(events: pa.Table, keys: Collection[EventKey]) -> pa.Table:
    wanted = set(keys)
    return events.filter(pa.array([key in wanted for key in event_keys(events)], pa.bool_()))


def _is_readable(body: bytes, path: str, schema: pa.Schema) -> bool:
    try:
        with reading(path):
            read_rows(open_object(body), schema).validate(full=True)
    except NewerObjectError:
        raise
    except AuditLogsError:
        return False
    return True
