"""The metrics: each name, its labels and meaning, and where its values are. The one module that owns the names.

They are read from what the run has noted when someone asks for them. Labels are account, destination, version and code
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

from pipelines.loop.report import Flow, Histogram, Report
from sources.cloudflare_audit_logs.errors import RefusedError
from sources.cloudflare_audit_logs.streams import Stream
from sources.cloudflare_audit_logs.traffic import NO_ANSWER

from .running import Running, Store

PROGRAM = "cloudflare-audit-pipeline"

STREAM = ("account", "version")
FLOW = (*STREAM, "destination")

USUAL_CODES = ("200", "401", "403", "404", "429", "500", "502", "503", NO_ANSWER)
"""Counted from zero on: the increase of a counter that begins at one is not seen."""


Sample = tuple[tuple[str, ...], Any]
"""The values of the labels, and a number or a histogram."""


class Described(NamedTuple):
    """A metric as the documents have it."""

    name: str
    kind: type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]
    labels: tuple[str, ...]
    meaning: str
    samples: Callable[[Running], Iterable[Sample]]


def registry_of(running: Running) -> CollectorRegistry:
    """All metrics of a run, and those of its process."""
    registry = CollectorRegistry()
    OwnProcess(registry=registry)
    registry.register(_RunCollector(running))
    return registry


class OwnProcess(ProcessCollector):
    """As prometheus_client has it, which tells nothing where there is no `/proc/stat`: under `ProcSubset=pid`, say."""

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


def _by_flow(value: Callable[[Flow], Any]) -> Callable[[Running], Iterator[Sample]]:
    """A value of each stream in each destination, where there is one."""

    def samples(running: Running) -> Iterator[Sample]:
        for destination in running.destinations:
            for stream in running.settings.streams:
                found = value(running.report.flow(destination.name, stream))
                if found is not None:
                    yield (stream.account_id, stream.api_version, destination.name), found

    return samples


def _by_stream(value: Callable[[Report, Stream], float | None]) -> Callable[[Running], Iterator[Sample]]:
    def samples(running: Running) -> Iterator[Sample]:
        for stream in running.settings.streams:
            found = value(running.report, stream)
            if found is not None:
                yield (stream.account_id, stream.api_version), found

    return samples


def _by_destination(value: Callable[[Running, Store], Any]) -> Callable[[Running], Iterator[Sample]]:
    return lambda running: (((d.name,), value(running, d)) for d in running.destinations)


def _one(value: Callable[[Running], float | None]) -> Callable[[Running], Iterator[Sample]]:
    return lambda running: (((), found) for found in [value(running)] if found is not None)


def _was_read(report: Report, stream: Stream) -> float | None:
    """None before the first result."""
    accounts = report.failures.accounts
    has_failed = stream in accounts.failed
    return float(not has_failed) if has_failed or stream in accounts.read else None


def _requests(running: Running) -> Iterator[Sample]:
    sent: Mapping[str, int] = {**dict.fromkeys(USUAL_CODES, 0), **running.report.traffic.requests}
    return (((code,), count) for code, count in sorted(sent.items()))


METRICS = (
    Described(
        "cloudflare_audit_build_info",
        GaugeMetricFamily,
        ("version",),
        "1, with the version of the program.",
        lambda _: [((version(PROGRAM),), 1)],
    ),
    Described(
        "cloudflare_audit_cursor_timestamp_seconds",
        GaugeMetricFamily,
        FLOW,
        "Time of the newest event that the destination holds of the stream, as its cursor says.",
        _by_flow(lambda flow: flow.cursor and flow.cursor.timestamp()),
    ),
    Described(
        "cloudflare_audit_last_success_timestamp_seconds",
        GaugeMetricFamily,
        FLOW,
        "When the last poll began that was read and loaded whole.",
        _by_flow(lambda flow: flow.succeeded and flow.succeeded.timestamp()),
    ),
    Described(
        "cloudflare_audit_events_fetched_total",
        CounterMetricFamily,
        STREAM,
        "Events read from the API, those of the overlap again at each poll.",
        _by_stream(lambda report, stream: report.fetched.get(stream, 0)),
    ),
    Described(
        "cloudflare_audit_events_conflicting_total",
        CounterMetricFamily,
        STREAM,
        "Events read with the id and time of another one that differs: the first stays.",
        _by_stream(lambda report, stream: report.conflicts.counts.get(stream, 0)),
    ),
    Described(
        "cloudflare_audit_events_stored_total",
        CounterMetricFamily,
        FLOW,
        "Events that were new to the destination, and are in it now.",
        _by_flow(lambda flow: flow.stored),
    ),
    Described(
        "cloudflare_audit_events_late_total",
        CounterMetricFamily,
        FLOW,
        "Of those stored, events that the sweep found: they became visible after the safety lag.",
        _by_flow(lambda flow: flow.late),
    ),
    Described(
        "cloudflare_audit_events_duplicate_total",
        CounterMetricFamily,
        FLOW,
        "Events read that the destination did not lack: held already, or older than its retention.",
        _by_flow(lambda flow: flow.duplicate),
    ),
    Described(
        "cloudflare_audit_events_quarantined_total",
        CounterMetricFamily,
        FLOW,
        "Events that could not be placed, or PostgreSQL refused, and that went to audit_logs_quarantine.",
        _by_flow(lambda flow: flow.quarantined),
    ),
    Described(
        "cloudflare_audit_events_missing_total",
        CounterMetricFamily,
        FLOW,
        "Events that a comparison found missing in the destination.",
        _by_flow(lambda flow: flow.missing),
    ),
    Described(
        "cloudflare_audit_gaps_total",
        CounterMetricFamily,
        STREAM,
        "Hours that a comparison found wrong in a store, each time that it did.",
        _by_stream(lambda report, stream: report.hours_with_gaps.get(stream, 0)),
    ),
    Described(
        "cloudflare_audit_gap_hours",
        GaugeMetricFamily,
        STREAM,
        "Hours that were found wrong when they were compared last, whoever compared them, and are not repaired.",
        # None before they were read.
        _by_stream(lambda report, stream: None if (gaps := report.open_gaps) is None else gaps[stream]),
    ),
    Described(
        "cloudflare_audit_visibility_lag_seconds",
        HistogramMetricFamily,
        FLOW,
        "From an event's own time until we first read it, of events that the poll before could not see yet.",
        _by_flow(lambda flow: flow.visibility_lag),
    ),
    Described(
        "cloudflare_audit_poll_duration_seconds",
        HistogramMetricFamily,
        ("destination",),
        "From the begin of a poll until all of it was loaded.",
        _by_destination(lambda running, d: running.report.poll_seconds(d.name)),
    ),
    Described(
        "cloudflare_audit_load_duration_seconds",
        HistogramMetricFamily,
        ("destination",),
        "Of the loads that brought something, sweeps included.",
        _by_destination(lambda running, d: running.report.load_seconds(d.name)),
    ),
    Described(
        "cloudflare_audit_destination_up",
        GaugeMetricFamily,
        ("destination",),
        "1 if the destination is open and its last load did not fail.",
        _by_destination(lambda running, d: float(running.is_up(d))),
    ),
    Described(
        "cloudflare_audit_account_up",
        GaugeMetricFamily,
        STREAM,
        "1 if the account was read whole when it was asked for last.",
        _by_stream(_was_read),
    ),
    Described(
        "cloudflare_audit_account_refused",
        GaugeMetricFamily,
        STREAM,
        "1 if the API refuses the account in this version (400, 401, 403, 404): only an operator can mend it.",
        _by_stream(lambda report, stream: float(isinstance(report.failures.accounts.failed.get(stream), RefusedError))),
    ),
    Described(
        "cloudflare_audit_reading_abandoned",
        GaugeMetricFamily,
        (),
        "1 if the last poll was given up for all accounts: this host's clock is off.",
        _one(lambda running: float(running.report.failures.stopped_by is not None)),
    ),
    Described(
        "cloudflare_audit_api_requests_total",
        CounterMetricFamily,
        ("code",),
        f"Requests sent, retries included, by the status of the answer; {NO_ANSWER}: no whole answer.",
        _requests,
    ),
    Described(
        "cloudflare_audit_api_retries_total",
        CounterMetricFamily,
        (),
        "Requests that were sent again after one that failed.",
        _one(lambda running: running.report.traffic.retries),
    ),
    Described(
        "cloudflare_audit_api_requests_left",
        GaugeMetricFamily,
        (),
        "Requests that the API said, in its latest answers, are left to the token that has fewest.",
        _one(lambda running: running.report.traffic.left),
    ),
    Described(
        "cloudflare_audit_poll_interval_seconds",
        GaugeMetricFamily,
        (),
        "POLL_INTERVAL_SECONDS.",
        _one(lambda running: running.settings.poll_interval_seconds),
    ),
    Described(
        "cloudflare_audit_safety_lag_seconds",
        GaugeMetricFamily,
        STREAM,
        "CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS.",
        lambda running: (
            ((s.account_id, s.api_version), running.settings.safety_lag(s).total_seconds())
            for s in running.settings.streams
        ),
    ),
    Described(
        "cloudflare_audit_longest_silence_seconds",
        GaugeMetricFamily,
        (),
        "How long there may be no progress: what /livez, /readyz and the watchdog go by.",
        _one(lambda running: running.progress.longest_silence_seconds),
    ),
)
