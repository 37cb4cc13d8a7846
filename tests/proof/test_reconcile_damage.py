"""Damage that is not plain: proofs that would be false, repairs that would lose what only one side had."""

import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.servers.commands import Finished, process_of, wait_until
from pipelines.loop.report import Report
from simulator.api import Api, Fault
from tests.factory import ACCOUNT, OTHER_ACCOUNT, event_at, ids, spread
from tests.rows import rows
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
WINDOW = ("--since", DAY.isoformat(), "--before", (DAY + timedelta(days=1)).isoformat())
RECONCILE = ("pipelines/reconcile.py", *WINDOW)


def hour_objects(stores: Stores) -> list[Path]:
    return sorted((stores.lake / "cloudflare/audit_logs").rglob("*.parquet"))


@pytest.fixture
def day(api: Api, poll: Poll) -> list[Any]:
    """Two events an hour."""
    events = [event_at(DAY + timedelta(minutes=30 * number), id=f"e{number:04}") for number in range(48)]
    api.world.add(ACCOUNT, "v1", events)
    poll()
    return events


@pytest.mark.long
def test_what_only_a_broken_object_had_stays_a_gap(api: Api, command: Command, stores: Stores, day: list[Any]) -> None:
    """The API has forgotten it, the retention has deleted it: no repair makes that complete, now or later."""
    proven = command(*RECONCILE)
    api.world.forget(ACCOUNT, "v1")
    stores.query("DELETE FROM {schema}.audit_logs")
    hour_objects(stores)[3].write_bytes(b"garbage")

    mended = command(*RECONCILE, "--repair", TIMESCALE_RETENTION_DAYS="1")
    later = command(*RECONCILE, "--json", TIMESCALE_RETENTION_DAYS="1")

    assert (proven.code, mended.code, later.code) == (0, 3, 3), mended.err
    assert "broken" in mended.out
    assert [gap["lost"] for gap in later.report["gaps"]] == [2]
    assert len(stores.lake_ids()) == len(day) - 2


def test_a_repair_that_found_nothing_to_refill_is_kept_as_a_gap(
    api: Api, command: Command, stores: Stores, day: list[Any]
) -> None:
    """In the table that dashboards read, too, although the hour was never compared before."""
    api.world.forget(ACCOUNT, "v1")
    stores.query("DELETE FROM {schema}.audit_logs")
    hour_objects(stores)[3].write_bytes(b"garbage")

    mended = command(*RECONCILE, "--repair", TIMESCALE_RETENTION_DAYS="1")

    hour = (DAY + timedelta(hours=3)).isoformat()
    kept = stores.query(f"SELECT status FROM {{schema}}.audit_completeness WHERE hour = '{hour}' ORDER BY checked_at")
    assert day
    assert mended.code == 3, mended.err
    assert [row["status"] for row in kept] == ["gap", "gap"]


def test_a_repair_of_a_part_refills_all_of_a_broken_object(
    api: Api, poll: Poll, command: Command, stores: Stores
) -> None:
    """Half an hour is asked for, and v1 alone: the other half and v2 are in the same object."""
    for version in ("v1", "v2"):
        hour = [event_at(DAY + timedelta(minutes=10 * n), id=f"{version}-{n}", version=version) for n in range(6)]
        api.world.add(ACCOUNT, version, hour)
    poll(CLOUDFLARE_API_VERSION="v1,v2")
    hour_objects(stores)[0].write_bytes(b"garbage")
    window = ("--since", (DAY + timedelta(minutes=30)).isoformat(), "--before", (DAY + timedelta(hours=1)).isoformat())

    mended = command("pipelines/reconcile.py", *window, "--repair")
    proof = command(*RECONCILE, CLOUDFLARE_API_VERSION="v1,v2")
    exact = command(*RECONCILE, "--content", "--repair", CLOUDFLARE_API_VERSION="v1,v2")

    assert (mended.code, proof.code, exact.code) == (0, 0, 0), mended.err + proof.err + exact.err
    assert "6 events from the warehouse, whose exact text is not known" in mended.out  # those of v2
    assert len(stores.lake_ids()) == 12


def _overwrite_payloads(path: Path) -> None:
    """Overwrites the pages of `raw_event`, and leaves the keys and the footer."""
    group = pq.ParquetFile(path).metadata.row_group(0)
    column = group.column(pq.ParquetFile(path).schema_arrow.get_field_index("raw_event"))
    begin = column.dictionary_page_offset or column.data_page_offset
    body = bytearray(path.read_bytes())
    body[begin : begin + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(bytes(body))


def _rewrite(path: Path, column: str, values: pa.Array) -> None:
    table = pq.ParquetFile(path).read()
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, pa.field(column, values.type), values), path)


def _not_utf8(column: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        broken = pa.array([b"\xff\xfe", b"\xff\xfd"], pa.binary())
        _rewrite(path, column, pa.Array.from_buffers(pa.string(), 2, broken.buffers()))

    return damage


DAMAGES: dict[str, Callable[[Path], None]] = {
    "payloads overwritten": _overwrite_payloads,
    "payloads not UTF-8": _not_utf8("raw_event"),
    "ids not UTF-8": _not_utf8("event_id"),
    "a column of another type": lambda path: _rewrite(path, "metadata", pa.array([{"a": 1}, {"a": 2}])),
    "an id missing": lambda path: _rewrite(path, "event_id", pa.array(["e0006", None])),
    "times of nanoseconds": lambda path: _rewrite(
        path, "timestamp", pa.array([1_000_000_001, 2], pa.timestamp("ns", tz="UTC"))
    ),
}


READABLE_BY_DUCKDB = [DAMAGES["a column of another type"], DAMAGES["times of nanoseconds"]]
"""It casts them; what PostgreSQL does not take then is quarantined."""


ALWAYS = ("payloads overwritten", "times of nanoseconds", "an id missing")


@pytest.mark.wide
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(damage, id=name, marks=[] if name in ALWAYS else pytest.mark.long)
        for name, damage in DAMAGES.items()
    ],
)
def test_an_object_that_is_broken_inside_is_named_and_made_anew(
    command: Command, stores: Stores, day: list[Any], damage: Callable[[Path], None]
) -> None:
    """With its keys intact, only who reads the payloads can see it."""
    before = stores.lake_events()
    damage(hour_objects(stores)[3])

    rehydrated = command("pipelines/rehydrate.py", *WINDOW, "--json")
    named = command(*RECONCILE, "--content", "--json")
    mended = command(*RECONCILE, "--content", "--repair")

    if damage not in READABLE_BY_DUCKDB:
        assert (rehydrated.code, rehydrated.report["events"]) == (1, len(day) - 2), rehydrated.err
        assert ["hour=03" in path for path in rehydrated.report["broken"]] == [True]
    assert named.code == 3, named.err
    assert [(gap["hour"][11:13], bool(gap["broken"])) for gap in named.report["gaps"]] == [("03", True)]
    assert mended.code == 0, mended.err
    assert "Traceback" not in rehydrated.err + named.err + mended.err
    assert [row["raw_event"] for row in stores.lake_events()] == [row["raw_event"] for row in before]
    assert len(list((stores.lake / "cloudflare/_broken").rglob("*.parquet-*"))) == 1


def test_rows_in_the_wrong_object_are_named_and_put_into_place(
    command: Command, stores: Stores, day: list[Any]
) -> None:
    """Doubled events in the lake are a gap, because its readers would count them."""
    objects = hour_objects(stores)
    misplaced = pq.ParquetFile(objects[4]).read()
    pq.write_table(pa.concat_tables([pq.ParquetFile(objects[3]).read(), misplaced]), objects[3])
    objects[4].unlink()

    named = command(*RECONCILE, "--json", "--without-api")
    mended = command(*RECONCILE, "--repair", "--without-api")

    assert [(gap["stray"], gap["missing"]) for gap in named.report["gaps"]] == [
        (2, {}),
        (0, {"lake": ["e0008", "e0009"]}),
    ]
    assert mended.code == 0, mended.err
    assert stores.ids() == (sorted(ids(day)),) * 2


def test_a_double_with_two_texts_is_resolved_by_the_api(
    command: Command, stores: Stores, day: list[Any], lake_object: Callable[..., None]
) -> None:
    """Without --content, too."""
    lake_object(3, texts={"e0006": ('"low"', '"wrong"')})
    path = hour_objects(stores)[3]
    wrong = pq.ParquetFile(path).read()
    right = wrong.set_column(
        wrong.column_names.index("raw_event"),
        wrong.schema.field("raw_event"),
        pa.array([text.replace("wrong", "low") for text in wrong["raw_event"].to_pylist()]),
    )
    pq.write_table(pa.concat_tables([wrong, right]), path)

    mended = command(*RECONCILE, "--repair")
    proof = command(*RECONCILE, "--content")

    assert (mended.code, proof.code) == (0, 0), proof.out
    assert stores.ids() == (sorted(ids(day)),) * 2


def test_an_object_with_a_double_takes_new_events(
    api: Api, poll: Poll, stores: Stores, day: list[Any], lake_object: Callable[..., None]
) -> None:
    """The sweep brings a late event into it, once."""
    lake_object(47 // 2, doubled=True)
    late = event_at(DAY + timedelta(hours=23, minutes=10), id="late")
    api.world.add(ACCOUNT, "v1", [late])

    poll(SWEEP_INTERVAL_SECONDS="0.1", SWEEP_WINDOW_HOURS="200")

    assert stores.ids() == (sorted(ids([*day, late])),) * 2


def test_what_was_read_with_users_hidden_proves_nothing(api: Api, command: Command) -> None:
    """A backfill that shows them asks again."""
    api.world.add(ACCOUNT, "v1", spread(10, DAY, DAY + timedelta(days=1)))
    command("pipelines/backfill.py", *WINDOW, CLOUDFLARE_HIDE_USER_LOGS="true")
    api.requests.clear()

    done = command("pipelines/backfill.py", *WINDOW, "--json")

    assert (done.code, done.report["days_skipped"], len(api.requests)) == (0, 0, 1)


def test_an_account_that_fails_is_not_called_complete(api: Api, command: Command, day: list[Any]) -> None:
    """A failed account is not reported as complete, and is not asked again for every day."""
    api.world.add(OTHER_ACCOUNT, "v1", [event_at(DAY)])
    api.faults.append(Fault(account_id=ACCOUNT, status=403, body="{}", times=None))
    api.requests.clear()
    window = ("--since", (DAY - timedelta(days=20)).isoformat(), "--before", (DAY + timedelta(days=1)).isoformat())

    done = command("pipelines/reconcile.py", *window)

    assert day
    assert done.code == 1
    assert "nothing was compared; 1 account could not be compared in full" in done.out
    assert done.err.count("account.failed") == 1
    assert len(api.requests) <= 4


def test_a_broken_object_does_not_end_a_backfill_of_the_other_days(
    api: Api, command: Command, stores: Stores, day: list[Any]
) -> None:
    """It is named, with what mends it."""
    earlier = spread(10, DAY - timedelta(days=1), DAY)
    api.world.add(ACCOUNT, "v1", earlier)
    hour_objects(stores)[0].write_bytes(b"garbage")
    window = ("--since", (DAY - timedelta(days=1)).isoformat(), "--before", (DAY + timedelta(days=1)).isoformat())

    done = command("pipelines/backfill.py", *window, "--json")

    assert day
    assert done.code == 1
    assert "cloudflare-audit reconcile --repair" in done.err
    assert ids(earlier) <= set(stores.warehouse_ids())


@pytest.mark.long
def test_events_of_100_kilobytes_are_brought_back(api: Api, poll: Poll, command: Command, stores: Stores) -> None:
    """More of them in one object than DuckDB may hold."""
    large = [event_at(DAY + timedelta(seconds=n), id=f"e{n}", newValue="x" * 100_000) for n in range(2_100)]
    api.world.add(ACCOUNT, "v1", large)
    poll(CLOUDFLARE_PER_PAGE="200")

    done = command("pipelines/rehydrate.py", *WINDOW, "--json")

    assert (done.code, done.report["events"], done.report["broken"]) == (0, 2_100, []), done.err
    assert stores.query("SELECT count(*) AS n FROM {schema}.audit_logs_rehydrated") == [{"n": 2_100}]


@pytest.mark.parametrize("number", rows(signal.SIGTERM, long=[signal.SIGINT]))
@pytest.mark.parametrize("name", ["backfill", "reconcile"])
def test_a_signal_ends_it_while_it_waits(
    api: Api, environment: dict[str, str], day: list[Any], name: str, number: signal.Signals
) -> None:
    """For five minutes, on a 429."""
    api.faults.append(Fault(status=429, body="{}", headers={"Retry-After": "300"}, times=None))
    api.requests.clear()
    with process_of(environment, f"pipelines/{name}.py", *WINDOW) as process:
        wait_until(lambda: bool(api.requests))
        time.sleep(0.5)
        process.send_signal(number)

        assert process.wait(120) == 130
    assert day
