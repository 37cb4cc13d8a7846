"""Counts the work of a run, once: for the result, the progress line and the metrics. It never steers the loop."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pyarrow.compute as pc

from pipelines.fetch.reading import Part, Step
from pipelines.fetch.refusals import refused_in_words
from pipelines.host.logs import log
from pipelines.load.conflicts import Conflicts
from sources.cloudflare_audit_logs import Batch
from sources.cloudflare_audit_logs.streams import Stream
from sources.cloudflare_audit_logs.traffic import Traffic

from .failures import Failures
from .loaders import LoadedStep

DURATIONS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
"""Seconds that polls and loads take, up to their deadline and beyond."""

LAGS = (15, 30, 60, 120, 180, 240, 300, 450, 600, 750, 900, 1200, 1800, 3600, 7200, 86_400)
"""Seconds until an event is visible: close together around what has been measured, and the default safety lag."""


class Histogram:
    """Counts values by upper bounds."""

    def __init__(self, bounds: Sequence[float] = DURATIONS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """By bound, not cumulated; the last count is of values larger than all bounds."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Counts one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


@dataclass
class Flow:
    """The events of a stream in a destination."""

    stored: int = 0
    late: int = 0
    """The part of `stored` that the sweep found."""
    duplicate: int = 0
    quarantined: int = 0
    missing: int = 0
    cursor: datetime | None = None
    succeeded: datetime | None = None
    """The begin of the last poll that was read and loaded whole."""
    failures: int = 0
    """The failures of the destination until then. If it has failed since, the next poll is a catch-up."""
    visibility_lag: Histogram = field(default_factory=lambda: Histogram(LAGS))


class Report:
    """Counts in the loop's thread; other threads may read at any time: asking for a count creates none."""

    def __init__(
        self, failures: Failures, poll_interval: timedelta = timedelta(), traffic: Traffic | None = None
    ) -> None:
        self.failures, self.traffic = failures, traffic or Traffic()
        self._at_once = 2 * poll_interval + timedelta(minutes=1)
        """Polls that begin so close together found what became visible in between."""
        self.fetched: Counter[Stream] = Counter()
        self.new: Counter[str] = Counter()
        """New events by destination. Those in `late` were found by the sweep: visible after the safety lag."""
        self.late: Counter[str] = Counter()
        self.newest: datetime | None = None
        self.hours_with_gaps: Counter[Stream] = Counter()
        """Hours that were compared, and in which a store does not hold each event once."""
        self.open_gaps: Counter[Stream] | None = None
        """Hours whose newest comparison found a gap; None before they were read."""
        self.last_seal: datetime | None = None
        """When this process sealed last."""
        self.seal_alarms: dict[str, int] = {}
        """Alarms, by what has found them; nothing before it looked."""
        self.conflicts = Conflicts()
        self._flows: defaultdict[tuple[str, Stream], Flow] = defaultdict(Flow)
        self._polls: defaultdict[str, Histogram] = defaultdict(Histogram)
        self._loads: defaultdict[str, Histogram] = defaultdict(Histogram)

    @property
    def read(self) -> int:
        """Events that were read."""
        return self.fetched.total()

    @property
    def gaps(self) -> int:
        """Hours with gaps."""
        return self.hours_with_gaps.total()

    @property
    def loads(self) -> dict[str, int]:
        """The number of loads that brought something, by destination."""
        return Counter({destination: sum(loads.counts) for destination, loads in self._loads.items()})

    @property
    def quarantined(self) -> dict[str, int]:
        """The number of events that could not be placed, or were refused, by destination."""
        flows = [(name, flow.quarantined) for (name, _), flow in self._flows.items()]
        return {destination: sum(count for name, count in flows if name == destination) for destination in self._loads}

    @property
    def has_result(self) -> bool:
        """True if a step was loaded, be it one that brought nothing, or something failed."""
        return bool(self._flows or self.failures)

    def flow(self, destination: str, stream: Stream) -> Flow:
        """Returns the counts of a stream in a destination."""
        return self._flows.get((destination, stream)) or Flow()

    def poll_seconds(self, destination: str) -> Histogram:
        """Returns the durations of polls, from their begin until all was loaded."""
        return self._polls.get(destination) or Histogram()

    def load_seconds(self, destination: str) -> Histogram:
        """Returns the durations of the loads that brought something."""
        return self._loads.get(destination) or Histogram()

    def add_read(self, step: Step) -> None:
        """Counts the events of a step that was read."""
        for stream, part in step.parts.items():
            self.fetched[stream] += part.events
        for stream, event_ids in self.conflicts.note(step).items():
            about = {"account": stream.account_id, "version": stream.api_version, "events": len(event_ids)}
            hint = "the first one stays, as of every key; to compare with the API: cloudflare-audit reconcile --content"
            log.warning("read.conflicting", **about, first_id=event_ids[0], hint=hint)

    def add_load(self, load: LoadedStep) -> None:
        """Counts the events of a step that was loaded."""
        for stream, part in load.step.parts.items():
            self._add_part(load, self._flows[load.destination, stream], stream, part)
        if load.step.is_last and not load.is_sweep:
            self._polls[load.destination].observe(max(0.0, (load.finished - load.begun).total_seconds()))
        if load.new:
            self._loads[load.destination].observe(load.load_seconds)
            self._add_new(load.destination, load.new, is_late=load.is_sweep)

    def add_gap(self, stream: Stream, missing: Mapping[str, int]) -> None:
        """Counts an hour in which a store does not hold each event once, and what each destination lacks."""
        self.hours_with_gaps[stream] += 1
        for destination, count in missing.items():
            self._flows[destination, stream].missing += count

    def _add_new(self, destination: str, new: Mapping[Stream, Batch], *, is_late: bool) -> None:
        events = sum(batch.events for batch in new.values())
        (self.late if is_late else self.new)[destination] += events
        accounts = len({stream.account_id for stream in new})
        if is_late:
            hint = "visible only after the safety lag: raise CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS if this goes on"
            log.warning("sweep.late", destination=destination, events=events, accounts=accounts, hint=hint)
        else:
            newest = max(batch.cursor for batch in new.values())
            self.newest = max(self.newest or newest, newest)
            log.info("load.finished", destination=destination, new=events, accounts=accounts, newest=newest.isoformat())
        if quarantined := sum(batch.quarantined for batch in new.values()):
            hint = "its column reason in audit_logs_quarantine says why"
            log.warning("load.quarantined", destination=destination, events=quarantined, hint=hint)

    def _add_part(self, load: LoadedStep, flow: Flow, stream: Stream, part: Part) -> None:
        batch = load.new.get(stream)
        stored = batch.events if batch else 0
        flow.stored += stored
        flow.late += stored if load.is_sweep else 0
        flow.duplicate += part.events - stored - (batch.refused if batch else 0)
        flow.quarantined += batch.quarantined if batch else 0
        flow.cursor = load.positions[stream].cursor if stream in load.positions else flow.cursor
        if load.is_sweep:
            return
        failures = self.failures.counts[load.destination]
        is_next = flow.succeeded is not None and load.begun - flow.succeeded <= self._at_once
        if batch and is_next and failures == flow.failures:
            _observe_lags(flow.visibility_lag, batch)
        if part.is_last:
            flow.succeeded, flow.failures = load.begun, failures


def _observe_lags(histogram: Histogram, batch: Batch) -> None:
    for file in batch.event_files:
        times = file.read(["ingestion_time", "timestamp"])
        for lag in pc.subtract(times["ingestion_time"], times["timestamp"]).to_pylist():
            histogram.observe(max(0.0, lag.total_seconds()))


def exit_code(report: Report) -> int:
    """0 done, 1 an account failed, 3 a gap was found, 75 try again later."""
    return report.failures.exit_code or (3 if report.gaps else 0)


def as_json(report: Report) -> dict[str, Any]:
    """Returns the report for machines."""
    failures = report.failures
    return {
        "read": report.read,
        "new": dict(report.new),
        "late": dict(report.late),
        "quarantined": dict(report.quarantined),
        "newest": report.newest.isoformat() if report.newest else None,
        "failed_accounts": {stream.name: str(error) for stream, error in failures.accounts.failing.items()},
        "refused_versions": {stream.name: str(error) for stream, error in failures.accounts.refused_versions.items()},
        "failed_destinations": {name: str(error) for name, error in failures.destinations.items()},
        "gaps": report.gaps,
        "error": str(failures.stopped_by) if failures.stopped_by else None,
    }


def as_text(report: Report) -> str:
    """Returns the report in one line."""
    where = ", ".join(f"{name} {report.new[name]:,} new" for name in ("warehouse", "lake"))
    late = "".join(f", {name} {count:,} late" for name, count in sorted(report.late.items()))
    gaps = f"; {report.gaps} hours with gaps: run cloudflare-audit reconcile" if report.gaps else ""
    gaps += refused_in_words(report.failures.accounts.refused_versions)
    of_accounts = report.failures.accounts.failing
    # An account in two versions is one that failed.
    failed = len(report.failures.failing) - len(of_accounts) + len({stream.account_id for stream in of_accounts})
    return f"{report.read:,} events read: {where}{late}{gaps}" + (f"; {failed} failed, see the log" if failed else "")
