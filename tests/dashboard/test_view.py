"""A page's address says what it shows."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.ask import questions
from dashboard.ask.conditions import Filters
from dashboard.ask.questions import LOOK_BACK, bucket_seconds
from dashboard.charts import HEIGHT, WIDTH, by_time
from dashboard.view import SECTIONS, View, view_of, written
from sources.cloudflare_audit_logs.times import EARLIEST

NOW = datetime(2026, 11, 25, 12, 30, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(str.strip)
TIMES = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # hypothesis' own
QUERIES = st.fixed_dictionaries(
    {},
    optional={
        "store": st.sampled_from(["warehouse", "lake", "x"]) | TEXT,
        "range": st.sampled_from(["1h", "36h", "90d", "9999999d", "soon"]) | TEXT,
        "from": TIMES.map(written) | TEXT,
        "to": TIMES.map(written) | TEXT,
        "account": TEXT,
        "version": st.sampled_from(["v1", "v2"]) | TEXT,
        "q": TEXT,
        "failures": st.sampled_from(["1", "0"]),
        "event": TEXT,
        "older": TEXT,
        "field": TEXT,
        "page": TEXT,
    },
)


def _read(address: str, base: str = "") -> View:
    parts = urlsplit(address)
    section = parts.path.removeprefix(base).strip("/") or "overview"
    return view_of(parse_qsl(parts.query), section, NOW, base)


@given(QUERIES, st.sampled_from(list(SECTIONS)), st.sampled_from(["", "/audit"]))
def test_every_view_is_an_address(query: dict[str, str], section: str, base: str) -> None:
    """Whatever an address says, it is a view; the view's own address is read as the same view."""
    view = view_of(query.items(), section, NOW, base)

    assert view.href().startswith(f"{base}/")
    assert _read(view.href(), base) == view
    assert view.since < view.before
    assert view.since - LOOK_BACK < view.since
    pinned = _read(view.during(view.since, view.before), base)
    assert (pinned.since, pinned.before, pinned.range) == (view.since, view.before, "")
    assert pinned.terms == view.terms or view.is_search_wrong


@pytest.mark.parametrize(
    ("begin", "end", "window"),
    [
        ("2026-11-20", "2026-11-20", ("2026-11-20 00:00", "2026-11-21 00:00")),
        ("2026-11-20T13:00", "2026-11-20 14:30", ("2026-11-20 13:00", "2026-11-20 14:30")),
        ("2026-11-20T13:00+02:00", "2026-11-20T14:30Z", ("2026-11-20 11:00", "2026-11-20 14:30")),
        ("2026-11-20 13:00", "2026-11-20 13:00", ("2026-11-20 13:00", "2026-11-20 13:01")),
        ("0001-01-01", "9999-12-31", ("1900-01-01 00:00", "9000-01-01 00:00")),
        ("9999-12-31", "9999-12-31", ("8999-12-31 23:59", "9000-01-01 00:00")),
        ("2026-11-20", "", ("2026-11-20 00:00", "2026-11-25 12:30")),
        ("", "2026-11-20 13:00", ("2026-11-13 13:00", "2026-11-20 13:00")),
        ("", "0001-01-01", ("1900-01-01 00:00", "1900-01-01 00:01")),
        ("soon", "", ("2026-11-18 12:30", "2026-11-25 12:30")),
    ],
)
def test_any_time_of_the_calendar_can_be_asked_for(begin: str, end: str, window: tuple[str, str]) -> None:
    """Days or minutes; it stays where there can be events. With an end alone, it is the 7 days before."""
    view = view_of({"from": begin, "to": end}.items(), "events", NOW)

    assert (written(view.since), written(view.before)) == window
    assert bool(view.problems) == (begin == "soon")


@pytest.mark.parametrize(
    ("begin", "end", "window"),
    [
        ("2026-11-20 14:00", "2026-11-20 13:00", ("2026-11-20 13:00", "2026-11-20 14:00")),
        ("9999-12-31", "", ("2026-11-25 12:30", "9000-01-01 00:00")),
    ],
)
def test_times_the_wrong_way_round_are_told(begin: str, end: str, window: tuple[str, str]) -> None:
    """The time between them is shown, and the page says that it is."""
    view = view_of({"from": begin, "to": end}.items(), "events", NOW)

    assert (written(view.since), written(view.before)) == window
    assert view.problems == (f"from is after to: what is shown is from {window[0]} to {window[1]}",)


def test_an_end_alone_ends_the_range() -> None:
    """Whatever range the address names."""
    view = view_of({"to": "2026-11-20 13:00", "range": "36h"}.items(), "events", NOW)

    assert (written(view.since), written(view.before)) == ("2026-11-19 01:00", "2026-11-20 13:00")


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_no_time_is_too_early_or_too_late(begin: datetime, end: datetime) -> None:
    """At either end of the calendar a view has its neighbours, and a key at most no event."""
    view = view_of({"from": written(begin), "to": written(end)}.items(), "events", NOW)

    assert _read(view.href()) == view
    for moves in ((-1, -1), (1, 1), (-1, 1)):
        assert _read(view.shifted(*moves)).since >= EARLIEST
    assert questions.events(view.filters, f"a v1 {end.isoformat()} e")


@given(TIMES, st.integers(60, 40_000_000), st.integers(1, 10_000_000))
def test_bars_and_marks_stay_in_the_chart(since: datetime, seconds: int, events: int) -> None:
    """Whatever the time and the numbers: in order, with few marks, each in 24 hours."""
    filters = Filters(since, since + timedelta(seconds=seconds))
    size = bucket_seconds(filters)
    first = datetime.fromtimestamp(since.timestamp() // size * size, UTC)
    begins = [first + timedelta(seconds=size * number) for number in range(-(-seconds // size))]
    rows = [{"begins": at, "events": events, "failures": events // 2} for at in begins]
    chart = by_time(rows, view_of([], "overview", NOW), filters)

    assert len(chart.bars) <= 172
    for bar in chart.bars:
        assert 0 <= bar.x <= bar.x + bar.width <= WIDTH + 0.3
        assert 0 <= bar.y <= bar.failed_y <= HEIGHT
    assert len(chart.times) <= 10
    assert [x for x, _ in chart.times] == sorted(x for x, _ in chart.times)
    assert all("AM" not in mark and "PM" not in mark for _, mark in chart.times)
