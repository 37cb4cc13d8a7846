"""A store that fails holds back no other, and catches up by itself when it is back."""

import os
import random
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import adbc_driver_manager
import pytest

from benchmarks.servers.commands import Finished, wait_until
from benchmarks.servers.s3_gate import ACCESS_DENIED, SLOW_DOWN, STORAGE_FULL, Gate, Refusal
from pipelines.fetch.reading import StepLimits
from pipelines.loop.report import Report
from pipelines.warehouse.embedded import embedded_postgres, running_server
from simulator.api import Api
from simulator.world import SimulatedEvent
from tests.factory import ACCOUNT, ago, event_at, ids, spread
from tests.faults.conftest import RunLoop
from tests.faults.proxy import Proxy
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]
ONCE = ("pipelines/run.py", "--once", "--json")
QUICK = {"CLOUDFLARE_BACKOFF_MAX_SECONDS": "0.5"}
"""A destination that failed is tried again every half second."""


def test_a_warehouse_that_refuses_connections_for_long_catches_up(
    api: Api, running: RunLoop, stores: Stores, warehouse_proxy: Proxy
) -> None:
    """Down at the start: the lake keeps its pace."""
    old = spread(30, ago(days=1), ago(hours=1))
    api.world.add(ACCOUNT, "v1", old)
    warehouse_proxy.refuse()

    with running(**QUICK):
        wait_until(lambda: stores.lake_ids() == sorted(ids(old)))
        fresh = spread(5, ago(minutes=2), ago(seconds=1))
        api.world.add(ACCOUNT, "v1", fresh)
        wait_until(lambda: stores.lake_ids() == sorted(ids(old + fresh)), seconds=3)
        warehouse_proxy.accept()
        wait_until(lambda: stores.warehouse_ids() == sorted(ids(old + fresh)))


def test_a_warehouse_that_is_dropped_in_the_middle_of_a_load_holds_each_event_once(
    api: Api, running: RunLoop, stores: Stores, warehouse_proxy: Proxy
) -> None:
    """Every connection cut while the batch is on its way."""
    events = spread(3000, ago(days=1), ago(minutes=1), newValue="x" * 500)
    api.world.add(ACCOUNT, "v1", events)
    warehouse_proxy.cut_after = 1_000_000

    with running(**QUICK) as loop:
        wait_until(lambda: "destination.failed" in loop.log)
        wait_until(lambda: len(stores.warehouse_ids()) == len(events))

    assert stores.ids() == (sorted(ids(events)),) * 2


@pytest.mark.long
def test_a_single_poll_waits_for_a_slow_store_in_the_end(
    api: Api, poll: Poll, stores: Stores, warehouse_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one goes on without it; then it reads by itself what it lacks."""
    monkeypatch.setattr("pipelines.loop.schedule.PATIENCE_SECONDS", 5)
    events = spread(400, ago(hours=2), ago(hours=1), newValue=random.Random(1).randbytes(2000).hex())
    api.world.add(ACCOUNT, "v1", events)

    def slow_down() -> None:
        wait_until(lambda: bool(api.requests))  # both are open
        warehouse_proxy.bytes_per_second = 80_000

    throttle = threading.Thread(target=slow_down)
    throttle.start()
    report = poll(limits=StepLimits(events=100), CLOUDFLARE_PER_PAGE="100")
    throttle.join()

    assert report.new == {"warehouse": 400, "lake": 400}
    assert stores.ids() == (sorted(ids(events)),) * 2
    asked = [request.params["since"] for request in api.requests if request.page == 1]
    assert len(asked) > 1, "no destination was too slow"


@pytest.mark.long
def test_a_slow_warehouse_does_not_slow_down_the_lake(
    api: Api, running: RunLoop, stores: Stores, warehouse_proxy: Proxy
) -> None:
    """A load of 20 seconds into the warehouse does not slow down the lake."""
    heavy = spread(600, ago(hours=2), ago(hours=1), newValue="x" * 1000)
    api.world.add(ACCOUNT, "v1", heavy)
    warehouse_proxy.bytes_per_second = 100_000

    with running():
        wait_until(lambda: len(stores.lake_ids()) == len(heavy))
        fresh = [event_at(ago(seconds=1))]
        api.world.add(ACCOUNT, "v1", fresh)
        wait_until(lambda: len(stores.lake_ids()) == len(heavy) + 1, seconds=5)
        assert stores.warehouse_ids() == []
        warehouse_proxy.bytes_per_second = float("inf")
        wait_until(lambda: len(stores.warehouse_ids()) == len(heavy) + 1, seconds=60)


def test_a_warehouse_that_hangs_does_not_hold_up_the_lake(
    api: Api, running: RunLoop, stores: Stores, warehouse_proxy: Proxy
) -> None:
    """No answer at all, and no error either."""
    first = spread(5, ago(hours=2), ago(hours=1))
    api.world.add(ACCOUNT, "v1", first)

    with running():
        wait_until(lambda: stores.ids() == (sorted(ids(first)),) * 2)
        warehouse_proxy.hang()
        for _ in range(3):
            fresh = [event_at(ago(seconds=1))]
            api.world.add(ACCOUNT, "v1", fresh)
            first += fresh
            wait_until(partial(_holds, stores.lake_ids, first), seconds=5)
        warehouse_proxy.go_on()
        wait_until(lambda: stores.warehouse_ids() == sorted(ids(first)))


@pytest.mark.long
def test_a_warehouse_that_is_read_only_is_told_and_waited_for(
    api: Api, running: RunLoop, stores: Stores, environment: dict[str, str]
) -> None:
    """After a failover, say."""
    database = f"readonly_{os.getpid()}"
    stores.query(f"CREATE DATABASE {database}")
    environment["PG_DATABASE"] = database
    stores.query(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    events = spread(5, ago(hours=2), ago(hours=1))
    api.world.add(ACCOUNT, "v1", events)

    with running(**QUICK) as loop:
        wait_until(lambda: "read-only transaction" in loop.log)
        wait_until(lambda: stores.lake_ids() == sorted(ids(events)))
        stores.query(f"ALTER DATABASE {database} RESET default_transaction_read_only")
        wait_until(lambda: "destination=warehouse new=5" in loop.log)


@pytest.mark.long
def test_a_warehouse_without_space_catches_up_when_it_has_some(
    api: Api, running: RunLoop, environment: dict[str, str], server_dir: Path, stores: Stores
) -> None:
    """A limit on the size of the server's files: its tables cannot grow."""
    dice = random.Random(0)
    events = spread(30, ago(hours=2), ago(hours=1), newValue="".join(dice.choices("0123456789abcdef", k=1_600_000)))
    api.world.add(ACCOUNT, "v1", events)
    with ExitStack() as full:
        with _small_files(16 * 1024 * 1024):
            server = full.enter_context(embedded_postgres(server_dir / "full"))
        environment.update(PG_PORT=str(server.port), PG_PASSWORD=server.password)
        with running(**QUICK) as loop:
            wait_until(lambda: "File too large" in loop.log, seconds=60)
            wait_until(lambda: stores.lake_ids() == sorted(ids(events)))
            full.close()
            with embedded_postgres(server_dir / "full") as server:
                back = Stores(server, stores.schema, stores.lake)
                wait_until(lambda: back.warehouse_ids() == sorted(ids(events)), seconds=60)


def _holds(held: Callable[[], list[str]], events: list[SimulatedEvent]) -> bool:
    return held() == sorted(ids(events))


@contextmanager
def _small_files(size: int) -> Iterator[None]:
    """Nothing that is started in the block writes files larger than this."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(ACCESS_DENIED, id="AccessDenied"),
        pytest.param(SLOW_DOWN, id="SlowDown", marks=pytest.mark.long),
        pytest.param(STORAGE_FULL, id="StorageFull", marks=pytest.mark.long),
    ],
)
def test_a_bucket_that_refuses_writes_does_not_hold_back_the_warehouse(
    api: Api, running: RunLoop, stores: Stores, lake_gate: Gate, refusal: Refusal
) -> None:
    """Throttled, read-only, full: the store says so, and we wait for it."""
    events = spread(20, ago(hours=3), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    lake_gate.refuse = lambda request: refusal if request.action == "s3:PutObject" else None

    with running(**QUICK) as loop:
        wait_until(lambda: stores.warehouse_ids() == sorted(ids(events)))
        wait_until(lambda: "destination.failed destination=lake" in loop.log, seconds=60)
        assert refusal[1] in loop.log
        lake_gate.refuse = lambda _: None
        wait_until(lambda: stores.lake_ids() == sorted(ids(events)), seconds=60)


@pytest.mark.long
def test_a_bucket_that_is_throttled_now_and_then_is_loaded_all_the_same(
    api: Api, running: RunLoop, stores: Stores, lake_gate: Gate
) -> None:
    """Every fifth request is answered with 503 SlowDown."""
    events = spread(20, ago(hours=3), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    lake_gate.refuse = lambda _: SLOW_DOWN if len(lake_gate.requests) % 5 == 0 else None

    with running(**QUICK):
        wait_until(lambda: stores.lake_ids() == sorted(ids(events)), seconds=60)


@pytest.mark.long
def test_a_folder_lake_without_space_catches_up_when_it_has_some(
    api: Api, poll: Poll, command: Command, stores: Stores
) -> None:
    """A limit on the size of our own files: objects cannot grow, and what was there stays readable."""
    dice = random.Random(0)
    first = [event_at(ago(minutes=9))]
    heavy = [event_at(ago(minutes=8), newValue="".join(dice.choices("0123456789abcdef", k=4_000_000)))]
    api.world.add(ACCOUNT, "v1", first)
    poll()
    api.world.add(ACCOUNT, "v1", heavy)

    full = command("-c", _WITH_SMALL_FILES, "--once")
    assert (full.code, "File too large" in full.err) == (75, True)
    assert stores.lake_ids() == sorted(ids(first))
    poll()

    assert stores.ids() == (sorted(ids(first + heavy)),) * 2


_WITH_SMALL_FILES = """
import resource, sys
from pipelines.run import main
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.long
def test_an_embedded_server_that_is_killed_under_the_loop_is_started_again(
    api: Api, environment: dict[str, str], running: RunLoop, server_dir: Path
) -> None:
    """The loop goes on where it was; nobody has to restart it."""
    folder = server_dir / "killed-under-the-loop"
    for name in [name for name in environment if name.startswith("PG_")]:
        del environment[name]
    with running(DATA_DIR=str(folder)):
        wait_until(lambda: len(api.requests) > 2)
        os.kill(int((folder / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        events = spread(5, ago(minutes=2), ago(minutes=1))
        api.world.add(ACCOUNT, "v1", events)
        wait_until(lambda: _held_in(folder / "postgres") == sorted(ids(events)))

    assert running_server(folder / "postgres") is None


def _held_in(folder: Path) -> list[str]:
    """The ids in an embedded warehouse; none while it is down."""
    server = running_server(folder)
    try:
        return Stores(server, "public", folder).warehouse_ids() if server else []
    except adbc_driver_manager.Error:
        return []


def test_a_dead_warehouse_is_told_by_the_exit_code_without_a_trace(api: Api, command: Command, stores: Stores) -> None:
    """75, one message."""
    events = spread(30, ago(days=1), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)

    dead = command(*ONCE, PG_PORT="1")

    assert dead.code == 75
    assert stores.lake_ids() == sorted(ids(events))
    assert "Traceback" not in dead.err


def test_a_dead_bucket_is_told_by_the_exit_code_without_a_trace(api: Api, command: Command, stores: Stores) -> None:
    """A dead bucket gives an exit code and one line, no traceback."""
    events = spread(30, ago(days=1), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)
    dead_store = {"S3_ENDPOINT": "http://127.0.0.1:1", "S3_BUCKET": "lake", "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "b"}

    dead = command(*ONCE, **dead_store)

    assert dead.code == 75
    assert stores.warehouse_ids() == sorted(ids(events))
    assert "Traceback" not in dead.err
