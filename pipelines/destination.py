"""One of the two pipelines: a store, the dlt pipeline that loads it, and what is remembered of both.

The destination is the checkpoint. The pipeline's working directory is scratch: thrown away at every opening, which
happens at the start, after a failed load, and when the destination's newest state is not the one last seen (restored
from a backup). So nothing that a crash leaves behind, and nothing that we remember, can make it skip an event.
"""

import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, Protocol, cast

import dlt
import pyarrow.compute as pc
from dlt.common.destination.client import JobClientBase, WithStateSync
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.common.exceptions import DltException
from dlt.common.schema import Schema
from dlt.pipeline.state_sync import load_pipeline_state_from_destination

from sources.cloudflare_audit_logs import SOURCE_NAME, Batch, Position, cloudflare_audit_logs, stored_position
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError
from sources.cloudflare_audit_logs.events import Page
from sources.cloudflare_audit_logs.streams import Stream

from .known import EventKey, Known, event_keys

_KEPT_PACKAGES = 10  # of dlt's completed load packages, for `dlt pipeline … info`


class Store(Protocol):
    """What PostgreSQL and the lake have in common."""

    name: str
    pipeline_name: str
    dataset_name: str

    def destination(self) -> Any:
        """The dlt destination."""

    def translated_errors(self) -> AbstractContextManager[None]:
        """A block that raises the store's errors as ours."""

    def open(self, client: Any) -> None:
        """Takes the writer's lock and prepares the store; safe to repeat."""

    def verify_lock(self) -> None:
        """Raises if the lock may be lost."""

    def close(self) -> None:
        """Gives the lock back."""

    def event_keys(self, stream: Stream, since: datetime, before: datetime) -> set[EventKey]:
        """The keys of the events held in `[since, before)`."""

    def quarantined_digests(self, stream: Stream) -> set[str]:
        """The digests of the quarantined events held."""


class Destination:
    """A store as the loop sees it: where it stands, what it lacks, and how it is loaded."""

    def __init__(self, store: Store, *, pipelines_dir: Path, lag: timedelta) -> None:
        self.name = store.name
        self.opening = 0
        """Counts the openings: a reading that was planned in an earlier one is not for this destination any more."""
        self._store, self._pipelines_dir, self._lag = store, pipelines_dir, lag
        self._pipeline: dlt.Pipeline | None = None
        self._state: Mapping[str, Any] = {}
        """The pipeline's state as last seen in the store."""
        self._known: dict[Stream, Known] = {}
        self._directory_lock: IO[str] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it can be asked and loaded."""
        return self._pipeline is not None

    def open(self) -> None:
        """Takes the writer's lock, throws the working directory away, and restores the state from the store.

        Raises:
            AuditLogsError: the store is down, locked by another process, or not ours.
        """
        self.opening += 1
        self._known.clear()
        with self._store.translated_errors(), _translated_dlt_errors(self.name):
            self._take_working_directory()
            self._store.open(self._client())
            shutil.rmtree(self._pipelines_dir / self._store.pipeline_name, ignore_errors=True)
            pipeline = dlt.pipeline(
                self._store.pipeline_name,
                pipelines_dir=str(self._pipelines_dir),
                destination=self._store.destination(),
                dataset_name=self._store.dataset_name,
            )
            pipeline.sync_destination()
        self._pipeline, self._state = pipeline, pipeline.state

    def close(self) -> None:
        """Gives the lock back and forgets everything. What was loaded stays loaded."""
        self._pipeline = None
        self._store.close()
        if self._directory_lock is not None:
            self._directory_lock.close()
        self._directory_lock = None

    def position(self, stream: Stream) -> Position | None:
        """How far the store holds the stream; None if it never saw it."""
        return stored_position(self._state, stream)

    def since(self, stream: Stream) -> datetime | None:
        """Where the next window starts: the cursor minus the safety lag; None for a stream never seen."""
        position = self.position(stream)
        return None if position is None else max(position.cursor - self._lag, position.begin)

    def lacking(self, stream: Stream, page: Page, before: datetime) -> Page:
        """The part of a page that is not in the store.

        Events at or after `before` wait for their window. Those older than was asked for are kept: what the API shows
        is not for us to drop.
        """
        known = self._known.get(stream)
        with self._store.translated_errors():
            if known is None:
                known = self._known[stream] = Known(digests=self._store.quarantined_digests(stream))
            events = known.lacking(
                page.events.filter(pc.less(page.events["timestamp"], before)),
                lambda since, before: self._store.event_keys(stream, since, before),
            )
        is_new = [digest not in known.digests for digest in page.quarantined["digest"].to_pylist()]
        return Page(events, page.quarantined if all(is_new) else page.quarantined.filter(is_new))

    def load(self, batches: Mapping[Stream, Batch]) -> dict[Stream, Batch]:
        """Writes what the batches bring and commits their cursors; returns the batches that were new.

        A batch that brings nothing and moves no cursor is left out; if that leaves none, dlt is not started.

        Raises:
            AuditLogsError: nothing counts as loaded; open again before the next load.
        """
        new = {stream: batch for stream, batch in batches.items() if self._is_new(stream, batch)}
        if new:
            pipeline = self._open_pipeline
            with self._store.translated_errors(), _translated_dlt_errors(self.name):
                self._store.verify_lock()
                self._verify_state(pipeline)
                pipeline.run(cloudflare_audit_logs(new, self._lag.total_seconds()))
            self._state = pipeline.state
            self._prune_packages()
        for stream, batch in batches.items():
            self._remember(stream, batch)
        return new

    def mark_complete(self, stream: Stream, since: datetime) -> None:
        """Says that a window of the stream was read to its end: from there on only we add to the store."""
        if stream in self._known:
            self._known[stream].complete(since)

    @property
    def _open_pipeline(self) -> dlt.Pipeline:
        if self._pipeline is None:
            raise TemporaryError(f"the {self.name} is not open")
        return self._pipeline

    def _take_working_directory(self) -> None:
        """One process on this host works in the directory, whatever lock the store itself has."""
        try:
            if self._directory_lock is None:
                self._pipelines_dir.mkdir(parents=True, exist_ok=True)
                self._directory_lock = (self._pipelines_dir / f"{self._store.pipeline_name}.lock").open("a")
            fcntl.flock(self._directory_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            hint = "stop the other one, or give this one a DATA_DIR of its own"
            raise TemporaryError(f"another process on this host loads the {self.name}", hint=hint) from error
        except OSError as error:
            raise TemporaryError(
                f"{self._pipelines_dir} cannot be written",
                detail=str(error),
                hint="check DATA_DIR, its rights and space",
            ) from error

    def _client(self) -> JobClientBase:
        """Dlt's client of the destination, without a pipeline: the lock comes before the working directory."""
        destination = self._store.destination()
        bound = destination.spec()._bind_dataset_name(self._store.dataset_name)  # noqa: SLF001  # as dlt does
        client: JobClientBase = destination.client(Schema(SOURCE_NAME), bound)
        return client

    def _is_new(self, stream: Stream, batch: Batch) -> bool:
        position = self.position(stream)
        return bool(batch.events or batch.quarantined) or position is None or batch.cursor > position.cursor

    def _verify_state(self, pipeline: dlt.Pipeline) -> None:
        """The newest state in the destination must be the one last seen: otherwise its data are not those we know."""
        with pipeline.destination_client() as client:
            stored = _stored_state(client, self._store.pipeline_name)
        seen = self._state if self._state.get("sources") else {}
        if stored.get("_version_hash") != seen.get("_version_hash"):
            raise TemporaryError(
                f"the {self.name} is not as it was last seen",
                detail="its newest pipeline state is another one",
                hint="restored from a backup, or loaded by someone else; it is read again from where it stands now",
            )

    def _remember(self, stream: Stream, batch: Batch) -> None:
        known = self._known.get(stream)
        if known is None:
            return
        for table in batch.events:
            known.keys.update(event_keys(table))
        for table in batch.quarantined:
            known.digests.update(table["digest"].to_pylist())
        known.forget_before(batch.cursor - self._lag)

    def _prune_packages(self) -> None:
        packages = (self._pipelines_dir / self._store.pipeline_name / "load" / "loaded").glob("*")
        for package in sorted(packages)[:-_KEPT_PACKAGES]:
            shutil.rmtree(package, ignore_errors=True)


def _stored_state(client: JobClientBase, pipeline_name: str) -> Mapping[str, Any]:
    try:
        return load_pipeline_state_from_destination(pipeline_name, cast("WithStateSync", client)) or {}
    except DestinationUndefinedEntity:
        return {}


@contextmanager
def _translated_dlt_errors(name: str) -> Iterator[None]:
    """Dlt wraps what happens in a load in layers of its own; the innermost one says what it was."""
    try:
        yield
    except AuditLogsError:
        raise
    except DltException as error:
        cause = _root_cause(error)
        if isinstance(cause, AuditLogsError):
            raise cause from error
        detail = " ".join(f"{type(cause).__name__}: {cause}".split())[:500]
        raise TemporaryError(f"the {name} could not be loaded", detail=detail) from error


def _root_cause(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
