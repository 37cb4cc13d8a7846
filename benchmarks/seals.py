"""`python -m benchmarks.seals [--days 548] [--events 100000] [--write]`: the cost of sealing, and of verifying.

Loads events and then seals their hours, each by `run.py --once`: the CPU of the second beside a run that seals nothing.
Makes a lake of an account with 100 events and a seal an hour, in a folder and on an S3 server (`weed mini`), verifies
it whole beside only reading the same columns, and quickly beside one listing of objects and seals. --write puts the
table into docs/evidence/seals.md.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import md5, sha256
from pathlib import Path
from typing import Any

from benchmarks.servers.seaweed import S3_KEYS, Bucket, seaweed
from pipelines.lake.ask.bucket_place import BucketPlace
from pipelines.lake.ask.places import Days, FolderPlace, Place
from pipelines.lake.object_format import encode
from pipelines.lake.partitions import HOUR, Partition
from pipelines.seals.bundles import SEALS, packed
from pipelines.seals.hour_objects import leaf_rows
from pipelines.seals.key_file import SealKey, write_new
from pipelines.seals.pure.entries import HourSeal, ObjectSeen
from pipelines.seals.pure.event_set import leaves_of, prefixes_of, set_root
from pipelines.seals.pure.merkle import Tree
from pipelines.seals.pure.notes import SignerKey
from pipelines.seals.pure.seal_format import FOLDER, Header, Incarnation, Seal, leaves_path, path_of, sealed
from pipelines.seals.verification import Scope, Verification
from pipelines.settings.settings import PROJECT_ROOT
from sources.cloudflare_audit_logs.schema import EVENTS_TABLE
from sources.cloudflare_audit_logs.streams import Window
from sources.cloudflare_audit_logs.times import EARLIEST

from .documents import Row, as_markdown, put_into
from .ingest import open_bench
from .lake import Texts

DOCUMENT = PROJECT_ROOT / "docs" / "seals.md"
ACCOUNT = "a" * 32
SINCE = datetime(2025, 5, 1, tzinfo=UTC)
REPEATS = 3
KEY = SignerKey.generate("bench")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seals", description=__doc__)
    parser.add_argument("--days", type=int, default=548)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--write", action="store_true", help="put the table into docs/evidence/seals.md")
    options = parser.parse_args(arguments)
    rows = [_sealing(options.events)] if options.events else []
    with tempfile.TemporaryDirectory(prefix="audit-seals-") as name, seaweed(Path(name)) as bucket:
        root, of_bucket = Path(name) / "lake" / "cloudflare", Path(name) / "bucket" / "cloudflare"
        make_lake(root, options.days)
        make_lake(of_bucket, options.days, has_etags=True)
        _upload(of_bucket, bucket)
        access, secret = S3_KEYS.values()
        where: Any = {"endpoint": bucket.endpoint, "region": "us-east-1"}
        s3 = BucketPlace("lake", "cloudflare", where, lambda: (access, secret, None))
        now = SINCE + timedelta(days=options.days)
        places: dict[str, Place] = {"folder": FolderPlace(root), "S3": s3}
        for kind, place in places.items():
            rows += _verifying(kind, place, now)
    where_text = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    text = as_markdown(rows)
    print(text)
    if options.write:
        objects = f"{options.days * 24:,} objects of 100 events, as many seals"
        put_into(DOCUMENT, "seals", f"{text}\nMeasured {where_text}; {objects}.\n")


def _sealing(events: int) -> Row:
    """The CPU of sealing, beside that of loading."""
    with open_bench(events) as bench, tempfile.TemporaryDirectory() as name:
        key = Path(name) / "key"
        write_new(key, SealKey(KEY))
        folder = bench.fresh()
        environment = bench.environment(folder, RECONCILE_AFTER_HOURS="0")
        load, idle, seal = (
            bench.run("pipelines/run.py", "--once", environment={**environment, **more})
            for more in ({}, {}, {"SEAL_KEY_FILE": str(key)})
        )
        made = len(list(folder.rglob("*.seal")))
    loading, sealing = load.client + load.server, seal.client + seal.server - idle.client - idle.server
    return {
        "what": f"seal {events:,} events ({made} seal)",
        "CPU s": f"{sealing:.2f}",
        "yardstick": "load them",
        "its CPU s": f"{loading:.2f}",
        "ratio of CPU": f"{sealing / loading:.3f}",
    }


def make_lake(root: Path, days: int, *, has_etags: bool = False) -> None:
    """Makes the objects of each hour, and a seal of it, with the versions that a folder or a bucket lists."""
    texts, tree, previous = Texts.make(100), Tree(), None
    begun, bodies = (Incarnation("bench", 0),), list[bytes]()
    for number in range(days * 24):
        partition = Partition(ACCOUNT, SINCE + HOUR * number)
        rows = texts.of_hour(ACCOUNT, partition.hour)
        body, leaves = encode(rows), leaves_of(rows)
        object_file = root / partition.path
        object_file.parent.mkdir(parents=True)
        object_file.write_bytes(body)
        version = md5(body).hexdigest() if has_etags else str(object_file.stat().st_mtime_ns)  # noqa: S324  # an ETag
        seen = ObjectSeen(len(body), sha256(body).hexdigest(), version)
        said = HourSeal(ACCOUNT, partition.hour, 1, len(leaves), set_root(leaves), seen, "closed")
        prefixes, sealed_at = b"".join(prefixes_of(leaves)), partition.hour + 2 * HOUR
        digest = sha256(prefixes).hexdigest()
        before = previous.digest if previous else ""
        header = Header("bench", number, sealed_at, before, begun, tree.frontier, "bench", digest)
        path = previous.next_path if previous else path_of(0, sealed_at)
        previous = sealed(header, [said.as_entry()], KEY)
        tree = previous.tree
        _put(root / path, previous)
        (root / leaves_path(path, digest)).write_bytes(prefixes)
        bodies.append(previous.raw)
        if len(bodies) == SEALS:
            bundle = root / "_seals" / "bundles" / f"{number + 1 - SEALS:010}.bundle"
            bundle.parent.mkdir(exist_ok=True)
            bundle.write_bytes(packed(bodies))
            bodies.clear()


def _put(file: Path, seal: Seal) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(seal.raw)


def _upload(root: Path, bucket: Bucket) -> None:
    def put(file: Path) -> None:
        bucket.client.put_object(Bucket=bucket.name, Key=f"cloudflare/{file.relative_to(root)}", Body=file.read_bytes())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(put, filter(Path.is_file, root.rglob("*"))))


def _verifying(kind: str, place: Place, now: datetime) -> Iterator[Row]:
    window = Window(EARLIEST, now)

    def verify(*, is_quick: bool) -> None:
        found = Verification(place, [KEY.verifier], Scope(window, is_quick), now).run()
        assert found.hours == {"intact": (now - SINCE) // HOUR}, found.hours  # noqa: S101
        assert not found.is_alarm  # noqa: S101

    def read() -> None:
        verification = Verification(place, [KEY.verifier], Scope(window), now)
        paths = [found.path for found in place.find(EVENTS_TABLE, Days()) if found.hour]
        for part in verification.read_all(paths):
            assert part is not None  # noqa: S101
            leaf_rows(part.body)

    def listing() -> None:
        assert all(len(place.walk(folder)) > 0 for folder in (EVENTS_TABLE, FOLDER))  # noqa: S101

    yield _row(f"{kind}: verify whole", lambda: verify(is_quick=False), "read the same columns", read)
    yield _row(f"{kind}: verify --quick", lambda: verify(is_quick=True), "list hours and seals once", listing)


def _row(what: str, ours: Callable[[], None], yardstick: str, theirs: Callable[[], None]) -> Row:
    costs = [(_cost(ours), _cost(theirs)) for _ in range(REPEATS)]
    cpu, wall = (statistics.median(mine[n] for mine, _ in costs) for n in (0, 1))
    its_cpu, its_wall = (statistics.median(its[n] for _, its in costs) for n in (0, 1))
    return {
        "what": what,
        "CPU s": f"{cpu:.2f}",
        "s": f"{wall:.2f}",
        "yardstick": yardstick,
        "its CPU s": f"{its_cpu:.2f}",
        "its s": f"{its_wall:.2f}",
        "ratio of CPU": f"{cpu / its_cpu:.2f}",
        "ratio of time": f"{wall / its_wall:.2f}",
    }


def _cost(work: Callable[[], None]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


if __name__ == "__main__":
    main()
