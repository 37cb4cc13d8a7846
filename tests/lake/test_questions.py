"""A question reads the copies of whole days and the hours elsewhere; what changes under it makes it be asked again."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.servers.seaweed import S3_KEYS, Bucket
from pipelines.lake.ask.bucket_place import BucketPlace
from pipelines.lake.ask.database import ask_lake
from pipelines.lake.ask.files import LakeFiles
from pipelines.lake.ask.places import Days, FolderPlace, Place, place_of_settings
from pipelines.lake.day_copies import write_copy
from pipelines.lake.objects import Folder, Objects, update
from pipelines.lake.partitions import Partition, copy_path
from pipelines.lake.reads import place_of_dlt
from pipelines.settings.dlt_names import dlt_is_silent
from pipelines.settings.settings import PROJECT_ROOT, read_environment, read_store_settings
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError
from sources.cloudflare_audit_logs.schema import EVENT_SCHEMA
from tests.factory import ACCOUNT

from .test_day_copies import DAY, MIDNIGHT, fill
from .test_objects import of_bucket

pytestmark = pytest.mark.integration

IDS = "SELECT list(event_id ORDER BY event_id) FROM audit_logs()"
Lake = tuple[Objects, Place]


@pytest.fixture(params=["folder", "bucket"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """A folder and a bucket, empty, as they are written and as they are read."""
    if request.param == "folder":
        return Folder(tmp_path, tmp_path / "cloudflare"), FolderPlace(tmp_path / "cloudflare")
    bucket: Bucket = request.getfixturevalue("bucket")
    access, secret = S3_KEYS.values()
    where = {"endpoint": bucket.endpoint, "region": "us-east-1"}
    place = BucketPlace(bucket.name, f"asked/{tmp_path.name}", where, lambda: (access, secret, None))
    return of_bucket(bucket.endpoint, tmp_path, f"{bucket.name}/asked/{tmp_path.name}"), place


def _answer(
    sql: str, database: duckdb.DuckDBPyConnection, files: LakeFiles, *, before: Callable[[LakeFiles], object] = bool
) -> Any:
    files.glob("lake://audit_logs/account=*/date=*/hour=*/events.parquet")
    before(files)
    ((answer,),) = database.execute(sql).fetchall()
    return answer


def _ids(place: Place, sql: str = IDS, before: Callable[[LakeFiles], object] = bool) -> Any:
    return ask_lake(place, partial(_answer, sql, before=before))


def _objects_of(place: Place) -> tuple[int, int]:
    """The objects that a question takes: of hours, and copies."""
    found = list[tuple[int, int]]()

    def ask(files: LakeFiles) -> None:
        plans = [files.glob(f"lake://{path}.parquet") for path in (HOURS, COPIES)]
        found.append((len(plans[0]), len(plans[1])))

    _ids(place, before=ask)
    return found[-1]


HOURS, COPIES = "audit_logs/account=*/date=*/hour=*/events", "audit_logs_days/account=*/date=*/*"


def test_a_whole_day_is_read_from_its_copy(lake: Lake) -> None:
    """And answers as its hours do; a late event makes the hours count again, a new copy the copy."""
    objects, place = lake
    fill(objects, ("a", 1), ("b", 2), ("c", 25))
    assert (_ids(place), _objects_of(place)) == (["a", "b", "c"], (3, 0))

    write_copy(objects, ACCOUNT, DAY)
    assert (_ids(place), _objects_of(place)) == (["a", "b", "c"], (1, 1))
    assert _ids(place, "SELECT list(hour ORDER BY hour) FROM audit_logs() WHERE date = '2026-11-20'") == [1, 2]

    fill(objects, ("d", 2.5))
    assert (_ids(place), _objects_of(place)) == (["a", "b", "c", "d"], (3, 0))

    write_copy(objects, ACCOUNT, DAY)
    assert (_ids(place), _objects_of(place)) == (["a", "b", "c", "d"], (1, 1))


def test_what_is_filtered_out_is_not_opened(lake: Lake) -> None:
    """By account, date and hour; counted where we open: a folder's files DuckDB opens itself."""
    objects, place = lake
    fill(objects, *((f"{hour}", hour) for hour in range(48)))
    write_copy(objects, ACCOUNT, DAY)
    opened = list[LakeFiles]()

    counts = [
        _ids(place, f"SELECT count(*) FROM audit_logs() WHERE {where}", opened.append)
        for where in ("date = '2026-11-20'", "date = '2026-11-21' AND hour = 3", "account = 'nobody'")
    ]

    assert counts == [24, 1, 0]
    if not place.is_local:
        assert [files.opened for files in opened] == [1, 1, 0]


@pytest.mark.parametrize("days", [Days(), Days("other*"), Days("*", "2026-02-11", "2026-04-02"), Days("a?", "2026-03")])
@pytest.mark.parametrize("table", ["audit_logs", "audit_logs_days"])
def test_the_objects_of_any_days_are_found_in_order(lake: Lake, table: str, days: Days) -> None:
    """Of more days than one answer to a listing has room for; foreign names among them are left out."""
    objects, place = lake
    dates = [f"{datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number):%Y-%m-%d}" for number in range(0, 120, 2)]
    dice, expected = random.Random(20261128), list[str]()
    for account, date in product(("a1", "other"), dates):
        hours = sorted(dice.sample(range(24), dice.choice([1, 2, 24 if date[-1] == "1" else 3])))
        folder = f"{table}/account={account}/date={date}"
        names = [f"hour={hour:02}/events" for hour in hours] if table == "audit_logs" else ["events"]
        for name in names:
            update(objects, f"{folder}/{name}.parquet", lambda _: b"x")
            if fnmatchcase(account, days.accounts) and days.has(date):
                expected.append(f"{folder}/{name}.parquet")
    for name in ("date=", "date=2026-02-30x", "dates", "date=~"):
        update(objects, f"{table}/account=a1/{name}/notes.txt", lambda _: b"x")

    found = list(place.find(table, days))

    assert [its.path for its in found] == expected
    assert {its.listed.size for its in found} == {1}


def test_an_object_that_changes_under_a_question_makes_it_be_asked_again(lake: Lake) -> None:
    """Removed or replaced between the list and the reading: the answer is the new state, and no error."""
    objects, place = lake
    fill(objects, ("a", 1), ("b", 2))
    gone = Partition(ACCOUNT, MIDNIGHT + timedelta(hours=2)).path
    more = iter([("c", 1.5)])

    assert _ids(place, before=lambda _: objects.delete(gone)) == ["a"]

    def add(_: LakeFiles) -> None:
        for event in more:
            fill(objects, event)

    assert _ids(place, before=add) == ["a", "c"]


def test_an_object_that_never_stands_still_is_still_read(lake: Lake) -> None:
    """It is replaced under every attempt: from the second on, it is held."""
    objects, place = lake
    fill(objects, ("a", 1))
    numbers = iter(range(10))

    ids = _ids(place, before=lambda _: fill(objects, (f"b{next(numbers)}", 1.5)))

    assert ids[0] == "a"


def test_a_copy_that_is_none_is_not_used(lake: Lake) -> None:
    """A copy cut off, or of bytes of something else."""
    objects, place = lake
    fill(objects, ("a", 1))
    copy = write_copy(objects, ACCOUNT, DAY)
    assert copy is not None
    stored = objects.read(copy.path)
    assert stored is not None

    for body in (stored.body[:-9], b"PAR1", b""):
        held = objects.read(copy.path)
        objects.write(copy.path, body, held.version if held else None)
        assert _ids(place) == ["a"]


@pytest.mark.wide
def test_any_byte_of_a_copy_that_changes_makes_its_hours_answer(lake: Lake) -> None:
    """In every page, which DuckDB would not notice, in several copies at once, and with the size as it was."""
    objects, place = lake
    fill(objects, *((f"{number:03}", number / 5) for number in range(240)))
    copies = [write_copy(objects, ACCOUNT, DAY + timedelta(days=number)) for number in range(2)]
    paths = [copy.path for copy in copies if copy]
    bodies = {path: stored.body for path in paths if (stored := objects.read(path))}
    right = _alike(place)
    assert _objects_of(place) == (0, 2)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)

    for _ in range(20):
        for path, body in bodies.items():
            flipped = bytearray(body)
            flipped[dice.randrange(len(body))] ^= 1 << dice.randrange(8)
            _put(objects, bytes(flipped), path)
        assert _alike(place) == right

    for path, body in bodies.items():
        _put(objects, body, path)
    assert _alike(place) == right
    assert _objects_of(place) == (0, 2)


CHANGES = st.tuples(st.sampled_from(["late", "copy", "repair", "damage", "older"]), st.integers(0, 30))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CHANGES, max_size=9))
def test_hours_and_copies_answer_alike(tmp_path_factory: pytest.TempPathFactory, story: list[tuple[str, int]]) -> None:
    """After late events, repairs, copies made or not, damaged, or put back from before; every column counts."""
    root = tmp_path_factory.mktemp("lake")
    objects, place = Folder(root, root / "cloudflare"), FolderPlace(root / "cloudflare")
    fill(objects, ("first", 1))
    older = dict[str, bytes]()
    for number, (change, hour) in enumerate(story):
        partition = Partition(ACCOUNT, MIDNIGHT + timedelta(hours=hour))
        path = copy_path(ACCOUNT, partition.hour.date())
        stored = objects.read(path)
        if change == "late":
            fill(objects, (f"late-{number}", hour + 0.5))
        elif change == "repair" and objects.read(partition.path):
            objects.delete(partition.path)
            fill(objects, (f"repaired-{number}", hour + 0.2))
        elif change == "copy" and (copy := write_copy(objects, ACCOUNT, partition.hour.date())):
            older.setdefault(copy.path, (root / "cloudflare" / copy.path).read_bytes())
        elif change == "damage" and stored:
            at = number * 37 % len(stored.body)
            _put(objects, stored.body[:at] + b"x" + stored.body[at + 1 :], path)
        elif change == "older" and path in older:
            _put(objects, older[path], path)

        assert _alike(place) == _alike(place, f"read_parquet('{root}/cloudflare/audit_logs/*/*/*/events.parquet')")


def _alike(place: Place, source: str = "audit_logs()") -> Any:
    """All values of all events."""
    names = ", ".join(f'"{name}"' for name in EVENT_SCHEMA.names)
    return _ids(place, f"SELECT list(ROW({names})::text ORDER BY event_id) FROM {source}")  # ours


def _put(objects: Objects, body: bytes, path: str) -> None:
    with objects.writing(path) as file:
        file.write(body)


def test_a_store_that_is_not_there_is_told_as_ours(tmp_path: Path) -> None:
    """Nobody listens: it may pass. No lake: it does not."""
    nobody = BucketPlace("lake", "x", {"endpoint": "http://127.0.0.1:9", "region": "x"}, lambda: ("k", "s", None))

    with pytest.raises(TemporaryError, match="the lake is not available"):
        _ids(nobody)
    with pytest.raises(AuditLogsError, match="there is no lake"):
        _ids(FolderPlace(tmp_path / "nothing"))


def test_without_dlt_the_lake_is_where_dlt_has_it(
    environment: dict[str, str], bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder, and a bucket; any name of dlt's makes dlt be asked."""
    for more in ({}, bucket.settings("a/b")):
        for name, value in {**environment, **more}.items():
            monkeypatch.setenv(name, value)
        # dlt reads its configuration once a process.
        Container()[PluggableRunContext].reload(str(PROJECT_ROOT))
        ours = place_of_settings(read_store_settings(read_environment()))

        assert ours is not None
        assert ours.url("x") == place_of_dlt().url("x")
    for name in ("DESTINATION__BUCKET_URL", "X__CREDENTIALS__Y", "DLT_PROJECT_DIR"):
        assert not dlt_is_silent({name: "x"})
