"""What is measured while the loop runs, by destination and stream. Numbers in memory; knows no metrics by name."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pyarrow.compute as pc

from pipelines.fetch.reading import Part, Step
from pipelines.load.conflicts import Conflicts
from pipelines.proof.compare import STORES, HourCheck
from sources.cloudflare_audit_logs import Batch, Position
from sources.cloudflare_audit_logs.streams import Stream

DURATIONS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
"""Seconds that polls and loads take, up to their deadline and beyond."""

LAGS = (15, 30, 60, 120, 180, 240, 300, 450, 600, 750, 900, 1200, 1800, 3600, 7200, 86_400)
"""Seconds until an event is visible: close together around what has been measured, and the default safety lag."""


class Histogram:
    """Counts values by upper bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """By bound, not cumulated; the last one is of what is larger than all bounds."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Counts one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


@dataclass
class Flow:
    """What a destination got of a stream, and how far it is."""

    stored: int = 0
    late: int = 0
    """Of those stored, found by the sweep."""
    duplicate: int = 0
    quarantined: int = 0
    missing: int = 0
    cursor: datetime | None = None
    succeeded: datetime | None = None
    """When the last poll began that was read and loaded whole."""
    is_caught_up: bool = False
    """True if the destination has not failed since then."""
    visibility_lag: Histogram = field(default_factory=lambda: Histogram(LAGS))


@dataclass(frozen=True)
class LoadedStep:
    """A step that a destination has loaded."""

    destination: str
    step: Step
    new: Mapping[Stream, Batch]
    positions: Mapping[Stream, Position]
    """Where the destination stands since."""
    is_sweep: bool
    begun: datetime
    """When its poll or sweep began."""
    finished: datetime
    load_seconds: float


class Measurements:
    """Told by the loop's thread, read by others at any time: nothing comes into being by being asked for."""

    def __init__(self, poll_interval: timedelta) -> None:
        self._at_once = 2 * poll_interval + timedelta(minutes=1)
        """Polls that begin so close together found what became visible in between."""
        self.fetched: Counter[Stream] = Counter()
        self.gaps: Counter[Stream] = Counter()
        self.open_gaps: Counter[Stream] | None = None
        """Hours whose newest comparison found a gap; None before they were read."""
        self.conflicts = Conflicts()
        self._flows: defaultdict[tuple[str, Stream], Flow] = defaultdict(Flow)
        self._polls: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(DURATIONS))
        self._loads: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(DURATIONS))

    @property
    def has_loaded(self) -> bool:
        """True if a step was loaded, be it one that brought nothing."""
        return bool(self._flows)

    def flow(self, destination: str, stream: Stream) -> Flow:
        """What the destination got of the stream."""
        return self._flows.get((destination, stream)) or Flow()

    def polls(self, destination: str) -> Histogram:
        """How long polls took, from their begin until all was loaded."""
        return self._polls.get(destination) or Histogram(DURATIONS)

    def loads(self, destination: str) -> Histogram:
        """How long the loads took that brought something."""
        return self._loads.get(destination) or Histogram(DURATIONS)

    def add_read(self, step: Step) -> None:
        """Counts what was read."""
        for stream, part in step.parts.items():
            self.fetched[stream] += part.events

    def add_load(self, load: LoadedStep) -> None:
        """Counts what was loaded."""
        for stream, part in load.step.parts.items():
            self._add_part(load, self._flows[load.destination, stream], stream, part)
        if load.new:
            self._loads[load.destination].observe(load.load_seconds)
        if load.step.is_last and not load.is_sweep:
            self._polls[load.destination].observe(max(0.0, (load.finished - load.begun).total_seconds()))

    def add_failure(self, destination: str) -> None:
        """What it lacks now may be old: the next poll is a catch-up."""
        for (name, _), flow in self._flows.items():
            flow.is_caught_up = flow.is_caught_up and name != destination

    def add_gaps(self, gaps: Iterable[HourCheck]) -> None:
        """Counts hours in which a store does not hold each event once, and what it lacks."""
        for gap in gaps:
            self.gaps[gap.stream] += 1
            for store in STORES:
                self._flows[store, gap.stream].missing += len(gap.missing.get(store, []))

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
        if batch and flow.is_caught_up and flow.succeeded and load.begun - flow.succeeded <= self._at_once:
            _observe_lags(flow.visibility_lag, batch)
        if part.is_last:
            flow.succeeded, flow.is_caught_up = load.begun, True


def _observe_lags(histogram: Histogram, batch: Batch) -> None:
    for file in batch.event_files:
        times = file.read(["ingestion_time", "timestamp"])
        for lag in pc.subtract(times["ingestion_time"], times["timestamp"]).to_pylist():
            histogram.observe(max(0.0, lag.total_seconds()))
