"""The lake: dlt's destination, and the loop's `Store`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import pyarrow.compute as pc
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.destinations import filesystem

from pipelines.host.file_lock import take_file_lock
from pipelines.host.transient import can_pass
from pipelines.load.dlt_settings import OwnDestination
from pipelines.load.held_keys import microseconds
from pipelines.load.store import Refused, client_of
from pipelines.settings.shards import WHOLE, Shard
from sources.cloudflare_audit_logs.errors import AuditLogsError, BrokenObjectError, TemporaryError
from sources.cloudflare_audit_logs.events import EventKey, event_keys
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA
from sources.cloudflare_audit_logs.streams import Stream, Window

from .bucket import Bucket
from .dialects import STORE_ERRORS
from .dlt_client import PIPELINE_NAME, LakeClient
from .object_format import select_columns
from .object_rows import held_digests, read_object
from .objects import DATASET, Objects, lock_path, remove_abandoned
from .partitions import Partition, hours_of

_KEPT_LOADS = 100
_KEYS = select_columns(EVENT_SCHEMA, ["event_id", "timestamp", "api_version"])


class AuditLake(OwnDestination, filesystem):
    """The dlt destination. Configured as dlt's own, under `destination.filesystem`."""

    __module__ = "pipelines.lake"  # where stored dlt states look for it
    client_class = LakeClient

    def _raw_capabilities(self) -> DestinationCapabilitiesContext:
        capabilities = super()._raw_capabilities()
        # Our load job merges Parquet by key; dlt believes that plain files can only be appended.
        capabilities.preferred_loader_file_format = "parquet"
        capabilities.supported_merge_strategies = ["insert-only"]
        capabilities.merge_strategies_selector = None  # type: ignore[assignment]  # its default, too
        capabilities.loader_parallelism_strategy = "sequential"  # two jobs may have events of one hour
        return capabilities


class Lake:
    """The folder or bucket as the loop's `Store`."""

    name = "lake"
    dataset_name = DATASET
    oldest_kept = None

    def __init__(self, shard: Shard = WHOLE) -> None:
        self.pipeline_name = PIPELINE_NAME + shard.suffix
        self._shard = shard
        self._objects: Objects | None = None
        self._lock: IO[str] | None = None

    def destination(self) -> AuditLake:
        """See Store."""
        return AuditLake(destination_name="filesystem")

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """See Store."""
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
                _ = self._objects.learn() if takes_lock else self._objects.dialect
            elif takes_lock:
                folder = Path(client.bucket_path)
                folder.mkdir(parents=True, exist_ok=True)
                self._lock = lock_path(folder, f"writer{self._shard.suffix}").open("a+", errors="replace")
                hint = "one loop per lake (or shard of its accounts): stop the other one"
                take_file_lock(self._lock, f"loads the lake {folder}", hint=hint)
                remove_abandoned(folder)

    def states(self, client: LakeClient) -> list[Any]:
        """See Store."""
        return client.stored_states()

    def verify_lock(self) -> None:
        """Does nothing: a file lock lives as long as the process, and a bucket needs none."""

    def after_load(self, client: LakeClient) -> bool:  # noqa: ARG002  # a store's signature
        """Does nothing: an object needs nothing around it."""
        return True

    def take_refused(self) -> Refused:
        """None ever is."""
        return {}

    def prune(self, client: LakeClient) -> None:
        """Keeps the newest load markers; dlt itself keeps no more states than its setting says."""
        for path in client.load_markers()[:-_KEPT_LOADS]:
            client.objects.delete(path)

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    def event_keys(self, stream: Stream, since: datetime, before: datetime) -> set[EventKey]:
        """See Store; reads the objects of these hours."""
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


def lake_url(settings_url: str) -> str:
    """The lake's address as dlt resolves it, whose own names win over the settings; theirs if dlt cannot say."""
    try:
        return str(client_of(Lake()).config.bucket_url)
    except AuditLogsError:
        return settings_url
