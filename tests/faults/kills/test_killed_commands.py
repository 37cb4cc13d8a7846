"""Backfill, rehydrate and reconcile may be killed anywhere: run again, they have done what they were to do, once."""

import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from benchmarks.servers.commands import Finished
from pipelines.loop.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, event_at, ids
from tests.stores import Stores

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]
DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
WINDOW = ("--since", DAY.isoformat(), "--before", (DAY + timedelta(days=2)).isoformat())
REHYDRATED = "SELECT event_id FROM {schema}.audit_logs_rehydrated ORDER BY 1"


def _params(fast: str, *others: str) -> list[Any]:
    return [fast, *(pytest.param(point, marks=pytest.mark.long) for point in others)]


@pytest.fixture
def events(api: Api) -> list[Any]:
    """Two a hour."""
    events = [event_at(DAY + timedelta(minutes=30 * number), id=f"e{number:04}") for number in range(96)]
    api.world.add(ACCOUNT, "v1", events)
    return events


def _kill(command: Command, point: str, nth: int, *arguments: str) -> None:
    killed = command("-m", "tests.faults.dying", point, str(nth), "KILL", *arguments)
    assert killed.code == -signal.SIGKILL, killed.err


@pytest.mark.parametrize(
    "point",
    _params(
        "after a sweep's load",
        "after a request",
        "before the warehouse's commit",
        "after the warehouse's commit",
        "after an object",
        "with a file half in place",
        "after a check is kept",
    ),
)
def test_a_backfill(command: Command, stores: Stores, events: list[Any], point: str) -> None:
    """The second run fills what the first did not."""
    _kill(command, point, 1, "backfill", *WINDOW)

    again = command("pipelines/backfill.py", *WINDOW, "--json")

    assert (again.code, again.report["gaps"]) == (0, []), again.err
    assert stores.ids() == (sorted(ids(events)),) * 2


@pytest.mark.parametrize(
    "point", _params("before the warehouse's commit", "in the warehouse's load", "after the warehouse's commit")
)
def test_a_rehydration(
    poll: Callable[..., Report], command: Command, stores: Stores, events: list[Any], point: str
) -> None:
    """The second run brings back what the first did not."""
    poll()
    _kill(command, point, 2, "rehydrate", *WINDOW)

    again = command("pipelines/rehydrate.py", *WINDOW)

    assert again.code == 0, again.err
    assert [row["event_id"] for row in stores.query(REHYDRATED)] == sorted(ids(events))


@pytest.mark.parametrize(
    "point",
    _params(
        "with an object set aside",
        "after a check is kept",
        "after a store is filled",
        "after an object",
        "with a file half in place",
        "before the warehouse's commit",
        "before events are replaced",
        "between lake and warehouse",
    ),
)
def test_a_repair(
    poll: Callable[..., Report],
    command: Command,
    stores: Stores,
    events: list[Any],
    lake_object: Callable[..., None],
    point: str,
) -> None:
    """The second run finds what is left, and mends it."""
    poll()
    objects = sorted((stores.lake / "cloudflare/audit_logs").rglob("*.parquet"))
    lake_object(10, doubled=True)
    lake_object(14, texts={"e0029": ('"low"', '"none"')})
    stores.query("UPDATE {schema}.audit_logs SET actor_id = 'mallory' WHERE event_id = 'e0028'")
    objects[12].write_bytes(b"torn")
    objects[16].unlink()
    stores.query("DELETE FROM {schema}.audit_logs WHERE event_id IN ('e0003', 'e0024')")
    _kill(command, point, 1, "reconcile", *WINDOW, "--repair", "--content")

    again = command("pipelines/reconcile.py", *WINDOW, "--repair", "--content", "--json")
    proof = command("pipelines/reconcile.py", *WINDOW, "--content")

    assert (again.code, proof.code) == (0, 0), again.err + proof.err
    assert stores.ids() == (sorted(ids(events)),) * 2
