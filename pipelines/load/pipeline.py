"""A dlt pipeline whose working directory is scratch: thrown away at every opening, used by one process at a time.

Left alone, the directory was wedged for good by 3 of 61 kills, and made the pipeline skip events after a restore.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import dlt
import pyarrow as pa
from dlt.common.exceptions import DltException, TransientException

from pipelines.host.file_lock import take_file_lock
from pipelines.host.transient import can_pass
from sources.cloudflare_audit_logs import Batch, cloudflare_audit_logs
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError
from sources.cloudflare_audit_logs.streams import Stream

from .dlt_settings import settle_configuration
from .store import Store, client_of

_KEPT_PACKAGES = 10  # of dlt's completed load packages, for `dlt pipeline … info`


class ScratchPipeline:
    """One dlt pipeline of a store. All it raises is an `AuditLogsError`, after which it is to be opened again."""

    def __init__(self, store: Store, name: str, pipelines_dir: Path) -> None:
        self._store, self._name, self._pipelines_dir = store, name, pipelines_dir
        self._pipeline: dlt.Pipeline | None = None
        self._destination: Any = None
        """The store's, from its opening on: it remembers its configuration, which takes dlt 30 ms to resolve."""
        self._lock: IO[str] | None = None

    @property
    def is_open(self) -> bool:
        """True if it can load."""
        return self._pipeline is not None

    @property
    def state(self) -> Any:
        """Dlt's state of the pipeline, as restored or as left by the last load."""
        with self._translated_errors():
            return self._opened.state

    def open(self) -> None:
        """Throws the working directory away and, for the store's own pipeline, restores the state from the store.

        Raises:
            TemporaryError: another process uses the directory, it cannot be written, or the store is down.
        """
        with self._translated_errors():
            self.take_lock()
            shutil.rmtree(self._pipelines_dir / self._name, ignore_errors=True)
            settle_configuration()
            pipeline = dlt.pipeline(
                self._name,
                pipelines_dir=str(self._pipelines_dir),
                destination=self._opened_destination,
                dataset_name=self._store.dataset_name,
            )
            if self._name == self._store.pipeline_name:
                pipeline.sync_destination()
            else:
                pipeline.config.restore_from_destination = False
        self._pipeline = pipeline

    def load(self, batches: Mapping[Stream, Batch], lags: Mapping[Stream, float] | None) -> None:
        """Loads all batches or none, and notes in them how many of their events the store refused."""
        with self._translated_errors():
            self._opened.run(cloudflare_audit_logs(batches, lags))
            packages = (self._pipelines_dir / self._name / "load" / "loaded").glob("*")
            for package in sorted(packages)[:-_KEPT_PACKAGES]:
                shutil.rmtree(package, ignore_errors=True)
        for stream, events in self._store.take_refused().items():
            batches[stream].refused = events

    def close(self) -> None:
        """Leaves the directory to others."""
        self._pipeline = self._destination = None
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    @contextmanager
    def client(self) -> Iterator[Any]:
        """Dlt's client of the store, whether or not the pipeline is open."""
        with self._translated_errors():
            yield client_of(self._store, self._opened_destination)

    def take_lock(self) -> None:
        """Makes this process the only one on this host that works in the directory, whatever lock the store has.

        Raises:
            TemporaryError: another process does, with its name.
        """
        if self._lock is None:
            self._pipelines_dir.mkdir(parents=True, exist_ok=True)
            self._lock = (self._pipelines_dir / f"{self._name}.lock").open("a+", errors="replace")
        hint = "stop the other one, or give this one a DATA_DIR of its own"
        if self._name != self._store.pipeline_name:  # a command beside the loop, which ends by itself
            hint = "wait until it has ended, and run this again"
        take_file_lock(self._lock, f"on this host loads the {self._store.name}", hint=hint)

    @property
    def _opened_destination(self) -> Any:
        self._destination = self._destination or self._store.destination()
        return self._destination

    @property
    def _opened(self) -> dlt.Pipeline:
        if self._pipeline is None:
            raise TemporaryError(f"the {self._store.name} is not open")
        return self._pipeline

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Raises the innermost of the errors that dlt wraps in layers of its own."""
        try:
            with self._store.translated_errors():
                yield
        except AuditLogsError:
            raise
        except (DltException, OSError, ValueError, pa.ArrowException) as error:
            cause: BaseException = error
            while not isinstance(cause, OSError) and (inner := cause.__cause__ or cause.__context__) is not None:
                cause = inner
            if isinstance(cause, AuditLogsError):
                raise cause from error
            detail = " ".join(f"{type(cause).__name__}: {cause}".split())[:500]
            file = getattr(cause, "filename", None) or self._pipelines_dir
            hint = f"check {file}, its rights and space" if isinstance(cause, OSError) else ""
            kind = TemporaryError if isinstance(cause, TransientException) or can_pass(cause) else AuditLogsError
            raise kind(f"the {self._store.name} could not be loaded", detail=detail, hint=hint) from error
