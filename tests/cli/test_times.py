"""A time on the command line is ISO 8601, or an age before now; anything else is one error."""

import argparse
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cli.windows import add_window_options, parse_moment, window_of
from sources.cloudflare_audit_logs.times import EARLIEST

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIMES = st.datetimes(datetime(1900, 1, 2), datetime(9999, 12, 30), timezones=ZONES)  # noqa: DTZ001  # the zones are drawn apart


@given(count=st.integers(0, 2_000), unit=st.sampled_from(sorted(UNITS)))
def test_an_age_is_so_long_before_now(count: int, unit: str) -> None:
    """To the microsecond, whatever its unit."""
    assert parse_moment(f"{count}{unit}", NOW) == NOW - count * UNITS[unit]


@given(time=TIMES)
def test_a_time_of_any_zone_is_that_instant_in_utc(time: datetime) -> None:
    """As Python writes it."""
    found = parse_moment(time.isoformat(), NOW)

    assert (found, found.tzinfo) == (time, UTC)


@given(time=TIMES)
def test_a_day_is_its_begin_in_utc(time: datetime) -> None:
    """Without a time zone, nothing depends on this host's."""
    assert parse_moment(f"{time:%Y-%m-%d}".zfill(10), NOW) == datetime(time.year, time.month, time.day, tzinfo=UTC)


@given(text=st.text() | st.from_regex(r"[0-9]{1,12}[a-zA-Z]?") | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}.*"))
def test_any_text_is_a_time_or_a_sentence(text: str) -> None:
    """Nothing else is raised, and no time is older than any event."""
    try:
        found = parse_moment(text, NOW)
    except ValueError as error:
        said = str(error)
    else:
        said = f"{found.tzinfo} {found >= EARLIEST}"

    assert any(words in said for words in ("is not a time: write it as", "is before 1900: no event", "UTC True"))


def _window(*arguments: str, since: datetime | None = None) -> tuple[datetime, datetime]:
    parser = argparse.ArgumentParser()
    add_window_options(parser, since=since)
    window = window_of(parser, parser.parse_args(arguments))
    return window.since, window.before


def test_a_window_ends_now_unless_it_says_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    """The window that was taken is on stderr."""
    since, before = _window("--since", "24h")

    assert timedelta(0) <= datetime.now(UTC) - before < timedelta(minutes=10)
    assert abs(before - since - timedelta(hours=24)) < timedelta(minutes=10)
    assert capsys.readouterr().err == f"from {since:%Y-%m-%dT%H:%M:%SZ} to {before:%Y-%m-%dT%H:%M:%SZ}\n"


def test_both_ends_may_be_ages(capsys: pytest.CaptureFixture[str]) -> None:
    """A window that is given whole is not repeated."""
    since, before = _window("--since", "2w", "--before", "7d")

    assert (before - since, capsys.readouterr().err) == (timedelta(days=7), "")


def test_a_window_that_need_not_be_given_holds_everything(capsys: pytest.CaptureFixture[str]) -> None:
    """From the first event on, until now."""
    since, _ = _window(since=EARLIEST)

    assert (since, capsys.readouterr().err) == (EARLIEST, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--since", "24h", "--before", "7d"), "has to be before --before"),
        (("--since", "1h", "--before", "1h"), "has to be before --before"),
        (("--since", "2199-01-01"), "is not in the past"),
        (("--since", "2199-01-01", "--before", "2199-01-02"), "is not in the past"),
        (("--since", "0d"), "is not in the past"),
        (("--since", "yesterday"), "'yesterday' is not a time: write it as"),
        (("--since", "24H"), "is not a time"),
        (("--since", "-24h"), "expected one argument"),
        (("--since", "1.5h"), "is not a time"),
        (("--since", "999999w"), "is before 1900"),
        (("--since", "0001-01-01T00:00+14:00"), "is not a time"),
        (("--since", ""), "is not a time"),
        ((), "required: --since"),
    ],
)
def test_a_window_that_makes_no_sense_is_one_error(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, and a sentence."""
    with pytest.raises(SystemExit) as ended:
        _window(*arguments)

    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert (ended.value.code, len(errors), says in errors[0]) == (2, 1, True), errors
