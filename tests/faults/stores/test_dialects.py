"""The lake is complete in every dialect of S3, and where a store enforces no conditions, that is said."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.servers.commands import Finished, process_of, wait_until
from benchmarks.servers.seaweed import S3_KEYS
from pipelines.loop.report import Report
from simulator.api import Api
from tests.factory import ACCOUNT, ago, event_at, ids, raw_event, spread
from tests.faults.conftest import RunLoop
from tests.rows import rows
from tests.s3_dialects import (
    BARE,
    CREATES_ALONE,
    CREATES_OR_501,
    IGNORANT,
    INVALID,
    NAMELESS,
    NEVER_CREATES,
    PLAIN,
    POOR,
    SAFE,
    UNKNOWN,
    WEAK,
    Dialect,
)
from tests.s3_server import Place, assert_plain, serving
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]
MakeLake = Callable[[Dialect], Place]
ONCE = ("pipelines/run.py", "--once", "--json")
V1 = {"CLOUDFLARE_API_VERSION": "v1"}
EVENTS = "cf/cloudflare/audit_logs/"
DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
OF_DAY = ("--since", DAY.isoformat(), "--before", (DAY + timedelta(days=1)).isoformat())


@pytest.fixture
def lake_in(environment: dict[str, str]) -> Iterator[MakeLake]:
    """Makes a store of that dialect the lake of `environment`."""
    with ExitStack() as stack:

        def lake_in(dialect: Dialect) -> Place:
            url, place = stack.enter_context(serving(dialect))
            settings = {"S3_ENDPOINT": url, "S3_BUCKET": "lake", "S3_PREFIX": "cf", "S3_REGION": "auto", **S3_KEYS}
            environment.update(settings)
            return place

        yield lake_in


FEW = {PLAIN, WEAK, CREATES_OR_501, NAMELESS, NEVER_CREATES}
"""The dialects that run always; `make soak` has all, and `test_objects` has them anyway."""


@pytest.mark.wide
@pytest.mark.parametrize(
    "dialect",
    [pytest.param(one, id=one.name, marks=[] if one in FEW else pytest.mark.long) for one in (*SAFE, *POOR)],
)
def test_an_hour_is_written_again_and_again(
    dialect: Dialect, api: Api, poll: Poll, stores: Stores, lake_in: MakeLake
) -> None:
    """By starts of their own, each from the state that the one before left; the quarantine, too."""
    place = lake_in(dialect)
    events = []
    for number in range(3):
        new = spread(4, ago(minutes=5), ago(minutes=4))
        api.world.add(ACCOUNT, "v1", [*new, raw_event(f'"no event {number}"', time=ago(minutes=4))])
        events += new

        report = poll(**V1)

        assert not report.failures.destinations
        assert stores.lake_ids() == sorted(ids(events))
    assert stores.warehouse_ids() == sorted(ids(events))
    assert len(stores.lake_table("audit_logs_quarantine")) == 3
    ours = [request for request in place.requests if "Boto3" not in request.headers["user-agent"]]
    assert {"GET", "PUT"} <= {request.method for request in ours}
    for request in ours:
        assert_plain(request.headers)


@pytest.mark.wide
@pytest.mark.parametrize("dialect", rows(BARE, UNKNOWN, long=[CREATES_ALONE]), ids=lambda dialect: dialect.name)
def test_the_log_and_the_doctor_name_the_dialect(
    dialect: Dialect, api: Api, command: Command, stores: Stores, lake_in: MakeLake
) -> None:
    """Log and doctor name the dialect and what to do; no exit code says that it might pass."""
    lake_in(dialect)
    events = spread(4, ago(minutes=5), ago(minutes=4))
    api.world.add(ACCOUNT, "v1", events)
    first = command(*ONCE, **V1)
    more = spread(4, ago(minutes=5), ago(minutes=4))
    api.world.add(ACCOUNT, "v1", more)

    second = command(*ONCE, **V1)
    doctor = command("pipelines/doctor.py", **V1)
    asked = command("pipelines/ask.py", "SELECT count(*) AS n FROM audit_logs()", "--json", **V1)

    assert [done.code for done in (first, second, doctor)] == [0, 0, 0], first.err + second.err + doctor.out
    assert stores.lake_ids() == sorted(ids(events + more))
    assert asked.report == {"n": 8}, asked.err
    said, found = {
        BARE: ("conditional writes are enforced, with ETags without quotes", "ok    conditions   "),
        UNKNOWN: ("the store refuses If-None-Match and If-Match", "warn  conditions   "),
        CREATES_ALONE: ("the store ignores If-Match", "warn  conditions   "),
    }[dialect]
    assert all(f'lake.conditions found="{said}"' in done.err for done in (first, second))
    assert f"{found}{said}" in doctor.out
    is_warned = ["run one writer" in text for text in (first.err, second.err, doctor.out)]
    assert is_warned == [dialect is not BARE] * 3


@pytest.mark.wide
@pytest.mark.parametrize(
    ("dialect", "point"),
    [
        (BARE, "before a PUT"),
        pytest.param(UNKNOWN, "after a PUT", marks=pytest.mark.long),
        (CREATES_OR_501, "before the lake's state counts"),
        pytest.param(NAMELESS, "with the lock and no state", marks=pytest.mark.long),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_kill_in_between_costs_nothing(
    dialect: Dialect, point: str, api: Api, command: Command, stores: Stores, lake_in: MakeLake
) -> None:
    """The second write of an hour is on its way, say."""
    lake_in(dialect)
    events = spread(8, ago(hours=2), ago(minutes=4))
    api.world.add(ACCOUNT, "v1", events)
    assert command(*ONCE, **V1).code == 0
    more = spread(4, ago(minutes=5), ago(minutes=4))
    api.world.add(ACCOUNT, "v1", more)

    killed = command("-m", "tests.faults.dying", point, "1", "KILL", "run", "--once", **V1)
    healed = command(*ONCE, **V1)

    assert (killed.code, healed.code) == (-signal.SIGKILL, 0), killed.err + healed.err
    assert stores.ids() == (sorted(ids(events + more)),) * 2


@pytest.mark.parametrize("dialect", rows(BARE, IGNORANT, long=[WEAK, UNKNOWN]), ids=lambda dialect: dialect.name)
def test_two_writers_lose_nothing_of_each_others(
    dialect: Dialect, api: Api, environment: Mapping[str, str], stores: Stores, lake_in: MakeLake
) -> None:
    """Both versions of an account, which share its hours; where there are no conditions, on one host."""
    lake_in(dialect)
    of_v1 = spread(96, DAY, DAY + timedelta(days=1))
    of_v2 = spread(96, DAY, DAY + timedelta(days=1), version="v2")
    api.world.add(ACCOUNT, "v1", of_v1)
    api.world.add(ACCOUNT, "v2", of_v2)

    with ExitStack() as stack:
        loop = stack.enter_context(process_of(environment, *ONCE, **V1))
        backfill = ("pipelines/backfill.py", *OF_DAY)
        beside = stack.enter_context(process_of(environment, *backfill, CLOUDFLARE_API_VERSION="v2"))
        codes = [loop.wait(120), beside.wait(120)]

    assert codes == [0, 0]
    assert stores.lake_ids() == sorted(ids(of_v1 + of_v2))


@pytest.mark.parametrize("dialect", rows(INVALID, long=[BARE]), ids=lambda dialect: dialect.name)
def test_a_gap_is_repaired(
    dialect: Dialect, api: Api, poll: Poll, command: Command, stores: Stores, lake_in: MakeLake
) -> None:
    """An object is gone, one is broken, one lacks an event."""
    place = lake_in(dialect)
    events = [event_at(DAY + timedelta(minutes=30 * number)) for number in range(48)]
    api.world.add(ACCOUNT, "v1", events)
    poll(**V1)
    gone, broken, *_ = sorted(place.bodies(EVENTS))
    del place.objects[gone]
    place.objects[broken] = place.objects[broken]._replace(body=b"garbage", etag="changed")

    found = command("pipelines/reconcile.py", *OF_DAY, **V1)
    mended = command("pipelines/reconcile.py", *OF_DAY, "--repair", **V1)
    again = command("pipelines/reconcile.py", *OF_DAY, **V1)

    assert (found.code, again.code) == (3, 0), mended.err + again.out
    assert stores.lake_ids() == sorted(ids(events))


@pytest.mark.long
@pytest.mark.parametrize(
    ("before", "after"), rows((BARE, UNKNOWN), long=[(PLAIN, BARE), (IGNORANT, WEAK)]), ids=lambda dialect: dialect.name
)
def test_a_dialect_that_changes_under_the_loop_is_learned_again(
    before: Dialect, after: Dialect, api: Api, running: RunLoop, stores: Stores, lake_in: MakeLake
) -> None:
    """A proxy was upgraded: the loop goes on."""
    place = lake_in(before)
    events = spread(4, ago(minutes=3), ago(minutes=2))
    api.world.add(ACCOUNT, "v1", events)

    with running(**V1) as loop:
        wait_until(lambda: stores.lake_ids() == sorted(ids(events)))
        place.dialect = after
        more = spread(4, ago(minutes=3), ago(minutes=2))
        api.world.add(ACCOUNT, "v1", more)
        wait_until(lambda: stores.lake_ids() == sorted(ids(events + more)))

    assert "destination.failed" not in loop.log


@pytest.mark.long
@pytest.mark.parametrize("verb", rows("doctor", long=["status"]))
def test_a_store_that_never_answers_is_given_up(
    verb: str, api: Api, poll: Poll, command: Command, lake_in: MakeLake
) -> None:
    """The command gives up a silent store after ten seconds, and shows the other one."""
    place = lake_in(PLAIN)
    api.world.add(ACCOUNT, "v1", spread(4, ago(minutes=5), ago(minutes=4)))
    poll(**V1)
    place.hangs = True

    begin = time.monotonic()
    done = command(f"pipelines/{verb}.py", **V1)

    assert time.monotonic() - begin < 60
    assert done.code == {"doctor": 1, "status": 75}[verb]
    assert "no answer from http://127.0.0.1" in done.out
    shown = {"doctor": "ok    warehouse", "status": "4 events by PostgreSQL's estimate"}[verb]
    assert shown in done.out or "last load" in done.out


@pytest.mark.long
def test_the_loop_ends_in_bounded_time_beside_a_store_that_never_answers(
    api: Api, environment: Mapping[str, str], stores: Stores, lake_in: MakeLake
) -> None:
    """On SIGTERM; the warehouse is loaded meanwhile."""
    lake_in(PLAIN).hangs = True
    events = spread(4, ago(minutes=5), ago(minutes=4))
    api.world.add(ACCOUNT, "v1", events)

    with process_of(environment, "pipelines/run.py", **V1) as loop:
        wait_until(lambda: stores.warehouse_ids() == sorted(ids(events)), seconds=60)
        loop.send_signal(signal.SIGTERM)
        code = loop.wait(120)

    assert code in {0, 75}
