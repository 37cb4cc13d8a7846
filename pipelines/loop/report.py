"""What a run has done so far, for the result, the exit code and the progress line."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pipelines.fetch.reading import Step
from pipelines.fetch.refusals import refused_versions, told_refused
from pipelines.host.aside import aside
from pipelines.host.logs import log
from pipelines.proof.compare import HourCheck
from sources.cloudflare_audit_logs import Batch
from sources.cloudflare_audit_logs.errors import AuditLogsError, RefusedError, TemporaryError
from sources.cloudflare_audit_logs.streams import Stream
from sources.cloudflare_audit_logs.traffic import Traffic

from .measurements import LoadedStep, Measurements


@dataclass
class Report:
    """Events read, events that were new by destination, and what failed last."""

    read: int = 0
    new: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    """Found by the sweep: they became visible later than the safety lag."""
    quarantined: Counter[str] = field(default_factory=Counter)
    loads: Counter[str] = field(default_factory=Counter)
    newest: datetime | None = None
    accounts_failed: dict[Stream, AuditLogsError] = field(default_factory=dict)
    accounts_read: set[Stream] = field(default_factory=set)
    readable: set[Stream] = field(default_factory=set)
    """The streams of which something was read."""
    destinations_failed: dict[str, AuditLogsError] = field(default_factory=dict)
    stopped_by: AuditLogsError | None = None
    gaps: int = 0
    """Hours that were compared, and in which a store does not hold each event once."""
    traffic: Traffic = field(default_factory=Traffic)
    measured: Measurements = field(default_factory=lambda: Measurements(timedelta()))

    @property
    def refused_versions(self) -> dict[Stream, AuditLogsError]:
        """The streams that are refused while their account can be read in another version: they fail nothing."""
        return refused_versions(dict(self.accounts_failed), self.readable)  # a copy: others ask from their threads

    @property
    def failures(self) -> dict[Stream, AuditLogsError]:
        """The streams that failed when they were read last, but for refused versions."""
        refused = self.refused_versions
        return {stream: error for stream, error in dict(self.accounts_failed).items() if stream not in refused}

    @property
    def has_result(self) -> bool:
        """True if a step was loaded, or something failed."""
        failed = self.accounts_failed or self.destinations_failed or self.stopped_by
        return self.measured.has_loaded or bool(failed)

    def _tell_conflicts(self, step: Step) -> None:
        for stream, event_ids in self.measured.conflicts.note(step).items():
            about = {"account": stream.account_id, "version": stream.api_version, "events": len(event_ids)}
            hint = "the first one stays, as of every key; compare them with the API: reconcile.py --content"
            log.warning("read.conflicting", **about, first_id=event_ids[0], hint=hint)

    def add_read(self, step: Step) -> None:
        """Counts what was read; accounts that were read to the end have not failed any more."""
        with aside("measurements"):
            self.measured.add_read(step)
            self._tell_conflicts(step)
        self.read += step.events
        self.stopped_by = None
        self.accounts_read.update(step.finished)
        for stream in step.finished:
            self.accounts_failed.pop(stream, None)

    def add_readable(self, stream: Stream) -> None:
        """Notes a stream that is not refused (any more)."""
        self.readable.add(stream)
        if isinstance(self.accounts_failed.get(stream), RefusedError):
            del self.accounts_failed[stream]

    def add_failure(self, destination: str, error: AuditLogsError) -> None:
        """Notes a destination that could not be opened or loaded."""
        with aside("measurements"):
            self.measured.add_failure(destination)
        self.destinations_failed[destination] = error

    def add_gaps(self, gaps: Sequence[HourCheck]) -> None:
        """Counts the hours in which a comparison found something missing."""
        with aside("measurements"):
            self.measured.add_gaps(gaps)
        self.gaps += len(gaps)

    def add_load(self, load: LoadedStep) -> None:
        """Counts what a step brought to a destination, which has not failed any more."""
        with aside("measurements"):
            self.measured.add_load(load)
        self.destinations_failed.pop(load.destination, None)
        if load.new:
            self._add_new(load.destination, load.new, is_late=load.is_sweep)

    def _add_new(self, destination: str, new: Mapping[Stream, Batch], *, is_late: bool) -> None:
        events = sum(batch.events for batch in new.values())
        quarantined = sum(batch.quarantined for batch in new.values())
        newest = max(batch.cursor for batch in new.values())
        self.loads[destination] += 1
        self.quarantined[destination] += quarantined
        (self.late if is_late else self.new)[destination] += events
        accounts = len({stream.account_id for stream in new})
        if is_late:
            hint = "visible only after the safety lag: raise CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS if this goes on"
            log.warning("sweep.late", destination=destination, events=events, accounts=accounts, hint=hint)
        else:
            self.newest = max(self.newest or newest, newest)
            log.info("load.finished", destination=destination, new=events, accounts=accounts, newest=newest.isoformat())
        if quarantined:
            hint = "its column reason in audit_logs_quarantine says why"
            log.warning("load.quarantined", destination=destination, events=quarantined, hint=hint)


def exit_code(report: Report) -> int:
    """0 done, 1 an account failed, 3 a gap was found, 75 try again later."""
    failures = report.failures
    hard = [error for error in failures.values() if not isinstance(error, TemporaryError)]
    others_loaded = bool(report.accounts_read - report.accounts_failed.keys())
    if hard or (failures and others_loaded):
        return 1
    later = [*failures.values(), *report.destinations_failed.values(), report.stopped_by]
    failed = [error for error in later if error is not None]
    if not failed:
        return 3 if report.gaps else 0
    return 75 if all(isinstance(error, TemporaryError) for error in failed) else 1


def as_json(report: Report) -> dict[str, Any]:
    """The report for machines."""
    return {
        "read": report.read,
        "new": dict(report.new),
        "late": dict(report.late),
        "quarantined": dict(report.quarantined),
        "newest": report.newest.isoformat() if report.newest else None,
        "failed_accounts": {stream.name: str(error) for stream, error in report.failures.items()},
        "refused_versions": {stream.name: str(error) for stream, error in report.refused_versions.items()},
        "failed_destinations": {name: str(error) for name, error in report.destinations_failed.items()},
        "gaps": report.gaps,
        "error": str(report.stopped_by) if report.stopped_by else None,
    }


def as_text(report: Report) -> str:
    """The report in one line."""
    where = ", ".join(f"{name} {report.new[name]:,} new" for name in ("warehouse", "lake"))
    late = "".join(f", {name} {count:,} late" for name, count in sorted(report.late.items()))
    failed = len(report.failures) + len(report.destinations_failed) + (report.stopped_by is not None)
    gaps = f"; {report.gaps} hours with gaps: run pipelines/reconcile.py" if report.gaps else ""
    gaps += told_refused(report.refused_versions)
    return f"{report.read:,} events read: {where}{late}{gaps}" + (f"; {failed} failed, see the log" if failed else "")
