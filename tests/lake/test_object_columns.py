"""An object of an older release takes events of ours in, and one of a newer release keeps what we do not know."""

from datetime import UTC, datetime
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.lake.object_format import NewerVersionError, encode, open_object, read_rows
from pipelines.lake.partitions import add_events, add_quarantined, replace_events
from sources.cloudflare_audit_logs.events import decode_page
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA, SCHEMA_VERSION
from sources.cloudflare_audit_logs.streams import Stream
from tests.factory import ACCOUNT, encoded, v1_tree

SEEN = datetime(2026, 11, 24, tzinfo=UTC)
FIRST, SECOND = "2026-11-20T10:00:00Z", "2026-11-20T10:30:00Z"


def events(time: str, **fields: str) -> pa.Table:
    """One event."""
    return decode_page([encoded(v1_tree(when=time, **fields))], Stream(ACCOUNT, "v1"), SEEN).events


def without(column: str, table: pa.Table) -> bytes:
    """An object of a release that did not know a column."""
    return encode(table.drop_columns([column]))


def with_ray(table: pa.Table) -> bytes:
    """An object of a release that knows one more, which is required there."""
    column = pa.field("ray", pa.string(), nullable=False)
    return encode(table.append_column(column, pa.array(["r"] * table.num_rows, pa.string())))


@pytest.mark.parametrize("column", ["zone_name", "actor_context"])
@pytest.mark.parametrize("new", [SECOND, FIRST])
def test_an_object_that_lacks_a_nullable_column_takes_events_in(column: str, new: str) -> None:
    """Behind what it holds and in between; null in its own, the value in the new one."""
    held, value = without(column, events(FIRST, id="a")), events(new, id="b")[column].to_pylist()

    body = add_events(held, events(new, id="b"))

    assert body is not None
    rows = read_rows(open_object(body), EVENT_SCHEMA)
    assert rows["event_id"].to_pylist() == ["a", "b"]
    assert rows[column].to_pylist() == [None, *value] != [None, None]
    assert add_events(body, events(FIRST, id="a")) is None


@pytest.mark.parametrize("new", [SECOND, FIRST])
def test_a_column_of_a_newer_release_stays_in_the_object(new: str) -> None:
    """With its values, whatever is added or replaced; null in what this release adds."""
    held = with_ray(events(FIRST, id="a"))

    body = add_events(held, events(new, id="b"))

    assert body is not None
    merged = pq.ParquetFile(BytesIO(body)).read()
    assert merged.select(["event_id", "ray"]).to_pydict() == {"event_id": ["a", "b"], "ray": ["r", None]}
    replaced = replace_events(merged, events(FIRST, id="a", interface="UI"))
    assert replaced.select(["event_id", "actor_context", "ray"]).to_pylist() == [
        {"event_id": "a", "actor_context": "UI", "ray": "r"},
        {"event_id": "b", "actor_context": "API", "ray": None},
    ]


@pytest.mark.parametrize("column", ["event_id", "raw_event"])
def test_an_object_that_lacks_a_required_column_is_none_of_ours(column: str) -> None:
    """As ever."""
    with pytest.raises(LookupError, match=column):
        add_events(without(column, events(FIRST)), events(SECOND))


def test_an_object_says_its_version_and_a_higher_one_is_left_alone() -> None:
    """Neither read nor changed; the number is in the file's own metadata."""
    metadata = open_object(encode(events(FIRST))).metadata.metadata
    buffer = BytesIO()
    newer = events(FIRST).replace_schema_metadata({"schema_version": str(SCHEMA_VERSION + 1)})
    pq.write_table(newer, buffer)
    quarantined = decode_page([b"{}"], Stream(ACCOUNT, "v1"), SEEN).quarantined

    assert metadata[b"schema_version"] == str(SCHEMA_VERSION).encode()
    with pytest.raises(NewerVersionError, match=f"schema_version is {SCHEMA_VERSION + 1}"):
        add_events(buffer.getvalue(), events(SECOND))
    with pytest.raises(NewerVersionError):
        add_quarantined(buffer.getvalue(), quarantined)
