"""Wherever a run is killed, the next one holds every event, once, and needs no help."""

import random
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from benchmarks.servers.commands import Finished, process_of
from benchmarks.servers.seaweed import Bucket
from simulator.api import Api
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, event_at, ids, spread
from tests.faults.dying import BUCKET_POINTS, FOLDER_POINTS, POINTS
from tests.stores import Stores

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]
ONCE = ("pipelines/run.py", "--once", "--json")
SETTINGS = {"CLOUDFLARE_ACCOUNT_ID": f"{ACCOUNT},{OTHER_ACCOUNT}"}


FAST = {
    "after extract",
    "before the warehouse's commit",
    "before the warehouse's state counts",
    "before the lake's state",
    "with a file half in place",
    "after a sweep's load",
    "with a part in the spool",
    "after one of a load's jobs in the lake",
}
"""The points that every run kills at; `make soak` has all others."""


def _params(points: Iterable[str]) -> list[Any]:
    return [pytest.param(point, marks=[] if point in FAST else pytest.mark.long) for point in points]


@pytest.mark.wide
@pytest.mark.parametrize("point", _params([*POINTS, *FOLDER_POINTS]))
def test_killed_at_a_named_point_nothing_is_lost_and_nothing_doubled(
    api: Api, command: Command, stores: Stores, point: str
) -> None:
    """A kill -9 of a real process, at each step of an event's way; a folder lake."""
    _killed_and_completed(api, command, stores, point)


@pytest.mark.parametrize("point", _params(BUCKET_POINTS))
def test_killed_at_a_named_point_of_a_bucket_nothing_is_lost_and_nothing_doubled(
    api: Api, command: Command, environment: dict[str, str], bucket: Bucket, stores: Stores, point: str
) -> None:
    """A kill at a point that only a bucket has loses nothing."""
    environment.update(bucket.settings(prefix=environment["PG_SCHEMA"]))

    _killed_and_completed(api, command, stores, point)


def _killed_and_completed(api: Api, command: Command, stores: Stores, point: str) -> None:
    early = [*spread(150, ago(hours=3), ago(hours=1)), *spread(10, ago(minutes=10), ago(minutes=1))]
    if "one of a load's jobs" in point:
        early += spread(21_000, ago(hours=9), ago(hours=4))  # three files
    other = spread(50, ago(hours=2), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", early)
    api.world.add(OTHER_ACCOUNT, "v1", other)
    if "sweep" in point:
        assert command(*ONCE, **SETTINGS).code == 0
        late = [event_at(ago(hours=2)), event_at(ago(hours=1, minutes=30))]
        api.world.add(ACCOUNT, "v1", late)
        early += late
    sweeping = {"SWEEP_INTERVAL_SECONDS": "0.1"} if "sweep" in point else {}

    killed = command("-m", "tests.faults.dying", point, "1", "KILL", "run", "--once", **SETTINGS, **sweeping)
    more = spread(5, ago(minutes=5), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", more)
    healed = command(*ONCE, **SETTINGS, **sweeping)

    assert killed.code == -signal.SIGKILL, killed.err
    assert healed.code == 0, healed.err
    assert stores.ids() == (sorted(ids(early + other + more)),) * 2


@pytest.mark.long
def test_killed_at_random_moments_nothing_is_lost_and_nothing_doubled(
    api: Api, command: Command, environment: Mapping[str, str], stores: Stores
) -> None:
    """The short form of `make soak`."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)  # not for secrets
    events = spread(2000, ago(hours=30), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)

    for _ in range(6):
        with process_of(environment, "pipelines/run.py", "--once", CLOUDFLARE_PER_PAGE="50") as process:
            time.sleep(dice.uniform(0.7, 2.5))
            process.kill()
    healed = command(*ONCE)

    assert healed.code == 0, healed.err
    assert stores.ids() == (sorted(ids(events)),) * 2
