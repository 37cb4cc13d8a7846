"""The spool: events that were read and are not loaded yet, as files that both pipelines take in. Scratch, never state.

A part of a long window goes to disk as it is read, so that a load can be large and memory is not. A destination that
lacks all of such a part loads its file as it is; what it lacks of others is written for it alone.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.fetch.reading import DEFAULT_LIMITS, Part, Step, StepLimits, StreamReading
from pipelines.host.file_lock import free_number
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError
from sources.cloudflare_audit_logs.events import Page
from sources.cloudflare_audit_logs.files import PageFile, RowFile, RowWriter
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, QUARANTINE_SCHEMA
from sources.cloudflare_audit_logs.streams import Stream

LEAST_ROWS = 200
"""A smaller window stays in memory: a poll that sees some known events alone writes no file."""

LONGEST_SECONDS = 5
"""A part is read for so long at most: others of the same token wait for their turn."""


class SpooledReading:
    """A reading in parts that are on disk."""

    def __init__(
        self,
        spool: "Spool",
        reading: StreamReading,
        limits: StepLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool, self._reading, self._limits, self._clock = spool, reading, limits, clock
        self._error: AuditLogsError | None = None

    def read(self) -> Part:
        """The next part: what the limits allow, or the rest.

        Raises:
            AuditLogsError: it could not be read, or the spool not be written; what came before stands.
        """
        if self._error is not None:
            raise self._error
        part = self._reading.read()
        if part.is_last and part.rows < LEAST_ROWS:
            return part
        return self._spooled(part)

    def _spooled(self, part: Part) -> Part:
        """The part and what follows on it, as one."""
        give_up_at = self._clock() + LONGEST_SECONDS
        with self._spool.writing(EVENT_SCHEMA) as events, self._spool.writing(QUARANTINE_SCHEMA) as quarantined:
            while True:
                groups = [group for page in part.pages for group in page.event_groups()]
                events.write(pa.concat_tables([EVENT_SCHEMA.empty_table(), *groups]))
                for page in part.pages:
                    for group in page.quarantine_groups():
                        quarantined.write(group)
                part.pages = []
                if part.is_last or part.is_full(self._limits) or self._clock() >= give_up_at:
                    break
                try:
                    part = part.followed_by(self._reading.read())
                except AuditLogsError as error:  # told when the next part is asked for
                    self._error = error
                    break
        part.pages = [PageFile(events.files, quarantined.files)]
        return part


class Spool:
    """A folder of this process alone. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def writing(self, schema: pa.Schema) -> Iterator[RowWriter]:
        """Writes a file in the block.

        Raises:
            TemporaryError: the folder cannot be written, or is full.
        """
        try:
            with RowWriter(self._folder, schema) as writer:
                yield writer
        except OSError as error:
            hint = "check its rights and space, or set DATA_DIR"
            detail = error.strerror or str(error)
            raise TemporaryError(f"{self._folder} cannot be written", detail=detail, hint=hint) from error

    def files_of(self, page: Page | PageFile, rows: pa.ChunkedArray) -> list[RowFile]:
        """Some events of a page, by their row numbers in order, as a file: that of the page where they are all of it.

        Raises as above.
        """
        if isinstance(page, PageFile) and len(rows) == sum(file.rows for file in page.event_files):
            return list(page.event_files)
        first = 0
        with self.writing(EVENT_SCHEMA) as writer:
            for group in page.event_groups() if len(rows) else ():
                is_here = pc.and_(pc.greater_equal(rows, first), pc.less(rows, first + group.num_rows))
                writer.write(group.take(pc.subtract(rows.filter(is_here), first)))
                first += group.num_rows
        return writer.files

    def steps(self, stream: Stream, reading: StreamReading) -> Iterator[Step]:
        """A reading of one stream in steps to be loaded; raises as above."""
        spooled = SpooledReading(self, reading, DEFAULT_LIMITS)
        is_last = False
        while not is_last:
            step, part = Step(), spooled.read()
            step.add(stream, part)
            is_last = part.is_last
            yield step


@contextmanager
def open_spool(data_dir: Path) -> Iterator[Spool]:
    """A spool below the data folder as long as the block runs; what a killed process left in its place is removed."""
    spools = data_dir / "dlt" / "spool"
    with free_number(spools) as number:
        folder = spools / str(number)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield Spool(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
