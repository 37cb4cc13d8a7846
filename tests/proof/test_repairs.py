"""A repair says what it did, once, and when another one is under way."""

import fcntl
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished
from pipelines.loop.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, event_at
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
RECONCILE = ("pipelines/reconcile.py", "--since", DAY.isoformat(), "--before", (DAY + timedelta(days=1)).isoformat())
BOTH = {"CLOUDFLARE_API_VERSION": "v1,v2"}


@pytest.fixture
def objects(api: Api, poll: Poll, stores: Stores) -> list[Path]:
    """The objects of two hours, with fifty events of each version each."""
    for version in ("v1", "v2"):
        times = [DAY + timedelta(minutes=n) for n in (*range(50), *range(60, 110))]
        api.world.add(ACCOUNT, version, [event_at(time, version=version) for time in times])
    poll(**BOTH)
    return sorted((stores.lake / "cloudflare/audit_logs").rglob("*.parquet"))


def test_what_a_repair_adds_is_logged_once(command: Command, objects: list[Path]) -> None:
    """Workers of both versions find the same broken object; together they log as many events as it gets."""
    for path in objects:
        path.write_bytes(b"garbage")

    done = command(*RECONCILE, "--repair", **BOTH)

    added = [line for line in done.err.splitlines() if "repair.added" in line]
    assert done.code == 0, done.err
    assert sorted(line.split("store=")[1].split(" hour=")[0] for line in added) == ["lake events=50"] * 4


def test_a_second_repair_is_told_to_wait(command: Command, environment: dict[str, str], objects: list[Path]) -> None:
    """Exit 75: another DATA_DIR would only hide that two work on the same hours."""
    command(*RECONCILE, "--repair", **BOTH)
    objects[0].write_bytes(b"garbage")
    locks = list((Path(environment["DATA_DIR"]) / "dlt/pipelines").glob("*_repair_*.lock"))
    with ExitStack() as held:
        for lock in locks:
            fcntl.flock(held.enter_context(lock.open("a")), fcntl.LOCK_EX)
        second = command(*RECONCILE, "--repair", **BOTH)
    after = command(*RECONCILE, "--repair", **BOTH)

    assert locks
    assert (second.code, after.code) == (75, 0), second.err + after.err
    assert "wait until it has ended, and run this again" in second.err
    assert "DATA_DIR" not in second.err
