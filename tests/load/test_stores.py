"""Both stores keep what their protocol promises: keys, positions, one writer, and nothing that grows."""

from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from benchmarks.servers.seaweed import Bucket
from pipelines.lake.bucket import Bucket as Objects
from pipelines.lake.destination import Lake
from pipelines.load.store import Store, client_of, positions_of
from pipelines.loop.report import Report
from pipelines.settings.settings import read_environment, read_store_settings
from pipelines.warehouse.destination import Warehouse
from simulator.api import Api
from sources.cloudflare_audit_logs.errors import TemporaryError
from sources.cloudflare_audit_logs.events import decode_page
from sources.cloudflare_audit_logs.streams import Stream, Window
from tests.factory import ACCOUNT, OTHER_ACCOUNT, event_at, raw_event

pytestmark = pytest.mark.integration

HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=5)
STREAM, OTHER = Stream(ACCOUNT, "v1"), Stream(OTHER_ACCOUNT, "v1")
ODD = b'{"id":"odd","when":"soon"}'
MICROSECOND = timedelta(microseconds=1)
MakeStore = Callable[[], Store]


@pytest.fixture(params=["warehouse", "folder", "bucket"])
def new_store(
    request: pytest.FixtureRequest, api: Api, poll: Callable[..., Report], environment: dict[str, str], bucket: Bucket
) -> MakeStore:
    """Another opening of a store that was loaded: two events on the edges of an hour, and one that has no time."""
    if request.param == "bucket":
        environment |= bucket.settings(environment["PG_SCHEMA"])
    for number, time in enumerate((HOUR, HOUR + timedelta(hours=1) - MICROSECOND, HOUR + timedelta(hours=1))):
        api.world.add(ACCOUNT, "v1", [event_at(time, id=f"e{number}")])
    api.world.add(ACCOUNT, "v1", [raw_event(ODD, time=HOUR)])
    poll(CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS="0")
    if request.param == "warehouse":
        return lambda: Warehouse.of(read_store_settings(read_environment()))
    return Lake


@pytest.fixture
def opened(new_store: MakeStore) -> Iterator[tuple[Store, Any]]:
    """The store with the writer's lock, and dlt's client of it."""
    store = new_store()
    with closing(store), client_of(store) as client:
        store.open(client, takes_lock=True)
        yield store, client


def test_the_keys_of_a_window_are_those_of_its_stream_and_times(opened: tuple[Store, Any]) -> None:
    """The begin belongs to it, the end does not, to the microsecond."""
    store, _ = opened

    def held(stream: Stream, since: datetime, before: datetime) -> set[str]:
        return {event_id for event_id, _ in store.event_keys(stream, since, before)}

    end = HOUR + timedelta(hours=1)
    assert held(STREAM, HOUR, end) == {"e0", "e1"}
    assert held(STREAM, HOUR, end - MICROSECOND) == {"e0"}
    assert held(STREAM, HOUR + MICROSECOND, end + MICROSECOND) == {"e1", "e2"}
    assert held(OTHER, HOUR, end) == held(Stream(ACCOUNT, "v2"), HOUR, end) == set()


def test_what_is_quarantined_is_known_by_its_digest(opened: tuple[Store, Any]) -> None:
    """And nothing else is."""
    store, _ = opened
    now = datetime.now(UTC)
    (digest,) = decode_page([ODD], STREAM, now).quarantined["digest"].to_pylist()
    received = Window(now - timedelta(days=1), now + timedelta(days=1))

    assert store.held_digests(STREAM, [digest, "another"], received) == {digest}
    assert store.held_digests(OTHER, [digest], received) == set()


def test_a_store_says_up_to_where_it_was_loaded(opened: tuple[Store, Any]) -> None:
    """By the state that dlt keeps in it."""
    store, client = opened

    position = positions_of(*store.states(client))[STREAM]

    assert position.begin < HOUR
    assert position.cursor == HOUR + timedelta(hours=1)


def test_an_opening_can_be_repeated_and_given_back(opened: tuple[Store, Any], new_store: MakeStore) -> None:
    """After `close`, whoever comes next has it."""
    store, client = opened
    store.open(client, takes_lock=True)
    store.verify_lock()
    store.close()
    successor = new_store()

    with closing(successor), client_of(successor) as its_client:
        successor.open(its_client, takes_lock=True)
        successor.verify_lock()
        assert successor.event_keys(STREAM, HOUR, HOUR + timedelta(minutes=1))


def test_there_is_one_writer_and_whoever_takes_no_lock_is_let_through(
    opened: tuple[Store, Any], new_store: MakeStore
) -> None:
    """A bucket has no lock: its conditional writes merge."""
    other = new_store()
    with closing(other), client_of(other) as client:
        other.open(client, takes_lock=False)
        assert other.event_keys(STREAM, HOUR, HOUR + timedelta(minutes=1))
        is_bucket = isinstance(getattr(client, "objects", None), Objects)
        with nullcontext() if is_bucket else pytest.raises(TemporaryError, match="another process"):
            other.open(client, takes_lock=True)

    assert opened


def test_pruning_takes_nothing_that_counts(opened: tuple[Store, Any]) -> None:
    """Neither the positions nor an event."""
    store, client = opened
    before = positions_of(*store.states(client))

    for _ in range(2):
        store.prune(client)

    assert positions_of(*store.states(client)) == before
    assert len(store.event_keys(STREAM, HOUR, HOUR + timedelta(hours=2))) == 3
