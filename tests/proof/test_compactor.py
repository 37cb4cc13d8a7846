"""Beside the loop, days that were compared get their copies, anew after a repair; what fails there holds up nothing."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

from benchmarks.servers.commands import Finished
from pipelines.lake.day_copies import find_copy, whole_days
from pipelines.lake.objects import Folder
from pipelines.lake.partitions import account_folder, copy_path
from pipelines.loop.failures import Failures
from pipelines.loop.report import Report, exit_code
from pipelines.proof.compactor import FIRST_LOOK_SECONDS, LOOK_SECONDS, Compactor
from pipelines.proof.reconciler import Reconciler
from pipelines.settings.settings import PROJECT_ROOT, Settings, read_environment, read_settings
from simulator.api import Api
from sources.cloudflare_audit_logs.budget import Budgets
from sources.cloudflare_audit_logs.streams import Stream
from tests.factory import ACCOUNT, event_at
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=4)
WINDOW = ("--since", DAY.isoformat(), "--before", (DAY + timedelta(days=2)).isoformat())
BEGINS = {Stream(ACCOUNT, "v1"): DAY - timedelta(days=1)}


@pytest.fixture(autouse=True)
def _compared_at_a_day(environment: dict[str, str]) -> None:
    """The loop compares, and holds two days that are closed."""
    environment |= {"RECONCILE_AFTER_HOURS": "24", "INITIAL_CHECKPOINT": (DAY - timedelta(hours=2)).isoformat()}


@pytest.fixture
def days(api: Api) -> None:
    """Two days with two events an hour: `e0000` to `e0095`."""
    events = [event_at(DAY + timedelta(minutes=30 * number), id=f"e{number:04}") for number in range(96)]
    api.world.add(ACCOUNT, "v1", events)


@pytest.fixture
def settings(poll: Poll) -> Settings:
    """Those of a loop that has loaded and compared."""
    poll()
    Container()[PluggableRunContext].reload(str(PROJECT_ROOT))
    return read_settings(read_environment(), now=datetime.now(UTC))


def whole(stores: Stores) -> list[int]:
    """The numbers of the two days whose copy a reader would take."""
    objects = Folder(stores.lake, stores.lake / "cloudflare")
    hours = objects.listing(account_folder(ACCOUNT))
    paths = [copy_path(ACCOUNT, (DAY + timedelta(days=number)).date()) for number in (0, 1)]
    found = {path: copy for path in paths if (copy := find_copy(objects, path))}
    days = whole_days(found, hours)
    return [number for number in (0, 1) if (ACCOUNT, (DAY + timedelta(days=number)).date()) in days]


class Clock:
    """A monotonic clock that is moved."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        """The time."""
        return self.seconds


def compactor_of(settings: Settings, clock: Clock) -> Compactor:
    """The task, beside a reconciler that has compared nothing."""
    report = Report(Failures(settings))
    reconciler = Reconciler(settings, lambda: datetime.now(UTC), report, Budgets(), clock)
    return Compactor(settings, lambda: datetime.now(UTC), reconciler, clock)


@pytest.mark.usefixtures("days")
def test_a_day_that_became_complete_has_its_copy_at_once(poll: Poll, stores: Stores) -> None:
    """One run of `--once` reads, loads, compares and copies: what no sweep reads any more, and nothing else."""
    poll()

    assert whole(stores) == [0, 1]
    newest = max(path.parent.name for path in (stores.lake / "cloudflare/audit_logs_days").rglob("*.parquet"))
    assert newest == f"date={DAY + timedelta(days=1):%Y-%m-%d}"


@pytest.mark.usefixtures("days")
def test_a_repair_by_another_process_is_found_by_the_slow_look(
    settings: Settings, stores: Stores, command: Command, lake_object: Callable[..., None]
) -> None:
    """After the first hour, and once a day; in between, nothing is listed."""
    clock = Clock()
    task = compactor_of(settings, clock)
    lake_object(0, without="e0000")
    repaired = command("pipelines/reconcile.py", *WINDOW, "--repair")
    assert repaired.code == 0, repaired.err
    assert whole(stores) == [1]

    task.work(BEGINS, threading.Event())
    assert whole(stores) == [1]
    clock.seconds += FIRST_LOOK_SECONDS
    assert task.is_due
    task.work(BEGINS, threading.Event())
    assert whole(stores) == [0, 1]

    lake_object(30, without="e0060")
    assert command("pipelines/reconcile.py", *WINDOW, "--repair").code == 0
    task.work(BEGINS, threading.Event())
    assert whole(stores) == [0]
    clock.seconds += LOOK_SECONDS
    task.work(BEGINS, threading.Event())
    assert whole(stores) == [0, 1]


@pytest.mark.usefixtures("days")
def test_a_day_with_a_gap_gets_no_copy_from_the_loop(
    settings: Settings, stores: Stores, command: Command, lake_object: Callable[..., None]
) -> None:
    """It is made when the day has been repaired."""
    clock = Clock()
    task = compactor_of(settings, clock)
    lake_object(0, without="e0000")
    assert command("pipelines/reconcile.py", *WINDOW).code == 3
    clock.seconds += FIRST_LOOK_SECONDS

    task.work(BEGINS, threading.Event())

    assert whole(stores) == [1]


@pytest.mark.usefixtures("days")
def test_a_copy_that_cannot_be_written_fails_no_poll(
    poll: Poll, stores: Stores, capfd: pytest.CaptureFixture[str], api: Api
) -> None:
    """It is reported as a warning; events go on coming into both stores, and the result is that of a good run."""
    (stores.lake / "cloudflare").mkdir(parents=True)
    (stores.lake / "cloudflare/audit_logs_days").write_text("in the way")

    poll()
    api.world.add(ACCOUNT, "v1", [event_at(datetime.now(UTC) - timedelta(minutes=20), id="newer")])
    report = poll()

    assert stores.ids() == ([*sorted(f"e{number:04}" for number in range(96)), "newer"],) * 2
    assert "compact.failed" in capfd.readouterr().err
    assert exit_code(report) == 0


@pytest.mark.usefixtures("days")
def test_a_broken_hour_holds_up_no_other_day(
    settings: Settings, stores: Stores, caplog: pytest.LogCaptureFixture
) -> None:
    """Its day is reported, and read by its hours until it is repaired; the copy of the other is made."""
    clock = Clock()
    task = compactor_of(settings, clock)
    for copy in (stores.lake / "cloudflare/audit_logs_days").rglob("*.parquet"):
        copy.unlink()
    sorted((stores.lake / "cloudflare/audit_logs").rglob("*.parquet"))[3].write_bytes(b"torn")
    clock.seconds += FIRST_LOOK_SECONDS

    task.work(BEGINS, threading.Event())

    assert whole(stores) == [1]
    assert "compact.failed" in caplog.text


def test_nothing_is_due_without_a_comparison(settings: Settings) -> None:
    """A loop whose settings compare nothing opens no store for copies before the slow look."""
    clock = Clock()
    settings_without: Any = settings.__class__(**{**settings.__dict__, "reconcile_after_hours": ()})

    assert not compactor_of(settings_without, clock).is_due
    assert compactor_of(settings, clock).is_due
