"""An object holds the events of one account and hour, each once, whatever is merged into it and how often."""

import random
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.lake import object_format
from pipelines.lake.object_format import encode, open_object, read_rows
from pipelines.lake.partitions import Partition, add_events, hours_of, merge_events, split
from pipelines.load.held_keys import HeldKeys
from sources.cloudflare_audit_logs.events import decode_page, event_keys
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA
from sources.cloudflare_audit_logs.streams import Stream
from tests.factory import ACCOUNT, encoded, v1_tree

SEEN = datetime(2026, 11, 24, tzinfo=UTC)


def events(*times: str, account: str = ACCOUNT, version: str = "v1", seen: datetime = SEEN, **fields: str) -> pa.Table:
    """Events at these times."""
    slices = [encoded(v1_tree(when=time, **fields)) for time in times]
    table = decode_page(slices, Stream(account, "v1"), seen).events
    return table.set_column(3, table.schema.field(3), pa.array([version] * table.num_rows))


def test_a_partition_has_the_path_that_readers_rely_on() -> None:
    """Hive keys in UTC, none of them a column's name."""
    partition = Partition("a1", datetime(2026, 1, 2, 3, tzinfo=UTC))

    assert partition.path == "audit_logs/account=a1/date=2026-01-02/hour=03/events.parquet"


@pytest.mark.parametrize(
    ("time", "path"),
    [
        ("2026-11-20T10:59:59.999999Z", "date=2026-11-20/hour=10"),
        ("2026-11-20T11:00:00Z", "date=2026-11-20/hour=11"),
        ("2025-12-31T23:59:59.999999Z", "date=2025-12-31/hour=23"),
        ("2026-01-01T00:00:00Z", "date=2026-01-01/hour=00"),
        ("2024-02-29T23:30:00+01:00", "date=2024-02-29/hour=22"),
        ("1969-12-31T23:59:59Z", "date=1969-12-31/hour=23"),
    ],
)
def test_an_event_lies_in_the_hour_of_its_time(time: str, path: str) -> None:
    """On the edges of hour, day, year, leap day and epoch."""
    ((partition, _),) = split(events(time))

    assert path in partition.path


def test_a_batch_is_split_by_account_and_hour() -> None:
    """Every event in exactly one part."""
    batch = pa.concat_tables(
        [events("2026-11-20T10:00:00Z", "2026-11-20T11:00:00Z", account=account) for account in ("a", "b")]
    )

    parts = {partition.path: rows.num_rows for partition, rows in split(batch)}

    assert len(parts) == 4
    assert set(parts.values()) == {1}


def test_what_is_there_already_is_left_as_it_is() -> None:
    """None means that there is nothing to write; the first sight of an event is kept."""
    first = events("2026-11-20T10:00:00Z", id="a")
    again = events("2026-11-20T10:00:00Z", id="a", seen=SEEN + timedelta(hours=1))
    both = pa.concat_tables([again, events("2026-11-20T10:00:01Z", id="b")])

    assert merge_events(first, again) is None
    merged = merge_events(first, both)
    assert merged is not None
    assert merged["ingestion_time"].to_pylist()[0] == SEEN


def test_the_same_id_at_another_time_or_in_another_version_is_another_event() -> None:
    """As the key says."""
    same = events("2026-11-20T10:00:00Z", id="a")
    other = [events("2026-11-20T10:00:01Z", id="a"), events("2026-11-20T10:00:00Z", id="a", version="v2")]

    merged = merge_events(same, pa.concat_tables(other))

    assert merged is not None
    assert merged.num_rows == 3


@given(
    numbers=st.lists(st.lists(st.integers(0, 30), max_size=10), max_size=8),
    seed=st.integers(0, 5),
)
def test_adding_in_any_order_and_any_number_of_times_gives_the_same_object(numbers: list[list[int]], seed: int) -> None:
    """By time and id, each event once, in row groups that are full but for the last."""
    batches = [_numbered(batch) for batch in numbers if batch]
    shuffled = random.Random(seed).sample(batches * 2, len(batches) * 2)  # not for secrets

    held: bytes | None = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_format, "ROW_GROUP_EVENTS", 4)
        for batch in shuffled:
            held = add_events(held, batch) or held

    expected = sorted({number for batch in numbers for number in batch}, key=lambda number: (number // 3, f"e{number}"))
    file = pq.ParquetFile(BytesIO(held)) if held else None
    assert (file.read()["event_id"].to_pylist() if file else []) == [f"e{number}" for number in expected]
    if file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        assert set(sizes[:-1]) <= {4}
        assert sizes[-1] <= 4


def test_an_object_is_read_by_everyone_as_it_is(tmp_path: Path) -> None:
    """DuckDB, pyarrow with hive partitions, Polars; zstd."""
    table = events("2026-11-20T10:00:00Z", "2026-11-20T10:00:01.5Z")
    path = tmp_path / Partition(ACCOUNT, datetime(2026, 11, 20, 10, tzinfo=UTC)).path
    path.parent.mkdir(parents=True)
    path.write_bytes(encode(table))

    ids = table["event_id"].to_pylist()
    assert read_rows(open_object(path.read_bytes()), EVENT_SCHEMA).equals(table)
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    found = duckdb.execute(f"SELECT event_id FROM '{path}' ORDER BY timestamp").fetchall()
    assert [row[0] for row in found] == ids
    hive = ds.dataset(tmp_path / "audit_logs", partitioning="hive").to_table(columns=["event_id", "account", "hour"])
    assert hive["event_id"].to_pylist() == ids


def test_the_hours_of_a_window_are_all_that_it_touches() -> None:
    """Half open: an hour that begins at `before` is not one of them."""
    since = datetime(2026, 11, 20, 22, 59, tzinfo=UTC)

    hours = list(hours_of(since, since.replace(day=21, hour=1, minute=0)))

    assert [hour.hour for hour in hours] == [22, 23, 0]


class TestKnown:
    """The events that a destination holds are remembered, so that only those it lacks are loaded."""

    def test_each_event_is_lacking_once(self) -> None:
        """Doubles within a page or between pages that drift are left out."""
        page = pa.concat_tables([events("2026-11-20T10:00:00Z", id=name) for name in ("a", "b", "a")])

        lacking = HeldKeys().lacking(page, lambda *_: set())

        assert lacking["event_id"].to_pylist() == ["a", "b"]

    def test_the_destination_is_asked_for_an_hour_once_and_not_at_all_when_complete(self) -> None:
        """However many pages it takes."""
        asked: list[datetime] = []
        page, known = events("2026-11-20T10:00:00Z", "2026-11-20T11:30:00Z", id="a"), HeldKeys()

        def read_keys(since: datetime, _: datetime) -> set[tuple[str, int]]:
            asked.append(since)
            return {event_keys(page)[0]} if since.hour == 10 else set()

        first = known.lacking(page, read_keys)
        known.lacking(page, read_keys)
        known.complete(datetime(2026, 11, 20, 10, tzinfo=UTC))
        known.lacking(events("2026-11-20T15:00:00Z"), read_keys)

        assert first["timestamp"].to_pylist() == [datetime(2026, 11, 20, 11, 30, tzinfo=UTC)]
        assert sorted(hour.hour for hour in asked) == [10, 11]

    def test_what_no_window_asks_for_is_forgotten(self) -> None:
        """Memory follows the overlap, not the history."""
        known = HeldKeys()
        old, new = events("2026-11-20T10:00:00Z"), events("2026-11-20T11:00:00Z", "2026-11-20T12:00:00Z")
        known.lacking(pa.concat_tables([old, new]), lambda *_: set())
        known.keys.update(event_keys(old) + event_keys(new))

        known.forget_before(datetime(2026, 11, 20, 11, 30, tzinfo=UTC))

        assert known.keys == set(event_keys(new))
        assert sorted(hour.hour for hour in known.hours) == [11, 12]


def _numbered(numbers: list[int]) -> pa.Table:
    """Events that differ by number, three to a second."""
    slices = [encoded(v1_tree(id=f"e{n}", when=f"2026-11-20T10:00:{n // 3:02}Z")) for n in numbers]
    return decode_page(slices, Stream(ACCOUNT, "v1"), SEEN).events
