"""How long events take to become visible is measured where the poll before looked."""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.fetch.reading import Part, Step
from pipelines.loop.measurements import LoadedStep, Measurements
from sources.cloudflare_audit_logs import Batch, Position
from sources.cloudflare_audit_logs.events import decode_page
from sources.cloudflare_audit_logs.files import RowWriter
from sources.cloudflare_audit_logs.streams import Stream, Window
from tests.factory import ACCOUNT, event_at

STREAM = Stream(ACCOUNT, "v1")
FOLDER = Path(tempfile.mkdtemp())
START = datetime(2026, 11, 20, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def _poll(measured: Measurements, begun: datetime, age: timedelta | None = None, *, is_sweep: bool = False) -> None:
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
    measured.add_load(LoadedStep("lake", step, new, positions, is_sweep, begun, begun, 0.1))


def _lags(measured: Measurements) -> tuple[int, float]:
    histogram = measured.flow("lake", STREAM).visibility_lag
    return sum(histogram.counts), histogram.sum


def test_the_lag_is_measured_from_the_second_poll_on() -> None:
    """Of an event that is new then."""
    measured = Measurements(timedelta(seconds=30))

    _poll(measured, START, timedelta(hours=3))
    _poll(measured, START + MINUTE, timedelta(minutes=5))

    assert _lags(measured) == (1, 300.0)


@pytest.mark.parametrize("reason", ["a pause", "a failure", "a sweep"])
def test_the_lag_is_not_measured_where_we_did_not_look(reason: str) -> None:
    """After a pause or a failure, and by a sweep, an event may be old when it is first read, and was visible before."""
    measured = Measurements(timedelta(seconds=30))
    _poll(measured, START)

    if reason == "a failure":
        measured.add_failure("lake")
    after = 10 * MINUTE if reason == "a pause" else MINUTE
    _poll(measured, START + after, timedelta(minutes=9), is_sweep=reason == "a sweep")

    assert _lags(measured) == (0, 0.0)
    assert measured.flow("lake", STREAM).stored == 1


def test_a_clock_that_is_behind_makes_no_negative_lag() -> None:
    """A histogram's sum never falls."""
    measured = Measurements(timedelta(seconds=30))
    _poll(measured, START)

    _poll(measured, START + MINUTE, -MINUTE)

    assert _lags(measured) == (1, 0.0)
