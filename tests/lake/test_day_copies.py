"""A day's copy answers as the objects of its hours do, or is not used: whatever comes late, is repaired or damaged."""

import random
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.servers.seaweed import Bucket
from pipelines.lake import bucket as bucket_module
from pipelines.lake.day_copies import DayCopy, find_copy, whole_days, write_copy
from pipelines.lake.object_format import encode, open_object
from pipelines.lake.object_rows import write_events
from pipelines.lake.objects import Folder, Listed, Objects, StoredObject, update
from pipelines.lake.partitions import Partition, account_folder, copies_folder, copy_path, replace_events
from pipelines.load.tally import NOTHING
from sources.cloudflare_audit_logs.errors import BrokenObjectError, TemporaryError
from sources.cloudflare_audit_logs.events import decode_page
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA
from sources.cloudflare_audit_logs.streams import Stream
from tests.factory import ACCOUNT, OTHER_ACCOUNT, encoded, v1_tree
from tests.s3_dialects import POOR
from tests.s3_server import serving

from .test_objects import of_bucket

DAY = date(2026, 11, 20)
MIDNIGHT = datetime(2026, 11, 20, tzinfo=UTC)
PATH = copy_path(ACCOUNT, DAY)


WEED = pytest.param("weed", marks=pytest.mark.integration)


@pytest.fixture(params=["folder", WEED, POOR[0]], ids=lambda place: getattr(place, "name", place))
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Objects]:
    """A folder, a bucket with conditions, and one that knows none."""
    if request.param == "folder":
        yield Folder(tmp_path, tmp_path / "cloudflare")
    elif request.param == "weed":
        bucket: Bucket = request.getfixturevalue("bucket")
        yield of_bucket(bucket.endpoint, tmp_path, f"{bucket.name}/{tmp_path.name}")
    else:
        with serving(request.param) as (url, _):
            yield of_bucket(url, tmp_path)


def events_of(*times: tuple[str, float], text: str = "", account: str = ACCOUNT) -> pa.Table:
    """Events by id and the hours since midnight of the day."""
    trees = [
        v1_tree(id=event_id, when=f"{MIDNIGHT + timedelta(hours=hours):%Y-%m-%dT%H:%M:%S.%fZ}", newValue=text or "low")
        for event_id, hours in times
    ]
    return decode_page(list(map(encoded, trees)), Stream(account, "v1"), MIDNIGHT).events


def fill(objects: Objects, *times: tuple[str, float]) -> None:
    """Adds events to the objects of their hours, as a load does."""
    write_events(objects, [events_of(*times)])


def hours(objects: Objects) -> list[dict[str, Any]]:
    """The rows of the hours' objects, in order."""
    paths = sorted(objects.listing(account_folder(ACCOUNT)))
    bodies = [stored.body for path in paths if (stored := objects.read(path))]
    return [row for body in bodies for row in open_object(body).read().to_pylist()]


def is_whole(objects: Objects, path: str = PATH) -> bool:
    """True if a reader would take the copy."""
    found = find_copy(objects, path)
    listed = objects.listing(account_folder(ACCOUNT))
    return found is not None and bool(whole_days({path: found}, listed))


def copied(objects: Objects, path: str = PATH) -> list[dict[str, Any]]:
    """The rows of the copy, read as `day_copies` says; OSError if a page is not as it was written."""
    file = objects.open(path)
    assert file is not None
    with closing(file):
        rows: list[dict[str, Any]] = pq.ParquetFile(file, page_checksum_verification=True).read().to_pylist()
    return rows


def test_a_copy_has_the_rows_of_its_hours_byte_for_byte_and_in_order(objects: Objects) -> None:
    """The copy has the events of every hour, and the column that only a newer release's object has."""
    fill(objects, ("a", 3.1), ("b", 3.2), ("c", 17), ("d", 23.99))
    newer = events_of(("e", 5.5)).append_column("added", pa.array(["new"]))
    objects.write(Partition(ACCOUNT, MIDNIGHT + timedelta(hours=5)).path, encode(newer), None)

    made = write_copy(objects, ACCOUNT, DAY)

    expected = [{**row, "added": row.get("added")} for row in hours(objects)]
    assert [row["event_id"] for row in expected] == ["a", "b", "e", "c", "d"]
    assert copied(objects) == expected
    assert made is not None
    assert (made.tally.events, sorted(made.hours)) == (5, ["03", "05", "17", "23"])
    assert is_whole(objects)


def test_a_late_event_makes_a_copy_old_until_it_is_made_anew(objects: Objects) -> None:
    """In an hour that was there, and in a new one."""
    for late in (3.3, 9.0):
        fill(objects, ("a", 3.1))
        write_copy(objects, ACCOUNT, DAY)
        assert is_whole(objects)

        fill(objects, (f"late-{late}", late))

        assert not is_whole(objects)
        write_copy(objects, ACCOUNT, DAY)
        assert is_whole(objects)
        assert copied(objects) == hours(objects)


def test_a_repaired_hour_of_the_same_size_makes_a_copy_old(objects: Objects) -> None:
    """Its version says so, and not its size."""
    fill(objects, ("a", 3.1))
    write_copy(objects, ACCOUNT, DAY)
    path = Partition(ACCOUNT, MIDNIGHT + timedelta(hours=3)).path
    size = objects.listing(account_folder(ACCOUNT))[path].size
    held = open_object(_read(objects, path)).read()
    rights = (encode(replace_events(held, events_of(("a", 3.1), text=f"lo{number}"))) for number in range(1_000))

    body = next(right for right in rights if len(right) == size)
    update(objects, path, lambda _: body)

    assert objects.listing(account_folder(ACCOUNT))[path].size == size
    assert not is_whole(objects)


def test_a_day_without_objects_has_no_copy(objects: Objects) -> None:
    """And loses the one that it had."""
    assert write_copy(objects, ACCOUNT, DAY) is None
    fill(objects, ("a", 3.1))
    write_copy(objects, ACCOUNT, DAY)
    assert objects.listing(copies_folder(ACCOUNT))

    objects.delete(Partition(ACCOUNT, MIDNIGHT + timedelta(hours=3)).path)

    assert not is_whole(objects)
    assert write_copy(objects, ACCOUNT, DAY) is None
    assert not objects.listing(copies_folder(ACCOUNT))


def test_a_copy_that_somebody_put_in_its_place_is_not_used(objects: Objects) -> None:
    """That of another day, of another account, an older one, one cut off, an empty one, any other Parquet."""
    fill(objects, ("a", 3.1), ("b", 27.1))
    write_events(objects, [events_of(("a", 3.1), account=OTHER_ACCOUNT)])
    older = _body(objects, write_copy(objects, ACCOUNT, DAY))
    fill(objects, ("late", 3.2))
    own = _body(objects, write_copy(objects, ACCOUNT, DAY))
    next_day = _body(objects, write_copy(objects, ACCOUNT, DAY + timedelta(days=1)))
    other = _body(objects, write_copy(objects, OTHER_ACCOUNT, DAY))
    hour = _body(objects, DayCopy(Partition(ACCOUNT, MIDNIGHT + timedelta(hours=3)).path, {}, NOTHING, "", ""))
    assert is_whole(objects)

    for body in (older, next_day, other, hour, own[:-1], own[: len(own) // 2], own[-1000:], b"", b"PAR1"):
        _put(objects, body)
        assert not is_whole(objects)

    _put(objects, own)
    assert is_whole(objects)


def test_a_bit_that_flips_in_a_copy_is_noticed(tmp_path: Path) -> None:
    """A changed footer is noticed by its digest, and everything before it by another one."""
    objects = Folder(tmp_path, tmp_path / "cloudflare")
    fill(objects, *((f"event-{number:03}", number / 10) for number in range(240)))
    own = _body(objects, write_copy(objects, ACCOUNT, DAY))
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    assert is_whole(objects)
    for _ in range(150):
        flipped = bytearray(own)
        flipped[dice.randrange(len(own))] ^= 1 << dice.randrange(8)
        _put(objects, bytes(flipped))

        assert not is_whole(objects)


@pytest.mark.parametrize("moment", ["listing", "read"])
def test_a_copy_is_not_made_of_hours_that_change_under_it(tmp_path: Path, moment: str) -> None:
    """A writer is quicker each time: then there is no copy; once, and the day is begun again."""

    class Busy(Folder):
        changes = 0

        def listing(self, folder: str) -> dict[str, Listed]:
            found = super().listing(folder)
            self.change_after("listing")
            return found

        def read(self, path: str) -> StoredObject | None:
            found = super().read(path)
            self.change_after("read")
            return found

        def change_after(self, call: str) -> None:
            if self.changes and call == moment:
                self.changes -= 1
                fill(Folder(tmp_path, tmp_path / "cloudflare"), (f"late-{self.changes}", 3.5))

    objects = Busy(tmp_path, tmp_path / "cloudflare")
    fill(objects, ("a", 3.1))

    objects.changes = 1
    made = write_copy(objects, ACCOUNT, DAY)
    assert made is not None
    assert made.tally.events == 2
    assert is_whole(objects)

    objects.changes = 1_000
    with pytest.raises(TemporaryError, match="cannot be made"):
        write_copy(objects, ACCOUNT, DAY)
    objects.changes = 0
    assert not is_whole(objects)
    assert [row["event_id"] for row in copied(objects)] == ["a", "late-0"]
    assert not list((tmp_path / ".partial").iterdir())


def test_an_hour_that_cannot_be_read_makes_no_copy_and_is_named(objects: Objects) -> None:
    """The old copy stays, and is not used."""
    fill(objects, ("a", 3.1), ("b", 4))
    write_copy(objects, ACCOUNT, DAY)
    path = Partition(ACCOUNT, MIDNIGHT + timedelta(hours=3)).path
    update(objects, path, lambda body: (body or b"")[:100])

    with pytest.raises(BrokenObjectError, match="hour=03"):
        write_copy(objects, ACCOUNT, DAY)

    assert not is_whole(objects)
    assert len(copied(objects)) == 2


def test_a_listing_without_versions_makes_no_copy_whole() -> None:
    """A size alone does not tell an hour from a repaired one."""
    copy = DayCopy(PATH, {"03": Listed(7, "")}, NOTHING, "", "")
    path = Partition(ACCOUNT, MIDNIGHT + timedelta(hours=3)).path

    assert whole_days({PATH: copy}, {path: Listed(7, "")}) == set()
    assert whole_days({PATH: copy._replace(hours={"03": Listed(7, "x")})}, {path: Listed(7, "x")}) == {(ACCOUNT, DAY)}


@pytest.mark.parametrize("objects", ["folder", WEED], indirect=True)
def test_a_large_day_is_read_and_written_in_parts(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hours' objects through their row groups, and the copy in several parts of an upload."""
    monkeypatch.setattr(bucket_module, "LARGEST_PUT_BYTES", 5 * 2**20)
    noise = random.Random(1)
    for hour in (2, 3):
        times = [(f"event-{hour}-{number:05}", hour + number / 7_000) for number in range(6_000)]
        large = events_of(*times)
        texts = pa.array([noise.randbytes(900).hex() for _ in times])
        large = large.set_column(large.schema.get_field_index("raw_event"), EVENT_SCHEMA.field("raw_event"), texts)
        objects.write(Partition(ACCOUNT, MIDNIGHT + timedelta(hours=hour)).path, encode(large), None)
    assert all(found.size > 4 * 2**20 for found in objects.listing(account_folder(ACCOUNT)).values())

    write_copy(objects, ACCOUNT, DAY)

    assert is_whole(objects)
    assert objects.listing(copies_folder(ACCOUNT))[PATH].size > 8 * 2**20
    assert copied(objects) == hours(objects)


def _body(objects: Objects, copy: DayCopy | None) -> bytes:
    assert copy is not None
    return _read(objects, copy.path)


def _read(objects: Objects, path: str) -> bytes:
    stored = objects.read(path)
    assert stored is not None
    return stored.body


def _put(objects: Objects, body: bytes, path: str = PATH) -> None:
    with objects.writing(path) as file:
        file.write(body)
