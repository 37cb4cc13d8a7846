"""The lake's objects are replaced as if no one else wrote: in a folder, on a real S3 server, in every dialect of S3."""

import resource
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import s3fs

from benchmarks.servers.s3_gate import gate_before
from benchmarks.servers.seaweed import S3_KEYS, Bucket
from pipelines.lake.bucket import Bucket as S3Objects
from pipelines.lake.objects import ConflictError, Folder, Objects, update, write_file
from pipelines.lake.s3_files import END_BYTES, adapted
from sources.cloudflare_audit_logs.errors import AuditLogsError
from tests.s3_dialects import (
    PLAIN,
    POOR,
    SAFE,
)
from tests.s3_server import assert_plain, serving

pytestmark = pytest.mark.integration

Open = Callable[[], Objects]
"""Each writer opens the place for itself."""


@pytest.fixture(params=["folder", "weed", *SAFE, *POOR], ids=lambda place: getattr(place, "name", place))
def open_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Every kind of place, empty."""
    if request.param == "folder":
        yield lambda: Folder(tmp_path, tmp_path / "cloudflare")
    elif request.param == "weed":
        bucket: Bucket = request.getfixturevalue("bucket")
        yield lambda: of_bucket(bucket.endpoint, tmp_path, f"{bucket.name}/{tmp_path.name}")
    else:
        with serving(request.param) as (url, _):
            yield lambda: of_bucket(url, tmp_path)


def of_bucket(endpoint: str, tmp_path: Path, root: str = "lake/root") -> S3Objects:
    """Objects in a bucket, as one writer of several sees them."""
    return S3Objects(_client(endpoint), root, lambda: tmp_path / "data" / "lock")


@cache
def _client(endpoint: str) -> Any:
    """As dlt makes it: without the checksums that not every store knows. One for all writers: each costs 0.3 s."""
    when_required = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    of_dlt = s3fs.S3FileSystem(
        key=S3_KEYS["S3_ACCESS_KEY"],
        secret=S3_KEYS["S3_SECRET_KEY"],
        endpoint_url=endpoint,
        use_listings_cache=False,
        config_kwargs=when_required,
        skip_instance_cache=True,
    )
    return adapted(of_dlt)


@pytest.mark.wide
def test_an_object_is_made_replaced_and_left_alone(open_place: Open) -> None:
    """Only a change writes."""
    objects = open_place()

    assert objects.read("a/b") is None
    assert update(objects, "a/b", lambda body: b"1" if body is None else b"wrong")
    assert update(objects, "a/b", lambda body: (body or b"") + b"2")
    assert update(objects, "a/b", lambda body: (body or b"") + b"3")
    assert not update(objects, "a/b", lambda _: None)

    stored = objects.read("a/b")
    assert stored is not None
    assert stored.body == b"123"


@pytest.mark.wide
def test_writers_beside_each_other_lose_nothing(open_place: Open) -> None:
    """Ten changes of each of four, all in the end; where there are no conditions, a lock on this host sees to it."""

    def add(writer: int) -> None:
        objects = open_place()
        for number in range(10):
            update(objects, "shared", lambda body, n=number: (body or b"") + f"{writer}-{n} ".encode())  # type: ignore[misc]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))

    stored = open_place().read("shared")
    assert stored is not None
    assert sorted(stored.body.split()) == sorted(f"{w}-{n}".encode() for w in range(4) for n in range(10))


@pytest.mark.wide
def test_what_is_there_is_found_listed_and_read_in_parts(open_place: Open) -> None:
    """However many keys a listing shows at once; an object without bytes, too."""
    objects = open_place()
    large = bytes(range(256)) * (END_BYTES // 128)
    bodies = {f"a=1/hour={number:02}/x": bytes([number]) for number in range(7)} | {"a=1/large": large, "a=1/none": b""}
    for path, body in bodies.items():
        objects.write(path, body, None)

    sizes = {path: found.size for path, found in objects.listing("a=1").items()}
    assert sizes == {path: len(body) for path, body in bodies.items()}
    assert (objects.is_there("a=1"), objects.is_there("a")) == (True, False)
    assert objects.open("a=1/absent") is None
    for path, body in bodies.items():
        file = objects.open(path)
        assert file is not None
        file.seek(0)
        read = file.read(100)
        assert read == body[:100]
        file.close()


@pytest.mark.wide
def test_an_object_that_is_replaced_while_it_is_read_in_parts_is_noticed(open_place: Open) -> None:
    """By its ETag, or its size where it has none. In a folder, what was opened stays as long as it is open."""
    objects = open_place()
    objects.write("x", b"1" * 3 * END_BYTES, None)
    file = objects.open("x")
    assert file is not None

    update(open_place(), "x", lambda _: b"2" * 4 * END_BYTES)

    with file, nullcontext() if isinstance(objects, Folder) else pytest.raises(ConflictError):
        assert file.read(10) == b"1" * 10


@pytest.mark.wide
def test_a_write_over_what_was_not_read_is_refused(open_place: Open) -> None:
    """A stale version, and an object that should not be there yet: by the store, or by the look before the PUT."""
    objects = open_place()
    if isinstance(objects, Folder):
        pytest.skip("in a folder, the lock is the condition")
    objects.write("x", b"1", None)
    stored = objects.read("x")
    assert stored is not None
    objects.write("x", b"2", stored.version)

    versions = [None] if _has_one_etag_for_all(objects) else [stored.version, None]
    for version in versions:
        with pytest.raises(ConflictError):
            objects.write("x", b"3", version)


def _has_one_etag_for_all(objects: Objects) -> bool:
    held = objects.read("x")
    assert held is not None
    return "same" in held.version


def test_a_refusal_of_what_has_not_changed_is_named(tmp_path: Path) -> None:
    """Soon, and not as "written by others"; the probe's object is replaced, so that nothing can be learned."""
    with serving(PLAIN) as (url, place):
        objects = of_bucket(url, tmp_path)
        update(objects, "x", lambda _: b"1")
        place.unwilling = "root/x"
        asked = len(place.requests)

        with pytest.raises(AuditLogsError, match="does not replace x, which has not changed since") as raised:
            update(objects, "x", lambda body: (body or b"") + b"2")

        puts = [request for request in place.requests[asked:] if (request.method, request.key) == ("PUT", "root/x")]
    assert "PreconditionFailed" in raised.value.detail
    assert len(puts) < 10


def test_a_refusal_of_every_first_write_is_named(tmp_path: Path) -> None:
    """The object was never there: the error does not say that it has not changed."""
    with serving(PLAIN) as (url, place):
        place.unwilling = "root/x"

        with pytest.raises(AuditLogsError) as raised:
            update(of_bucket(url, tmp_path), "x", lambda _: b"1")

    assert str(raised.value) == (
        "the store does not create x, which is not there: [Errno 22] PreconditionFailed it is"
        " (look for a proxy before the store that alters ETags or shows old objects: docs/lake.md, Dialects)"
    )


def test_a_put_that_is_cut_between_headers_and_body_changes_nothing(bucket: Bucket, tmp_path: Path) -> None:
    """A kill there made the store put an empty object in place of the old one."""
    with gate_before(bucket.endpoint) as gate:
        root = f"{bucket.name}/{tmp_path.name}"
        objects = of_bucket(gate.url, tmp_path, root)
        objects.write("x", b"1", None)
        stored = objects.read("x")
        assert stored is not None
        gate.drops_next_body = True

        objects.write("x", b"2", stored.version)  # tried again, on the same condition

    assert not gate.drops_next_body
    again = of_bucket(bucket.endpoint, tmp_path, root).read("x")
    assert again is not None
    assert again.body == b"2"


def test_bodies_are_sent_whole_with_one_checksum(tmp_path: Path) -> None:
    """Content-MD5, which every store knows; no trailers, no `x-amz-checksum-…`."""
    with serving(PLAIN) as (url, place):
        update(of_bucket(url, tmp_path), "x", lambda _: b"1" * 1_000_000)

    puts = [request for request in place.requests if request.method == "PUT"]
    assert puts
    for put in puts:
        assert "content-md5" in put.headers
        assert_plain(put.headers)


def test_a_write_without_space_names_the_lake(tmp_path: Path) -> None:
    """The system names no file where one is open: whoever reads the error is to look at the right disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_file(tmp_path / "lake", tmp_path / "lake" / "a" / "b", bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert caught.value.filename == str(tmp_path / "lake" / ".partial")
    assert [path.name for path in (tmp_path / "lake").rglob("*")] == [".partial"]
