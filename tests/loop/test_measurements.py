"""The visibility lag is measured only in the window that the poll before had read."""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.fetch.reading import Part, Step
from pipelines.loop.failures import Failures
from pipelines.loop.loaders import LoadedStep
from pipelines.loop.report import Report
from pipelines.settings.settings import read_settings
from sources.cloudflare_audit_logs import Batch, Position
from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.events import decode_page
from sources.cloudflare_audit_logs.files import RowWriter
from sources.cloudflare_audit_logs.streams import Stream, Window
from tests.factory import ACCOUNT, event_at

STREAM = Stream(ACCOUNT, "v1")
FOLDER = Path(tempfile.mkdtemp())
START = datetime(2026, 11, 20, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def _report() -> Report:
    environment = {"CLOUDFLARE_API_TOKEN": "t", "CLOUDFLARE_ACCOUNT_ID": ACCOUNT}
    return Report(Failures(read_settings(environment, now=START)), timedelta(seconds=30))


def _poll(report: Report, begun: datetime, age: timedelta | None = None, *, is_sweep: bool = False) -> None:
    """A poll that is loaded, with an event that is so old when it is read."""
    raw = [event_at(begun - age).raw] if age is not None else []
    page = decode_page(raw, STREAM, begun)
    part = Part(Window(begun - timedelta(hours=1), begun), is_last=True)
    part.add(page)
    with RowWriter(FOLDER, page.events.schema) as writer:
        writer.write(page.events)
    batch = Batch(START, begun, writer.files)
    step = Step({STREAM: part}, len(raw), is_last=True)
    positions = {STREAM: Position(START, begun)}
    new = {STREAM: batch} if raw else {}
    report.add_load(LoadedStep("lake", step, new, positions, is_sweep, begun, begun, 0.1))


def _lags(report: Report) -> tuple[int, float]:
    histogram = report.flow("lake", STREAM).visibility_lag
    return sum(histogram.counts), histogram.sum


def test_the_lag_is_measured_from_the_second_poll_on() -> None:
    """Only an event that is new in the second poll is measured."""
    report = _report()

    _poll(report, START, timedelta(hours=3))
    _poll(report, START + MINUTE, timedelta(minutes=5))

    assert _lags(report) == (1, 300.0)


@pytest.mark.parametrize("reason", ["a pause", "a failure", "a sweep"])
def test_the_lag_is_not_measured_where_we_did_not_look(reason: str) -> None:
    """After a pause or a failure, and by a sweep, an event may be old when it is first read, and was visible before."""
    report = _report()
    _poll(report, START)

    if reason == "a failure":
        report.failures.note_destination("lake", AuditLogsError("down"))
    after = 10 * MINUTE if reason == "a pause" else MINUTE
    _poll(report, START + after, timedelta(minutes=9), is_sweep=reason == "a sweep")

    assert _lags(report) == (0, 0.0)
    assert report.flow("lake", STREAM).stored == 1


def test_a_clock_that_is_behind_makes_no_negative_lag() -> None:
    """A histogram's sum never falls."""
    report = _report()
    _poll(report, START)

    _poll(report, START + MINUTE, -MINUTE)

    assert _lags(report) == (1, 0.0)
