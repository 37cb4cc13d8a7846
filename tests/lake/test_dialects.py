"""A store of objects is asked for its dialect, and spoken to in it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.servers.seaweed import Bucket
from pipelines.lake.bucket import PROBE
from pipelines.lake.objects import update
from tests.s3_dialects import (
    BARE,
    CODED,
    CREATES_ALONE,
    CREATES_OR_501,
    ECHOED,
    IGNORANT,
    INVALID,
    NAMELESS,
    NEVER_CREATES,
    NEVER_REPLACES,
    PLAIN,
    REDRAWN,
    REPLACES_ALONE,
    REPLACES_OR_400,
    UNKNOWN,
    WEAK,
    Dialect,
)
from tests.s3_server import serving

from .test_objects import of_bucket

pytestmark = pytest.mark.integration


@pytest.mark.wide
@pytest.mark.parametrize(
    ("spoken", "said"),
    [
        (PLAIN, "conditional writes are enforced"),
        (BARE, "conditional writes are enforced, with ETags without quotes"),
        (ECHOED, "conditional writes are enforced, with ETags as read"),
        (WEAK, "conditional writes are enforced"),
        (CODED, "conditional writes are enforced"),
        (CREATES_ALONE, "the store ignores If-Match"),
        (REPLACES_ALONE, "the store ignores If-None-Match"),
        (IGNORANT, "the store ignores If-None-Match and If-Match"),
        (UNKNOWN, "the store refuses If-None-Match and If-Match"),
        (INVALID, "the store refuses If-None-Match and If-Match"),
        (CREATES_OR_501, "the store refuses If-Match"),
        (REPLACES_OR_400, "the store refuses If-None-Match"),
        (NEVER_CREATES, "the store refuses If-None-Match"),
        (NEVER_REPLACES, "the store refuses If-Match"),
        (REDRAWN, "the store refuses If-Match"),
        (NAMELESS, "the store refuses If-Match"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_store_is_asked_for_its_dialect(spoken: Dialect, said: str, tmp_path: Path) -> None:
    """The same however often it is asked, by the loop and by the doctor; no object stays."""
    with serving(spoken) as (url, place):
        objects = of_bucket(url, tmp_path)

        found = [objects.learn(), objects.learn(), objects.try_out("_dlt_doctor_probe")]

    assert [str(dialect) for dialect in found] == [said] * 3
    assert not place.objects


def test_the_real_store_is_asked_as_the_stand_ins_are(bucket: Bucket, tmp_path: Path) -> None:
    """SeaweedFS speaks the plain dialect."""
    objects = of_bucket(bucket.endpoint, tmp_path, f"{bucket.name}/{tmp_path.name}")
    objects.write("_dlt_doctor_probe", b"left by a release before", None)

    found = {str(objects.learn()), str(objects.learn()), str(objects.try_out("_dlt_doctor_probe"))}

    assert found == {"conditional writes are enforced"}


@pytest.mark.wide
@pytest.mark.parametrize("may_delete", [True, False])
@pytest.mark.parametrize("spoken", [PLAIN, BARE, CREATES_ALONE, UNKNOWN], ids=lambda spoken: spoken.name)
def test_probes_beside_each_other_find_the_same(spoken: Dialect, tmp_path: Path, *, may_delete: bool) -> None:
    """Shards, backfill's workers, the doctor; where nothing may be deleted, no object is added by the next of them."""
    with serving(spoken) as (url, place):
        place.may_delete = may_delete
        alone = str(of_bucket(url, tmp_path).learn())
        begin = threading.Barrier(8)

        def probe(number: int) -> list[str]:
            objects = of_bucket(url, tmp_path)
            begin.wait()
            return [str(objects.try_out(PROBE) if number % 2 else objects.probe(PROBE)) for _ in range(2)]

        with ThreadPoolExecutor(8) as pool:
            found = [dialect for dialects in pool.map(probe, range(8)) for dialect in dialects]

    assert found == [alone] * 16
    assert set(place.objects) == {f"root/{PROBE}"}


@pytest.mark.parametrize(
    ("before", "after"),
    [(PLAIN, BARE), (BARE, PLAIN), (PLAIN, UNKNOWN), (BARE, INVALID), (PLAIN, REDRAWN), (WEAK, ECHOED)],
    ids=lambda spoken: spoken.name,
)
def test_a_dialect_that_changes_under_a_writer_is_learned_again(
    before: Dialect, after: Dialect, tmp_path: Path
) -> None:
    """A proxy was upgraded, say."""
    with serving(before) as (url, place):
        objects = of_bucket(url, tmp_path)
        update(objects, "x", lambda _: b"1")
        place.dialect = after

        update(objects, "x", lambda body: (body or b"") + b"2")
        update(objects, "y", lambda body: (body or b"") + b"3")

    assert place.bodies("root/x") == {"root/x": b"12"}
    assert place.bodies("root/y") == {"root/y": b"3"}
