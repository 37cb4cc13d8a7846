"""A page's address says what it shows."""

from datetime import UTC, datetime, timedelta

import pytest

from dashboard import page
from dashboard.questions import LOOK_BACK, Filters

NOW = datetime(2026, 11, 25, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("begin", "end", "window"),
    [
        ("2026-11-20", "2026-11-20", ("2026-11-20T00:00", "2026-11-21T00:00")),
        ("2026-11-20T13:00", "2026-11-20T14:30", ("2026-11-20T13:00", "2026-11-20T14:30")),
        ("2026-11-20T13:00+02:00", "2026-11-20T14:30Z", ("2026-11-20T11:00", "2026-11-20T14:30")),
        ("2026-11-20T14:00", "2026-11-20T13:00", ("2026-11-20T13:00", "2026-11-20T14:00")),
        ("2026-11-20T13:00", "2026-11-20T13:00", ("2026-11-20T13:00", "2026-11-20T13:01")),
        ("0001-01-01", "9999-12-31", ("1900-01-01T00:00", "9000-01-01T00:00")),
        ("9999-12-31", "9999-12-31", ("9000-01-01T00:00", "9000-01-01T00:01")),
        ("soon", "", ("2026-11-19T00:00", "2026-11-26T00:00")),
        ("0001-01-01T00:00+09:00", "2026-11-20", ("2026-11-19T00:00", "2026-11-26T00:00")),
    ],
)
def test_any_time_of_the_calendar_can_be_asked_for(begin: str, end: str, window: tuple[str, str]) -> None:
    """Days or minutes, in whichever order; it stays where there can be events, and the weeks before can be reckoned."""
    since, before = page.window_of(page.DATES, *page.dates_of({"from": begin, "to": end}, NOW), NOW)

    assert (f"{since:{page.TIME}}", f"{before:{page.TIME}}") == window
    assert since - LOOK_BACK < since < before
    assert since.tzinfo == UTC


def test_what_an_address_does_not_get_is_said() -> None:
    """An account that is not there, times that are none; nothing where all is well."""
    assert page.misread({"account": "a", "from": "2026-11-20", "to": "2026-11-21T10:00"}, ["a"]) == []
    (account, times) = page.misread({"account": "b", "from": "soon"}, ["a"])
    assert "there is no account b" in account
    assert "2026-11-20T13:00" in times


def test_where_both_versions_are_counted_the_numbers_say_so() -> None:
    """The page has the number of each version, and says that deeds count twice; nothing if one version is chosen."""
    one, other = ({"subject": "version", "value": v, "events": n, "failures": 0} for v, n in (("v2", 30), ("v1", 12)))
    time = {"subject": "time", "value": None, "events": 42, "failures": 0}
    week = Filters(NOW - timedelta(days=7), NOW)
    alone, both = (page.by_subject([time, *versions]) for versions in ([one], [one, other]))

    assert page.numbers_of(both, week)[0] == ("Events", "42", "6 a day; 12 in v1; 30 in v2")
    assert page.numbers_of(alone, week)[0] == ("Events", "42", "6 a day")
    assert page.counted_twice(alone) == page.counted_twice(page.by_subject([])) == []
    assert "counted twice" in page.counted_twice(both)[0]


def test_the_last_hours_are_up_to_now() -> None:
    """Whatever the dates say."""
    assert page.window_of("Last hour", NOW, NOW, NOW) == (NOW - timedelta(hours=1), NOW)
