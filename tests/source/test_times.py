"""A time has one reading, whatever other times the column has, and however it is read."""

from datetime import datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sources.cloudflare_audit_logs.times import parse_time, parse_times

USUAL, NANOSECONDS = "2026-11-20T10:00:00Z", "2026-11-20T10:00:00.123456789Z"

_days = st.builds("{:04}-{:02}-{:02}".format, st.integers(1899, 2100), st.integers(0, 13), st.integers(0, 32))
_clocks = st.builds("{:02}:{:02}".format, st.integers(0, 24), st.integers(0, 60))
_seconds = st.one_of(st.just(""), st.builds(":{:02}".format, st.integers(0, 61)))
_fractions = st.one_of(st.just(""), st.from_regex(r"\A[.,][0-9]{0,10}\Z"))
_zones = st.one_of(
    st.sampled_from(["", "Z", "z", " UTC", "+", "Z+00"]), st.from_regex(r"\A ?[+-][0-9]{1,2}:?[0-9]{0,4}\Z")
)
_texts = st.one_of(
    st.builds("{}{}{}{}{}{}".format, _days, st.sampled_from("Tt _"), _clocks, _seconds, _fractions, _zones),
    st.builds("{}{}".format, _days, st.sampled_from(["", "Z", "T10", "T10Z", "T10+02"])),
    st.text(max_size=30),
)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("2026-11-20T10:00:00+0000", "2026-11-20T10:00:00+00:00"),
        ("2026-11-20T10:00:00+00", "2026-11-20T10:00:00+00:00"),
        ("2026-11-20T15:30:00.5+0530", "2026-11-20T10:00:00.5+00:00"),
        ("2026-11-20T06:30:00-0330", "2026-11-20T10:00:00+00:00"),
        ("2026-11-20T10:00Z", "2026-11-20T10:00:00+00:00"),
        ("2026-11-20 12:00+02", "2026-11-20T10:00:00+00:00"),
        ("2026-11-20 12:00:00 +0200", "2026-11-20T10:00:00+00:00"),
    ],
)
@pytest.mark.parametrize("neighbour", [None, USUAL, NANOSECONDS, "yesterday"])
def test_a_time_is_read_whatever_stands_beside_it(text: str, meaning: str, neighbour: str | None) -> None:
    """A time is read alone, next to one that Arrow reads by itself, and next to one that it refuses."""
    times = parse_times([text] if neighbour is None else [text, neighbour]).to_pylist()

    assert times[0] == datetime.fromisoformat(meaning)


@given(texts=st.lists(st.one_of(_texts, st.just(USUAL)), min_size=1, max_size=4))
@example(texts=["2026-11-20T10Z"])
@example(texts=["2026-11-20"])
@example(texts=["2026-11-20T24:00:00Z"])
@example(texts=["2026-12-31T23:59:60Z"])
@example(texts=["2026-11-20T10:00:00Z\n"])
@example(texts=["٢026-11-20T10:00:00Z"])
def test_a_column_is_read_as_each_of_its_times_is_alone(texts: list[str]) -> None:
    """On every text: null together is null alone, and a time is the same time."""
    together = parse_times(texts).to_pylist()

    assert together == [parse_times([text])[0].as_py() for text in texts]
    assert together == [parse_times([text, NANOSECONDS])[0].as_py() for text in texts]


@given(text=_texts)
def test_a_column_and_a_single_time_are_read_alike(text: str) -> None:
    """But for what lies outside of all events' times."""
    alone, in_column = parse_time(text), parse_times([text])[0].as_py()

    assert in_column == alone or (in_column is None and alone is not None and not 1900 <= alone.year < 9000)
