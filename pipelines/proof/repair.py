"""Fills what was found missing, from the side that has it: the API first, then the lake, then the warehouse.

What is added goes the way of the sweep: idempotent, beside the loop, no cursor. What is taken out or replaced (doubles,
payloads that differ, objects that cannot be read) is replaced in one transaction or one conditional write; an object
that cannot be read is kept beside the new one.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from dlt.destinations.impl.postgres.configuration import PostgresCredentials

from pipelines.fetch.reading import FetchPages, Part, Step
from pipelines.fetch.refusals import is_refusal, refused_versions
from pipelines.host.logs import log
from pipelines.lake.object_format import encode, open_object, read_rows, with_others
from pipelines.lake.object_rows import NewerObjectError, reading
from pipelines.lake.objects import update
from pipelines.lake.partitions import HOUR, Partition, merge_events, only_of, replace_events, share_out, split
from pipelines.lake.reads import LakeReader
from pipelines.load.held_keys import EventKey, event_keys
from pipelines.load.loader import Sidecar
from pipelines.warehouse.connection import connect
from pipelines.warehouse.reads import WarehouseReader
from pipelines.warehouse.write import update_events
from sources.cloudflare_audit_logs.errors import AuditLogsError, HiddenEventsError, RefusedError
from sources.cloudflare_audit_logs.events import Page
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, QUARANTINE_SCHEMA
from sources.cloudflare_audit_logs.streams import API_VERSIONS, Stream, Window

from .compare import ApiSide, HourCheck

BROKEN_FOLDER = "_broken"
"""Where objects that cannot be read are kept."""


@dataclass
class Repair:
    """The sides, and the ways into the stores."""

    fetch_pages: FetchPages | None
    warehouse: WarehouseReader
    lake: LakeReader
    sidecars: dict[str, Sidecar]
    owner: PostgresCredentials
    """Who may replace events in the warehouse."""
    schema: str
    is_asked_for: Callable[[Stream], bool]
    """True if the API is asked for a stream."""

    def mend(self, check: HourCheck) -> None:
        """Makes both stores hold each event of the hour once, and the same of it.

        Raises:
            AuditLogsError: a side could not be read, or a store not be written. What was done until then stays.
        """
        stream, partition = check.stream, Partition(check.stream.account_id, check.hour)
        if check.stray:
            self._put_into_place(partition)
        if check.broken is None:
            self._fill(stream, check.window, check, self._shown(stream, check.window))
            return
        self._set_aside(partition.path, EVENT_SCHEMA, encode(EVENT_SCHEMA.empty_table()))
        # The object held all of the hour, of every version, whatever was asked for.
        for version in API_VERSIONS:
            whole = Window(check.hour, check.hour + HOUR)
            of_version = Stream(stream.account_id, version)
            shown = self._shown(stream, whole) if of_version == stream else self._shown_beside(of_version, whole)
            self._fill(of_version, whole, check, shown)

    def mend_quarantine(self, account_id: str, window: Window, received: Window) -> bool:
        """Makes the broken objects of an account's quarantine of some days anew; False if nobody has anything for them.

        They hold what no other object holds of what the API shows of the window, and of all that the warehouse has.
        Raises as above.
        """
        broken = self.lake.broken_quarantines([account_id], received).get(account_id, {})
        streams = [Stream(account_id, version) for version in API_VERSIONS]
        shown = self._quarantined_of_api(streams, window)
        lost = pa.concat_tables(self._lost(stream, shown[stream], broken) for stream in streams)
        for path, rows in share_out(lost, sorted(broken)):
            # In one write: nobody compares later what is in it.
            self._set_aside(path, QUARANTINE_SCHEMA, encode(rows))
            log.info("repair.quarantine", account=account_id, path=path, events=rows.num_rows)
        for stream, quarantined in shown.items():
            page = Page(EVENT_SCHEMA.empty_table(), quarantined)
            for sidecar in self.sidecars.values():
                sidecar.load(Step({stream: Part(window, [page], is_last=True)}))
        return bool(lost.num_rows)

    def _shown(self, stream: Stream, window: Window) -> pa.Table:
        """Returns what the API shows of a window."""
        if self.fetch_pages is None:
            return EVENT_SCHEMA.empty_table()
        return ApiSide.read(self.fetch_pages, stream, window, with_contents=True).events(stream, window)

    def _lost(self, stream: Stream, shown: pa.Table, broken: Collection[str]) -> pa.Table:
        """Each event that the API or the warehouse has, and no object that can be read."""
        digests = {*self.warehouse.quarantined_digests(stream), *shown["digest"].to_pylist()}
        lost = digests - self.lake.held_digests(stream, sorted(digests), but=broken)
        # The warehouse's first: it says when they were received.
        rows = pa.concat_tables([self.warehouse.quarantined(stream, sorted(lost)), shown])
        return rows.filter(pc.is_in(rows["digest"], pa.array(lost, pa.string())))

    def _shown_beside(self, stream: Stream, window: Window) -> pa.Table:
        """Returns the same of another version than the one that is mended; nothing where it is not read or refused."""
        if not self.is_asked_for(stream):
            return EVENT_SCHEMA.empty_table()
        try:
            return self._shown(stream, window)
        except RefusedError as error:
            if not is_refusal(error):
                raise
            _tell_without_api(stream, error)
            return EVENT_SCHEMA.empty_table()

    def _quarantined_of_api(self, streams: Sequence[Stream], window: Window) -> dict[Stream, pa.Table]:
        """Returns what the API shows of each version that is read; of some, one at least has to be readable."""
        shown = dict.fromkeys(streams, QUARANTINE_SCHEMA.empty_table())
        if self.fetch_pages is None:
            return shown
        readable: set[Stream] = set()
        refused: dict[Stream, RefusedError] = {}
        for stream in filter(self.is_asked_for, streams):
            try:
                shown[stream] = pa.concat_tables(_quarantined(self.fetch_pages, stream, window))
                readable.add(stream)
            except RefusedError as error:
                refused[stream] = error
        alone = refused_versions(refused, readable)
        for stream, refusal in refused.items():
            if stream not in alone:
                raise refusal
            _tell_without_api(stream, refusal)
        return shown

    def _fill(self, stream: Stream, window: Window, check: HourCheck, from_api: pa.Table) -> None:
        path = Partition(stream.account_id, check.hour).path
        if check.doubled:
            # Merged with nothing, what is there twice is there once.
            self._change(path, lambda held: merge_events(held, EVENT_SCHEMA.empty_table()))
        self._add("warehouse", stream, window, from_api)
        self._add("lake", stream, window, from_api)
        self._add("warehouse", stream, window, self.lake.events(stream, window))
        self._add("lake", stream, window, self.warehouse.events(stream, window))
        # In this order, merging keeps what the API says, and what the lake says of all else.
        merged = merge_events(from_api, self.lake.events(stream, window))
        right = from_api if merged is None else merged
        differing = check.differing or {}
        # Of a double with two texts, one was kept: it need not be the API's.
        in_lake = [*differing.get("lake", []), *check.doubled]
        self._replace({"lake": in_lake, "warehouse": differing.get("warehouse", [])}, path, right)

    def _put_into_place(self, partition: Partition) -> None:
        """Brings rows of an object where they belong, and takes them out of it."""
        for place, rows in split(self.lake.stray(partition)):
            for version in rows["api_version"].unique().to_pylist():
                its_rows = rows.filter(pc.equal(rows["api_version"], version))
                window = Window(place.hour, place.hour + HOUR)
                self._add("lake", Stream(place.account_id, version), window, its_rows)
        self._change(partition.path, lambda held: only_of(partition, held)[0])

    def _add(self, store: str, stream: Stream, window: Window, events: pa.Table) -> None:
        """Adds what the store lacks of the events."""
        if not events.num_rows:
            return
        part = Part(window, [Page(events, QUARANTINE_SCHEMA.empty_table())], is_last=True)
        added = self.sidecars[store].load(Step({stream: part}, events.num_rows))
        for batch in added.values():
            log.info("repair.added", store=store, events=batch.events, hour=window.since.isoformat())

    def _set_aside(self, path: str, schema: pa.Schema, anew: bytes) -> None:
        """Keeps an object that cannot be read under another name, and puts a new one in its place."""

        def change(body: bytes | None) -> bytes | None:
            if body is None or _is_readable(body, path, schema):
                return None
            # Not beside it: readers of the lake take every file below the events for one of them.
            kept_as = f"{BROKEN_FOLDER}/{path}-{hashlib.sha256(body).hexdigest()[:8]}"
            if self.lake.objects.read(kept_as) is None:
                self.lake.objects.write(kept_as, body, None)
            log.warning("repair.set_aside", path=path, kept_as=kept_as)
            return anew

        update(self.lake.objects, path, change)

    def _replace(self, differing: dict[str, list[EventKey]], path: str, right: pa.Table) -> None:
        keys = event_keys(right)

        def chosen(wanted: Sequence[EventKey]) -> pa.Table:
            is_wanted = set(wanted)
            return right.filter(pa.array([key in is_wanted for key in keys], pa.bool_()))

        in_lake, in_warehouse = chosen(differing.get("lake", [])), chosen(differing.get("warehouse", []))
        if in_lake.num_rows:
            self._change(path, lambda held: replace_events(held, in_lake))
            log.warning("repair.replaced", store="lake", events=in_lake.num_rows, path=path)
        if in_warehouse.num_rows:
            with self.warehouse.translated_errors(), connect(self.owner, autocommit=True) as connection:
                update_events(connection, self.schema, in_warehouse)
            log.warning("repair.replaced", store="warehouse", events=in_warehouse.num_rows)

    def _change(self, path: str, change: Callable[[pa.Table], pa.Table | None]) -> None:
        """Replaces an object by what `change` makes of it."""

        def change_body(body: bytes | None) -> bytes | None:
            if body is None:
                return None
            with reading(path):
                held = open_object(body)
                changed = change(read_rows(held, with_others(EVENT_SCHEMA, held.schema_arrow)))
            return None if changed is None else encode(changed)

        update(self.lake.objects, path, change_body)


def _quarantined(fetch_pages: FetchPages, stream: Stream, window: Window) -> Iterator[pa.Table]:
    """All that the API shows, even where it does not show all."""
    yield QUARANTINE_SCHEMA.empty_table()
    try:
        for page in fetch_pages(stream, window, "asc"):
            yield page.quarantined
    except HiddenEventsError as error:
        log.error("repair.hidden", account=stream.account_id, version=stream.api_version, error=error)


def _tell_without_api(stream: Stream, error: RefusedError) -> None:
    about = {"account": stream.account_id, "version": stream.api_version, "error": error}
    log.info("repair.without_api", **about, hint="its events come from the other store alone")


def _is_readable(body: bytes, path: str, schema: pa.Schema) -> bool:
    try:
        with reading(path):
            read_rows(open_object(body), schema).validate(full=True)
    except NewerObjectError:
        raise
    except AuditLogsError:
        return False
    return True
