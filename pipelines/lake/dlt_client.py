"""dlt's client of the lake: a load job that merges by key, and files of dlt's that may be torn."""

import re
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from pathlib import Path
from typing import Any, TypeVar

from dlt.common import json
from dlt.common.destination import DestinationCapabilitiesContext
from dlt.common.destination.client import LoadJob, RunnableLoadJob, StateInfo, StorageSchemaInfo
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.common.destination.typing import PreparedTableSchema
from dlt.common.runtime.run_context import active
from dlt.common.time import ensure_datetime_in_tz
from dlt.common.versioned_state import decompress_state
from dlt.destinations.impl.filesystem.configuration import FilesystemDestinationClientConfiguration
from dlt.destinations.impl.filesystem.filesystem import CURRENT_VERSION, FilesystemClient

from pipelines.host.logs import log
from pipelines.host.memory import give_back
from pipelines.settings.shards import sibling_pattern
from sources.cloudflare_audit_logs.files import read_groups
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, EVENTS_TABLE, QUARANTINE_SCHEMA, QUARANTINE_TABLE

from .bucket import Bucket
from .object_rows import write_events, write_quarantined
from .objects import Folder, Objects, update
from .s3_files import adapted

PIPELINE_NAME = "cloudflare_audit_lake"
_READS = 8
"""States that are read at once."""
_UNREADABLE = (ValueError, TypeError, LookupError, zlib.error)

T = TypeVar("T")


class LakeLoadJob(RunnableLoadJob):
    """Writes a batch idempotently: each object is read, merged by key and replaced if something is new."""

    _job_client: "LakeClient"

    def run(self) -> None:
        """Writes the rows of its file, one object after the other; repeated, it finds its own work done."""
        objects = self._job_client.objects
        if self.load_table_name == QUARANTINE_TABLE:
            for group in read_groups(self._file_path, QUARANTINE_SCHEMA):
                write_quarantined(objects, group)
            return
        write_events(objects, read_groups(self._file_path, EVENT_SCHEMA))
        give_back()


class LakeClient(FilesystemClient):
    """dlt's filesystem client: its files are objects as ours are, atomic in a folder, and events join theirs by key.

    A file of dlt's that something tore must not fail every later start: it is passed over for the one before it, which
    costs reading again what came since, or made anew.
    """

    def __init__(
        self,
        schema: Any,
        config: FilesystemDestinationClientConfiguration,
        capabilities: DestinationCapabilitiesContext,
    ) -> None:
        super().__init__(schema, config, capabilities)
        if not self.is_local_filesystem:
            self.fs_client = adapted(self.fs_client)

    @property
    def objects(self) -> Objects:
        """The dataset's objects."""
        if self.is_local_filesystem:
            return Folder(Path(self.bucket_path), Path(self.dataset_path))
        return Bucket(self.fs_client, self.dataset_path, lambda: Path(active().data_dir) / "lake.objects.lock")

    def get_load_job_class(self, table: PreparedTableSchema, file_path: str) -> type[LoadJob]:
        """Our job for our tables, dlt's for its own."""
        is_ours = table["name"] in {EVENTS_TABLE, QUARANTINE_TABLE}
        return LakeLoadJob if is_ours else super().get_load_job_class(table, file_path)

    def create_dataset(self) -> None:
        """Makes the folder, which may be there: dlt insists that it is not."""
        self.fs_client.makedirs(self.dataset_path, exist_ok=True)

    def list_table_files(self, table_name: str, schema_name: str | None = None) -> list[str]:  # noqa: ARG002  # dlt's signature
        """The files of a table, by name."""
        return [self.pathlib.join(self.dataset_path, path) for path in sorted(self.objects.listing(table_name))]

    def load_markers(self) -> list[str]:
        """The files that say which loads are complete, oldest first."""
        return sorted(self.objects.listing(self.schema.loads_table_name))

    def get_stored_state(self, pipeline_name: str) -> StateInfo | None:
        """The newest state that can be read."""
        listed = list(self._list_dlt_table_files(self.schema.state_table_name, pipeline_name))
        return self._newest(listed, _as_state)

    def stored_states(self) -> list[Any]:
        """The newest state that can be read of each pipeline with cursors."""
        try:
            listed = list(self._list_dlt_table_files(self.schema.state_table_name))
        except DestinationUndefinedEntity:
            return []
        is_ours = re.compile(sibling_pattern(PIPELINE_NAME)).match
        of_pipelines = [
            [file for file in listed if file[1][0] == name]
            for name in sorted({parts[0] for _, parts in listed if is_ours(parts[0])})
        ]
        with ThreadPoolExecutor(_READS) as pool:
            found = pool.map(lambda files: self._newest(files, _as_state), of_pipelines)
            return [decompress_state(state.state) for state in found if state]

    def get_storage_versions(self) -> tuple[int, int]:
        """The versions that `init` says; made anew if it says nothing."""
        names = ("initial_version", "current_version")
        versions = self._read_document(self.init_file_path, lambda document: [int(document[name]) for name in names])
        if versions is None:
            versions = [CURRENT_VERSION, CURRENT_VERSION]
            self._write_to_json_file(self.init_file_path, dict(zip(names, versions, strict=True)))
        return versions[0], versions[1]

    def _get_stored_schema_by_hash_or_newest(
        self, version_hash: str | None = None, schema_name: str | None = None
    ) -> StorageSchemaInfo | None:
        digest = self._to_path_safe_string(version_hash)  # type: ignore[arg-type]  # which may be None
        try:
            listed = list(self._iter_stored_schema_files())
        except DestinationUndefinedEntity:
            return None
        wanted = [f for f in listed if (f[1][2] == digest if digest else schema_name in {None, f[1][0]})]
        return self._newest(wanted, _as_schema)

    def _write_to_json_file(self, filepath: str, data: Any) -> None:
        body = json.dumpb(data)
        update(self.objects, self._relative(filepath), lambda held: None if held == body else body)

    def _newest(self, files: list[tuple[str, list[str]]], interpret: Callable[[Any], T]) -> T | None:
        """The newest of the files that can be read; their names end with the load's id and a hash."""
        paths = sorted(((parts[1], path) for path, parts in files), reverse=True)
        return next((found for _, path in paths if (found := self._read_document(path, interpret))), None)

    def _read_document(self, path: str, interpret: Callable[[Any], T]) -> T | None:
        """A file of dlt's, or None if it is not there, is torn, or JSON that says something else."""
        try:
            stored = self.objects.read(self._relative(path))
            return interpret(json.loadb(stored.body)) if stored else None
        except _UNREADABLE as error:
            log.warning("lake.unreadable", path=path, error=repr(error))
            return None

    def _relative(self, path: str) -> str:
        return str(self.pathlib.relpath(path, self.dataset_path))


def _as_state(document: Any) -> StateInfo:
    decompress_state(document["state"])
    return StateInfo(**document)


def _as_schema(document: Any) -> StorageSchemaInfo:
    json.loads(document["schema"])["name"]
    inserted_at = ensure_datetime_in_tz(document["inserted_at"], UTC)
    return StorageSchemaInfo(**{**document, "inserted_at": inserted_at})
