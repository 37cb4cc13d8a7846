"""A comparison rests on tallies that know every double, on contents by meaning, and on hours that are due."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.lake.key_tallies import tallies_of
from pipelines.lake.partitions import replace_events
from pipelines.proof.contents import contents_of
from pipelines.proof.reconciler import due_hours, first_stretch
from sources.cloudflare_audit_logs.events import EventKey, decode_page
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA
from sources.cloudflare_audit_logs.streams import Stream, Window
from tests.factory import ACCOUNT, encoded, v1_tree

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
HOUR = timedelta(hours=1)
KEYS = st.lists(st.tuples(st.text("abc-9", min_size=1, max_size=4), st.integers(-3_600, 200_000)), max_size=30)


def _table(keys: list[tuple[str, int]]) -> pa.Table:
    times = [datetime.fromtimestamp(0, UTC) + timedelta(seconds=second) for _, second in keys]
    schema = pa.schema([EVENT_SCHEMA.field("event_id"), EVENT_SCHEMA.field("timestamp")])
    return pa.table({"event_id": [key for key, _ in keys], "timestamp": times}, schema=schema)


@settings(max_examples=30)
@given(KEYS, st.randoms())
def test_a_tally_knows_no_order_but_every_double(keys: list[tuple[str, int]], random: Any) -> None:
    """Two sides tally alike if and only if they hold the same."""
    shuffled = list(keys)
    random.shuffle(shuffled)

    assert tallies_of(_table(shuffled)) == tallies_of(_table(keys))
    assert sum(tally.events for tally in tallies_of(_table(keys)).values()) == len(keys)
    if keys:
        assert tallies_of(_table([*keys, keys[0]])) != tallies_of(_table(keys))
        assert tallies_of(_table([(keys[0][0] + "x", keys[0][1]), *keys[1:]])) != tallies_of(_table(keys))


def test_threads_that_tally_at_once_do_not_meet() -> None:
    """Each has the keys of its own, in the one database of the process."""
    tables = [_table([(f"e{number}", second) for second in range(300)]) for number in range(12)]

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(tallies_of, tables))

    assert found == list(map(tallies_of, tables))
    assert len({tally.digest for tallies in found for tally in tallies.values()}) == len(tables)


def _contents(**fields: Any) -> dict[EventKey, str]:
    page = decode_page([encoded(v1_tree(id="e", **fields))], Stream(ACCOUNT, "v1"), datetime.now(UTC))
    return dict(contents_of(page.events))


def _content_of(raw: str) -> str:
    page = decode_page([raw.encode()], Stream(ACCOUNT, "v1"), datetime.now(UTC))
    (content,) = dict(contents_of(page.events)).values()
    return content


def test_contents_are_compared_by_what_they_mean() -> None:
    """As jsonb keeps them: order, spaces and the form of numbers do not count, every value does."""
    text = '{"id":"e","when":"2026-11-20T10:00:00Z","n":1.0,"m":[1,2],"o":{"a":1,"b":"\\u0000"}}'
    same = '{"when": "2026-11-20T10:00:00Z", "id": "e", "o": {"b": "\ufffd", "a": 1e0}, "n": 1, "m": [1, 2]}'
    others = [text.replace("[1,2]", "[2,1]"), text.replace('"a":1', '"a":"1"'), text.replace("1.0", "1.01")]

    assert _content_of(text) == _content_of(same)
    assert all(_content_of(other) != _content_of(text) for other in others)
    assert _contents(newValue="low") != _contents(newValue="lower")


def test_replacing_events_keeps_the_others_and_when_they_were_first_seen() -> None:
    """An object's rows, with one made right."""
    stream, first, later = Stream(ACCOUNT, "v1"), datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 11, 21, tzinfo=UTC)
    held = decode_page([encoded(v1_tree(id=i, newValue="wrong")) for i in "ab"], stream, first).events
    right = decode_page([encoded(v1_tree(id=i, newValue="right")) for i in "bc"], stream, later).events

    replaced = replace_events(held, right).to_pylist()

    assert [(row["event_id"], "right" in row["raw_event"], row["ingestion_time"]) for row in replaced] == [
        ("a", False, first),
        ("b", True, first),
    ]


NOW = datetime(2026, 11, 25, 12, 30, tzinfo=UTC)
AGES = [timedelta(hours=24), timedelta(hours=48)]


@pytest.mark.parametrize(
    ("hours_ago", "checked_hours_ago", "is_due"),
    [
        (24, None, False),  # its end is 23 hours ago
        (26, None, True),
        (26, 0.5, False),
        (26, 10, True),  # checked too early
        (60, 20, True),  # checked at 39 hours of age, not since it reached 48
        (60, 1, False),
        (80, None, False),  # before the window
    ],
)
def test_an_hour_is_due_when_it_reached_an_age_since_it_was_compared(
    hours_ago: float, checked_hours_ago: float | None, *, is_due: bool
) -> None:
    """And never more often."""
    hour = NOW.replace(minute=0) - timedelta(hours=hours_ago)
    checked = {} if checked_hours_ago is None else {hour: NOW - timedelta(hours=checked_hours_ago)}
    window = Window(NOW - timedelta(hours=70), NOW)

    assert (hour in set(due_hours(window, checked, AGES))) == is_due


def test_a_stretch_is_the_first_hours_that_follow_on_each_other() -> None:
    """Six at most: a task that ends."""
    hours = [DAY + HOUR * number for number in (3, 4, 6, 7)]

    assert first_stretch(iter(hours)) == Window(DAY + 3 * HOUR, DAY + 5 * HOUR)
    assert first_stretch(iter([DAY + HOUR * number for number in range(40)])) == Window(DAY, DAY + 6 * HOUR)
    assert first_stretch(iter([])) is None
