"""Events that cannot be placed are kept once, by the day of their reception, at a cost that follows the new ones."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.servers.commands import Finished
from pipelines.lake.object_format import encode
from pipelines.lake.object_rows import held_digests, write_quarantined
from pipelines.lake.objects import Folder
from pipelines.lake.partitions import place_of, quarantine_folder, quarantine_path
from pipelines.load.held_keys import MOST_DIGESTS, HeldKeys
from pipelines.loop.report import Report
from simulator.api import Api
from sources.cloudflare_audit_logs.events import decode_page
from sources.cloudflare_audit_logs.streams import Stream, Window
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, event_at, raw_event
from tests.stores import Stores

Poll = Callable[..., Report]
Command = Callable[..., Finished]
DAY = datetime(2026, 11, 20, tzinfo=UTC)
STREAM = Stream(ACCOUNT, "v1")


def odd(*numbers: int, received: datetime = DAY, stream: Stream = STREAM) -> pa.Table:
    """Quarantined events."""
    return decode_page([f'{{"id": {number}}}'.encode() for number in numbers], stream, received).quarantined


def digests(*numbers: int) -> list[str]:
    """Those of the same."""
    held: list[str] = odd(*numbers)["digest"].to_pylist()
    return held


@pytest.fixture
def objects(tmp_path: Path) -> Folder:
    """An empty lake."""
    return Folder(tmp_path, tmp_path / "cloudflare")


def test_an_object_holds_what_was_received_on_a_day_each_once(objects: Folder) -> None:
    """An object is of one account and both versions; to the microsecond, in UTC; loaded again, nothing is written."""
    late = DAY + timedelta(days=1) - timedelta(microseconds=1)
    rows = [odd(1, 2, received=late), odd(3, received=DAY), odd(3, received=DAY, stream=Stream(ACCOUNT, "v2"))]
    rows += [odd(4, received=late + timedelta(microseconds=1)), odd(1, stream=Stream(OTHER_ACCOUNT, "v1"))]

    for _ in range(2):
        write_quarantined(objects, pa.concat_tables([*rows, *rows]))
    first, second = (Path(objects.url(quarantine_path(ACCOUNT, DAY + timedelta(days=day)))) for day in range(2))
    written = first.stat().st_ino
    write_quarantined(objects, odd(1))

    assert first.stat().st_ino == written
    assert pq.ParquetFile(first).read()["digest"].to_pylist() == digests(1, 2, 3, 3)
    assert pq.ParquetFile(second).read()["digest"].to_pylist() == digests(4)
    assert len(objects.listing("audit_logs_quarantine")) == 3


@pytest.mark.parametrize("days", [1, 400])
def test_what_is_held_is_found_wherever_it_can_be(objects: Folder, days: int) -> None:
    """In the days since the window began and in the object of the first releases; no other is read."""
    write_quarantined(objects, pa.concat_tables([odd(1), odd(2, stream=Stream(ACCOUNT, "v2"))]))
    of_first_releases = f"{quarantine_folder(ACCOUNT)}/events.parquet"
    objects.write(of_first_releases, encode(odd(5)), None)
    write_quarantined(objects, odd(3, received=DAY + timedelta(days=days)))
    objects.write(quarantine_path(ACCOUNT, DAY - timedelta(days=2)), b"broken, and of no interest", None)
    window = Window(DAY + timedelta(hours=1), DAY + timedelta(days=days, hours=1))

    assert held_digests(objects, STREAM, digests(1, 2, 3, 4, 5), window) == set(digests(1, 3, 5))
    assert held_digests(objects, STREAM, digests(1, 5), window, but={of_first_releases}) == set(digests(1))
    assert held_digests(objects, Stream(OTHER_ACCOUNT, "v1"), digests(1, 3), window) == set()


def test_a_path_says_what_lies_there() -> None:
    """An hour, a day of reception, or all that an old release received."""
    hour = DAY + timedelta(hours=7)

    assert place_of("audit_logs/account=a/date=2026-11-20/hour=07/events.parquet") == (
        "a",
        Window(hour, hour + timedelta(hours=1)),
    )
    assert place_of(quarantine_path("a", hour)) == ("a", Window(DAY, DAY + timedelta(days=1)))
    assert place_of("audit_logs_quarantine/account=a/events.parquet") == ("a", None)
    assert place_of("init") is None


class TestKnown:
    """A store is asked for what is not remembered, and what is remembered does not grow."""

    def test_a_digest_is_asked_for_once_and_none_when_the_window_was_read(self) -> None:
        """An event that shows for the first time after that is new."""
        asked: list[list[str]] = []
        known = HeldKeys()

        def held(wanted: list[str]) -> set[str]:
            asked.append(wanted)
            return {"b"}

        assert known.are_new(["a", "b", "a"], DAY, held) == [True, False, False]
        assert known.are_new(["a", "b"], DAY, held) == [False, False]
        known.complete(DAY)
        assert known.are_new(["a", "b", "c"], DAY, held) == [False, False, True]
        assert asked == [["a", "b"]]
        assert known.are_new(["d"], DAY - timedelta(hours=1), held) == [True]
        assert asked == [["a", "b"], ["d"]]

    def test_what_readings_no_longer_show_is_forgotten(self) -> None:
        """Two readings are remembered, of a long one the newest part: twice the most there may be."""
        known = HeldKeys()
        for reading in range(4):
            for number in range(3):
                known.are_new([f"{reading}-{number}-{n}" for n in range(MOST_DIGESTS // 2 + 1)], DAY, lambda _: set())
            known.complete(DAY)

            assert len(known.digests) + len(known.earlier_digests) <= 2 * MOST_DIGESTS + 2
        assert known.are_new([f"3-2-{MOST_DIGESTS // 2}"], DAY, lambda _: set()) == [False]


@pytest.mark.integration
def test_an_event_that_stays_unreadable_is_kept_once_however_many_days_show_it(
    api: Api, poll: Poll, command: Command, stores: Stores
) -> None:
    """By polls of the overlap, by sweeps, after restarts; a new one joins the object of its day."""
    behind = timedelta(days=3)
    api.world.add(ACCOUNT, "v1", [event_at(ago(days=3, minutes=20)), raw_event('"odd"', time=ago(days=3, minutes=19))])
    for days in range(3):
        ahead = timedelta(days=days) - behind
        api.clock = partial(_clock, ahead)
        poll(ahead=ahead, SWEEP_INTERVAL_SECONDS="1")
        poll(ahead=ahead, SWEEP_INTERVAL_SECONDS="1")
        api.world.add(ACCOUNT, "v1", [raw_event(f'"odd of day {days}"', time=ago(days=3 - days, minutes=1))])

    poll(ahead=ahead)

    paths = _quarantine(stores)
    received = [f"date={datetime.now(UTC) + timedelta(days=days) - behind:%Y-%m-%d}" for days in (0, 1, 2)]
    assert [path.parent.name for path in paths] == received
    in_lake = sorted(text for path in paths for text in pq.ParquetFile(path).read()["raw_event"].to_pylist())
    in_warehouse = stores.query("SELECT raw_event FROM {schema}.audit_logs_quarantine ORDER BY 1")
    assert in_lake == ['"odd of day 0"', '"odd of day 1"', '"odd of day 2"', '"odd"']
    assert sorted(row["raw_event"] for row in in_warehouse) == in_lake
    of_first_releases = stores.lake / f"cloudflare/{quarantine_folder(ACCOUNT)}/events.parquet"
    of_first_releases.write_bytes(paths[0].read_bytes())  # as a release of one object would have left it
    asked = command(
        "pipelines/ask.py", "--json", "SELECT count(*) AS n, count(account) AS m FROM audit_logs_quarantine()"
    )
    assert asked.out == '{"n": 4, "m": 4}\n'


@pytest.mark.integration
def test_the_warehouse_looks_digests_up_by_its_key(poll: Poll, stores: Stores) -> None:
    """However many are quarantined, and the hours of what it refused by an index of their own."""
    poll()
    values = "md5(n::text), 'a', 'v1', now(), '', NULL, NULL, ''"
    stores.query(f"INSERT INTO {{schema}}.audit_logs_quarantine SELECT {values} FROM generate_series(1, 100000) AS n")
    stores.query("ANALYZE {schema}.audit_logs_quarantine")
    of_stream = "SELECT digest FROM {schema}.audit_logs_quarantine WHERE account_id = 'a' AND api_version = 'v1' AND "

    by_digest = stores.plan(of_stream + "digest = ANY (string_to_array('c4ca4238a0b923820dcc509a6f75849b,x', ','))")
    by_hour = stores.plan(of_stream + "\"timestamp\" >= '2026-11-20' AND \"timestamp\" < '2026-11-20T01:00Z'")

    assert "audit_logs_quarantine_pkey" in by_digest
    assert "audit_logs_quarantine_timestamp" in by_hour
    assert "Seq Scan" not in by_digest + by_hour


@pytest.mark.integration
def test_each_broken_object_of_a_quarantine_is_mended(api: Api, poll: Poll, command: Command, stores: Stores) -> None:
    """That of a day, that of the first releases, from the warehouse; what another object holds stays there."""
    api.world.add(ACCOUNT, "v1", [raw_event(f'{{"id":"odd-{n}"}}', time=ago(minutes=9)) for n in range(3)])
    poll()
    (day,) = _quarantine(stores)
    held = pq.ParquetFile(day).read().sort_by("digest")
    old = day.parent.parent / "events.parquet"
    pq.write_table(held.slice(0, 1), old)
    pq.write_table(held.slice(1), day)
    window = ("--since", ago(hours=20).isoformat(), "--before", ago().isoformat(), "--repair", "--json")

    for broken in ((day,), (old, day)):
        for path in broken:
            path.write_bytes(path.read_bytes()[:-9])
        mended = command("pipelines/reconcile.py", *window)
        assert (mended.code, mended.report["broken_quarantines"]) == (0, []), mended.err
        everything = [*pq.ParquetFile(day).read().to_pylist(), *pq.ParquetFile(old).read().to_pylist()]
        assert sorted(everything, key=lambda row: row["digest"]) == held.to_pylist()


def _clock(ahead: timedelta) -> datetime:
    return datetime.now(UTC) + ahead


def _quarantine(stores: Stores) -> list[Path]:
    return sorted((stores.lake / f"cloudflare/{quarantine_folder(ACCOUNT)}").rglob("*.parquet"))
