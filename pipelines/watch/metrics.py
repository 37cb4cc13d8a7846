"""The metrics: each name, its labels and meaning, and where its values are. The one module that owns the names.

They are read from the report of the run when someone asks for them. Labels are account, destination, version and code
alone: their values come from the settings and from HTTP, never from an event.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from itertools import accumulate
from typing import Any, NamedTuple

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from pipelines.load.loader import Loader
from pipelines.loop.report import Flow, Histogram
from sources.cloudflare_audit_logs.errors import RefusedError
from sources.cloudflare_audit_logs.streams import Stream
from sources.cloudflare_audit_logs.traffic import NO_ANSWER

from .running import Running

PROGRAM = "cloudflare-audit-pipeline"

STREAM = ("account", "version")

USUAL_CODES = ("200", "401", "403", "404", "429", "500", "502", "503", NO_ANSWER)
"""Counted from zero on: the increase of a counter that begins at one is not seen."""


Sample = tuple[tuple[str, ...], Any]
"""The values of the labels, and a number or a histogram."""


class Described(NamedTuple):
    """A metric as the documents have it."""

    name: str
    labels: tuple[str, ...]
    meaning: str
    samples: Callable[[Running], Iterable[Sample]]

    @property
    def kind(self) -> type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        """As the name says."""
        if self.name.endswith("_total"):
            return CounterMetricFamily
        is_histogram = self.name.endswith(("_visibility_lag_seconds", "_duration_seconds"))
        return HistogramMetricFamily if is_histogram else GaugeMetricFamily


def registry_of(running: Running, *, with_process: bool = True) -> CollectorRegistry:
    """Returns all metrics of a run, and those of its process, whose names node_exporter has for itself."""
    registry = CollectorRegistry()
    if with_process:
        OwnProcess(registry=registry)
    registry.register(_RunCollector(running))
    return registry


class OwnProcess(ProcessCollector):
    """As prometheus_client has it, which shows nothing where there is no `/proc/stat`: under `ProcSubset=pid`, say."""

    def _boot_time(self) -> float:
        if sys.platform != "linux":
            return super()._boot_time()
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


class _RunCollector(Collector):
    def __init__(self, running: Running) -> None:
        self._running = running

    def collect(self) -> Iterator[Metric]:
        for metric in METRICS:
            family: Any = metric.kind(metric.name, metric.meaning, labels=metric.labels)
            for labels, value in metric.samples(self._running):
                family.add_metric(labels, *(_cumulated(value) if isinstance(value, Histogram) else [value]))
            yield family


def _cumulated(histogram: Histogram) -> tuple[list[tuple[str, int]], float]:
    bounds = [*map(str, map(float, histogram.bounds)), "+Inf"]
    return list(zip(bounds, accumulate(list(histogram.counts)), strict=True)), histogram.sum


Meant = tuple[tuple[str, ...], str, Callable[[Running], Iterable[Sample]]]
"""Labels, meaning and samples of a metric."""


def _by_flow(meaning: str, value: Callable[[Flow], Any]) -> Meant:
    """A value of each stream in each destination, where there is one."""

    def samples(running: Running) -> Iterator[Sample]:
        for destination in running.destinations:
            for stream in running.settings.streams:
                found = value(running.report.flow(destination.name, stream))
                if found is not None:
                    yield (stream.account_id, stream.api_version, destination.name), found

    return (*STREAM, "destination"), meaning, samples


def _by_stream(meaning: str, value: Callable[[Running, Stream], float | None]) -> Meant:
    def samples(running: Running) -> Iterator[Sample]:
        for stream in running.settings.streams:
            found = value(running, stream)
            if found is not None:
                yield (stream.account_id, stream.api_version), found

    return STREAM, meaning, samples


def _by_destination(meaning: str, value: Callable[[Running, Loader], Any]) -> Meant:
    return ("destination",), meaning, lambda running: (((d.name,), value(running, d)) for d in running.destinations)


def _one(meaning: str, value: Callable[[Running], float | None]) -> Meant:
    return (), meaning, lambda running: (((), found) for found in [value(running)] if found is not None)


def _was_read(running: Running, stream: Stream) -> float | None:
    """None before the first result."""
    accounts = running.report.failures.accounts
    has_failed = stream in accounts.failed
    return float(not has_failed) if has_failed or stream in accounts.read else None


def _gap_hours(running: Running, stream: Stream) -> int | None:
    """None before they were read."""
    gaps = running.report.open_gaps
    return None if gaps is None else gaps[stream]


def _requests(running: Running) -> Iterator[Sample]:
    sent: Mapping[str, int] = {**dict.fromkeys(USUAL_CODES, 0), **running.report.traffic.requests}
    return (((code,), count) for code, count in sorted(sent.items()))


_MEANT: Mapping[str, Meant] = {
    "cloudflare_audit_build_info": (
        ("version",),
        "1, with the version of the program.",
        lambda _: [((version(PROGRAM),), 1)],
    ),
    "cloudflare_audit_cursor_timestamp_seconds": _by_flow(
        "Time of the newest event that the destination holds of the stream, as its cursor says.",
        lambda flow: flow.cursor and flow.cursor.timestamp(),
    ),
    "cloudflare_audit_last_success_timestamp_seconds": _by_flow(
        "When the last poll began that was read and loaded whole.",
        lambda flow: flow.succeeded and flow.succeeded.timestamp(),
    ),
    "cloudflare_audit_events_fetched_total": _by_stream(
        "Events read from the API, those of the overlap again at each poll.",
        lambda running, stream: running.report.fetched.get(stream, 0),
    ),
    "cloudflare_audit_events_conflicting_total": _by_stream(
        "Events read with the id and time of another one that differs: the first stays.",
        lambda running, stream: running.report.conflicts.counts.get(stream, 0),
    ),
    "cloudflare_audit_events_stored_total": _by_flow(
        "Events that were new to the destination, and are in it now.", lambda flow: flow.stored
    ),
    "cloudflare_audit_events_late_total": _by_flow(
        "Of those stored, events that the sweep found: they became visible after the safety lag.",
        lambda flow: flow.late,
    ),
    "cloudflare_audit_events_duplicate_total": _by_flow(
        "Events read that the destination did not lack: held already, or older than its retention.",
        lambda flow: flow.duplicate,
    ),
    "cloudflare_audit_events_quarantined_total": _by_flow(
        "Events that could not be placed, or PostgreSQL refused, and that went to audit_logs_quarantine.",
        lambda flow: flow.quarantined,
    ),
    "cloudflare_audit_events_missing_total": _by_flow(
        "Events that a comparison found missing in the destination.", lambda flow: flow.missing
    ),
    "cloudflare_audit_gaps_total": _by_stream(
        "Hours that a comparison found wrong in a store, each time that it did.",
        lambda running, stream: running.report.hours_with_gaps.get(stream, 0),
    ),
    "cloudflare_audit_gap_hours": _by_stream(
        "Hours that were found wrong when they were compared last, whoever compared them, and are not repaired.",
        _gap_hours,
    ),
    "cloudflare_audit_visibility_lag_seconds": _by_flow(
        "From an event's own time until we first read it, of events that the poll before could not see yet.",
        lambda flow: flow.visibility_lag,
    ),
    "cloudflare_audit_poll_duration_seconds": _by_destination(
        "From the begin of a poll until all of it was loaded.", lambda running, d: running.report.poll_seconds(d.name)
    ),
    "cloudflare_audit_load_duration_seconds": _by_destination(
        "Of the loads that brought something, sweeps included.", lambda running, d: running.report.load_seconds(d.name)
    ),
    "cloudflare_audit_destination_up": _by_destination(
        "1 if the destination is open and its last load did not fail.", lambda running, d: float(running.is_up(d))
    ),
    "cloudflare_audit_account_up": _by_stream("1 if the account was read whole when it was asked for last.", _was_read),
    "cloudflare_audit_account_refused": _by_stream(
        "1 if the API refuses the account in this version (400, 401, 403, 404): only an operator can mend it.",
        lambda running, stream: float(isinstance(running.report.failures.accounts.failed.get(stream), RefusedError)),
    ),
    "cloudflare_audit_reading_abandoned": _one(
        "1 if the last poll was given up for all accounts: this host's clock is off.",
        lambda running: float(running.report.failures.stopped_by is not None),
    ),
    "cloudflare_audit_api_requests_total": (
        ("code",),
        f"Requests sent, retries included, by the status of the answer; {NO_ANSWER}: no whole answer.",
        _requests,
    ),
    "cloudflare_audit_api_retries_total": _one(
        "Requests that were sent again after one that failed.", lambda running: running.report.traffic.retries
    ),
    "cloudflare_audit_api_requests_left": _one(
        "Requests that the API said, in its latest answers, are left to the token that has fewest.",
        lambda running: running.report.traffic.left,
    ),
    "cloudflare_audit_poll_interval_seconds": _one(
        "POLL_INTERVAL_SECONDS.", lambda running: running.settings.poll_interval_seconds
    ),
    "cloudflare_audit_safety_lag_seconds": _by_stream(
        "CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS.",
        lambda running, stream: running.settings.safety_lag(stream).total_seconds(),
    ),
    "cloudflare_audit_last_seal_timestamp_seconds": _one(
        "When hours were sealed last, by this process; nothing without SEAL_KEY_FILE.",
        lambda running: running.report.last_seal.timestamp() if running.report.last_seal else None,
    ),
    "cloudflare_audit_seal_alarms": _one(
        "Hours, day copies and seals that were found not to be as they were sealed.",
        lambda running: max(running.report.seal_alarms.values(), default=0),
    ),
    "cloudflare_audit_longest_silence_seconds": _one(
        "How long there may be no progress: what /livez, /readyz and the watchdog go by.",
        lambda running: running.progress.longest_silence_seconds,
    ),
}

METRICS = tuple(Described(name, *meant) for name, meant in _MEANT.items())
