"""The lake: dlt's filesystem destination with a load job of ours, and what the loop asks of it."""

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.destination.client import LoadJob, RunnableLoadJob, StateInfo, StorageSchemaInfo
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.runtime.run_context import active
from dlt.common.versioned_state import decompress_state
from dlt.destinations import filesystem
from dlt.destinations.impl.filesystem.configuration import FilesystemDestinationClientConfiguration
from dlt.destinations.impl.filesystem.filesystem import CURRENT_VERSION, FilesystemClient

from pipelines.host.file_lock import take_file_lock
from pipelines.host.logs import log
from pipelines.host.memory import give_back
from pipelines.host.transient import can_pass
from pipelines.load.dlt_settings import OwnDestination
from pipelines.load.held_keys import EventKey, event_keys, microseconds
from pipelines.load.store import Refused
from pipelines.settings.shards import WHOLE, Shard, sibling_pattern
from sources.cloudflare_audit_logs.errors import AuditLogsError, BrokenObjectError, TemporaryError
from sources.cloudflare_audit_logs.files import read_groups
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, EVENTS_TABLE, QUARANTINE_SCHEMA, QUARANTINE_TABLE
from sources.cloudflare_audit_logs.streams import Stream, Window

from .atomic_files import AtomicFolder, AtomicLocalFileSystem
from .bucket import Bucket, adapt
from .dialects import STORE_ERRORS
from .object_format import select_columns
from .object_rows import read_object, reading
from .objects import Folder, Objects, update
from .partitions import DATASET, Partition, add_events, by_partition, hours_of
from .quarantine import held_digests, write_quarantined

PIPELINE_NAME = "cloudflare_audit_lake"
_KEPT_LOADS = 100
_READS = 8
"""At once."""

_KEYS = select_columns(EVENT_SCHEMA, ["event_id", "timestamp", "api_version"])

T = TypeVar("T")


class LakeLoadJob(RunnableLoadJob):
    """A batch in, an idempotent write out: each object is read, merged by key and replaced if something is new."""

    _job_client: "LakeClient"

    def run(self) -> None:
        """Writes the rows of its file, one object after the other; repeated, it finds its own work done."""
        objects = self._job_client.objects
        if self.load_table_name == QUARANTINE_TABLE:
            for group in read_groups(self._file_path, QUARANTINE_SCHEMA):
                write_quarantined(objects, group)
            return
        for partition, events in by_partition(read_groups(self._file_path, EVENT_SCHEMA)):
            _write_events(objects, partition.path, events)
        give_back()


def _write_events(objects: Objects, path: str, events: pa.Table) -> None:
    def change(body: bytes | None) -> bytes | None:
        with reading(path):
            return add_events(body, events)

    update(objects, path, change)


class LakeClient(FilesystemClient):
    """dlt's filesystem client: atomic in a folder, and events join their objects by key."""

    def __init__(
        self,
        schema: Any,
        config: FilesystemDestinationClientConfiguration,
        capabilities: DestinationCapabilitiesContext,
    ) -> None:
        super().__init__(schema, config, capabilities)
        if self.is_local_filesystem:
            self.fs_client = AtomicLocalFileSystem(Path(self.bucket_path))
        else:
            adapt(self.fs_client)

    @property
    def objects(self) -> Objects:
        """The dataset's objects."""
        if self.is_local_filesystem:
            files = AtomicFolder(Path(self.bucket_path))
            return Folder(Path(self.dataset_path), files, lock_path(self.bucket_path, "objects"))
        return Bucket(self.fs_client, self.dataset_path, lambda: Path(active().data_dir) / "lake.objects.lock")

    def get_load_job_class(self, table: PreparedTableSchema, file_path: str) -> type[LoadJob]:
        """Our job for our tables, dlt's for its own."""
        is_ours = table["name"] in {EVENTS_TABLE, QUARANTINE_TABLE}
        return LakeLoadJob if is_ours else super().get_load_job_class(table, file_path)

    # A file of dlt's that something tore must not fail every later start: its state is skipped for the one before it,
    # which costs reading again what came since; the other two are made anew.

    def get_stored_state(self, pipeline_name: str) -> StateInfo | None:
        """The newest state that can be read."""
        return self._newest_state(self._list_dlt_table_files(self.schema.state_table_name), pipeline_name)

    def _newest_state(self, listed: Iterable[tuple[str, list[str]]], pipeline_name: str) -> StateInfo | None:
        for _, path in sorted(((parts[1], path) for path, parts in listed if parts[0] == pipeline_name), reverse=True):
            state = self._read_document(path, _as_state)
            if state is not None:
                return state
        return None

    def stored_states(self) -> list[Any]:
        """The newest state that can be read of each pipeline with cursors."""
        try:
            listed = list(self._list_dlt_table_files(self.schema.state_table_name))
        except (DestinationUndefinedEntity, FileNotFoundError):
            return []
        names = {parts[0] for _, parts in listed if re.match(sibling_pattern(PIPELINE_NAME), parts[0])}
        with ThreadPoolExecutor(_READS) as pool:
            found = pool.map(lambda name: self._newest_state(listed, name), sorted(names))
            return [decompress_state(state.state) for state in found if state]

    def get_storage_versions(self) -> tuple[int, int]:
        """What `init` says; made anew if it says nothing."""
        if self._read_document(self.init_file_path, _as_versions) is None:
            versions = {"initial_version": CURRENT_VERSION, "current_version": CURRENT_VERSION}
            self.fs_client.write_text(self.init_file_path, json.dumps(versions), encoding="utf-8")
        return super().get_storage_versions()

    def _get_stored_schema_by_hash_or_newest(self, *wanted: Any, **named: Any) -> StorageSchemaInfo | None:
        """The stored schema that was asked for, after the ones that cannot be read have been removed."""
        try:
            stored = super()._get_stored_schema_by_hash_or_newest(*wanted, **named)
            if stored is None or _as_schema(stored._asdict()):
                return stored
        except UNREADABLE:
            pass
        for path, _ in list(self._iter_stored_schema_files()):
            if self._read_document(path, _as_schema) is None:
                self._delete_file(path)
        return super()._get_stored_schema_by_hash_or_newest(*wanted, **named)

    def load_markers(self) -> list[str]:
        """The files that say which loads are complete, oldest first."""
        return sorted(self.list_table_files(self.schema.loads_table_name))

    def _read_document(self, path: str, interpret: Callable[[Any], T]) -> T | None:
        """A file of dlt's, or None if it is torn, or JSON that says something else."""
        try:
            return interpret(json.loads(self.fs_client.read_text(path, encoding="utf-8")))
        except UNREADABLE as error:
            log.warning("lake.unreadable", path=path, error=repr(error))
            return None


UNREADABLE = (ValueError, TypeError, LookupError, zlib.error)


def _as_state(document: Any) -> StateInfo:
    decompress_state(document["state"])
    return StateInfo(**document)


def _as_versions(document: Any) -> tuple[int, int]:
    return int(document["initial_version"]), int(document["current_version"])


def _as_schema(document: Any) -> StorageSchemaInfo:
    json.loads(document["schema"])["name"]
    return StorageSchemaInfo(**document)


class AuditLake(OwnDestination, filesystem):
    """The dlt destination. Configured as dlt's own, under `destination.filesystem`."""

    __module__ = "pipelines.lake"  # where stored dlt states look for it

    def _raw_capabilities(self) -> DestinationCapabilitiesContext:
        capabilities = super()._raw_capabilities()
        # Our load job merges Parquet by key; dlt believes that plain files can only be appended.
        capabilities.preferred_loader_file_format = "parquet"
        capabilities.supported_merge_strategies = ["insert-only"]
        capabilities.merge_strategies_selector = None  # type: ignore[assignment]  # its default, too
        capabilities.loader_parallelism_strategy = "sequential"  # two jobs may have events of one hour
        return capabilities

    @property
    def client_class(self) -> type[FilesystemClient]:
        """The client above."""
        return LakeClient


class Lake:
    """What the loop asks of the folder or bucket besides loading."""

    name = "lake"
    dataset_name = DATASET
    oldest_kept = None

    def __init__(self, shard: Shard = WHOLE) -> None:
        self.pipeline_name = PIPELINE_NAME + shard.suffix
        self._shard = shard
        self._objects: Objects | None = None
        self._lock: IO[str] | None = None

    def destination(self) -> AuditLake:
        """What a dlt pipeline loads into."""
        return AuditLake(destination_name="filesystem")

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Makes one clear message of whatever the store raises."""
        try:
            yield
        except IsADirectoryError as error:
            hint = "something else writes into the lake: move it away"
            problem = "there is a folder where an object should be"
            raise BrokenObjectError(problem, detail=str(error), hint=hint) from error
        except STORE_ERRORS as error:
            file = getattr(error, "filename", None)
            hint = f"check {file}, its rights and space" if file else "check S3_ENDPOINT, S3_BUCKET and its keys"
            kind = TemporaryError if can_pass(error) else AuditLogsError
            raise kind("the lake is not available", detail=" ".join(str(error).split()), hint=hint) from error

    def open(self, client: LakeClient, *, takes_lock: bool) -> None:
        """Takes the writer's lock of a folder, or asks a bucket for its dialect. Safe to repeat.

        Raises:
            TemporaryError: another process loads this folder, or the store is not there.
        """
        self.close()
        with self.translated_errors():
            self._objects = client.objects
            if isinstance(self._objects, Bucket):
                # Once an opening; what is opened beside a loop of this process speaks as that does.
                if takes_lock:
                    self._objects.learn()
                else:
                    _ = self._objects.dialect
                return
            if not takes_lock:
                return
            Path(client.bucket_path).mkdir(parents=True, exist_ok=True)
            self._lock = lock_path(client.bucket_path, f"writer{self._shard.suffix}").open("a+", errors="replace")
            hint = "one loop per lake (or shard of its accounts): stop the other one"
            take_file_lock(self._lock, f"loads the lake {client.bucket_path}", hint=hint)
            AtomicFolder(Path(client.bucket_path)).remove_abandoned()

    def states(self, client: LakeClient) -> list[Any]:
        """See Store."""
        return client.stored_states()

    def verify_lock(self) -> None:
        """A file lock lives as long as the process, and a bucket needs none."""

    def after_load(self, client: LakeClient) -> bool:  # noqa: ARG002  # a store's signature
        """Nothing: an object is all there is to it."""
        return True

    def take_refused(self) -> Refused:
        """None ever is."""
        return {}

    def prune(self, client: LakeClient) -> None:
        """Keeps the newest load markers; dlt itself keeps no more states than it is told to."""
        markers = client.load_markers()
        for path in markers[:-_KEPT_LOADS]:
            with suppress(FileNotFoundError):  # another shard does the same
                client.fs_client.rm_file(path)

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    def event_keys(self, stream: Stream, since: datetime, before: datetime) -> set[EventKey]:
        """The keys of the stream's events in `[since, before)`; reads the objects of these hours."""
        low, high = microseconds(since), microseconds(before)
        keys: set[EventKey] = set()
        with self.translated_errors():
            for hour in hours_of(since, before):
                path = Partition(stream.account_id, hour).path
                table = read_object(self._open_objects, path, _KEYS, in_parts=False)
                keys.update(event_keys(table.filter(pc.equal(table["api_version"], stream.api_version))))
        return {key for key in keys if low <= key[1] < high}

    def held_digests(self, stream: Stream, digests: Sequence[str], received: Window) -> set[str]:
        """See Store."""
        with self.translated_errors():
            return held_digests(self._open_objects, stream, digests, received)

    @property
    def _open_objects(self) -> Objects:
        if self._objects is None:
            raise TemporaryError("the lake is not open")
        return self._objects


def lock_path(lake_folder: str, purpose: str) -> Path:
    """The lock file of a folder lake: beside it, so that nothing but dlt's files and ours is in it."""
    folder = Path(lake_folder)
    return folder.with_name(f".{folder.name}.{purpose}.lock")
