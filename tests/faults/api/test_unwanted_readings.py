"""A reading that no destination waits for any more ends at once: no further request is sent for nobody."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.servers.commands import wait_until
from benchmarks.servers.s3_gate import ACCESS_DENIED, Gate
from pipelines.fetch.reading import StepLimits
from pipelines.loop.report import Report
from simulator.api import Api, Fault
from tests.factory import ACCOUNT, event_at, ids, spread
from tests.faults.conftest import RunLoop
from tests.faults.proxy import Proxy
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
SMALL = StepLimits(events=100)
SETTINGS = {
    "CLOUDFLARE_API_VERSION": "v1",
    "CLOUDFLARE_PER_PAGE": "20",
    "SWEEP_INTERVAL_SECONDS": "0",
    "INITIAL_CHECKPOINT": (DAY - timedelta(days=1)).isoformat(),
}
REFUSING = """
    CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON {schema}.audit_logs EXECUTE FUNCTION {schema}.refuse()
"""


@pytest.fixture
def refusing_stores(api: Api, poll: Poll, stores: Stores) -> None:
    """They can be opened, and neither takes an event of that day."""
    api.world.add(ACCOUNT, "v1", [event_at(DAY - timedelta(hours=1))])
    poll(**SETTINGS)
    for statement in REFUSING.split(";\n"):
        stores.query(statement)
    folder = stores.lake / f"cloudflare/audit_logs/account={ACCOUNT}"
    (folder / f"date={DAY:%Y-%m-%d}").write_text("in the way")


@pytest.mark.usefixtures("refusing_stores")
def test_a_window_is_not_read_on_when_both_stores_have_failed(api: Api, poll: Poll) -> None:
    """The requests end with the step that was loaded and the one read meanwhile, far from all 201."""
    api.world.add(ACCOUNT, "v1", spread(4_000, DAY, DAY + timedelta(hours=20)))
    asked = len(api.requests)
    api.behaviour.latency_seconds = 0.3  # they fail while the next part is being read

    report = poll(limits=SMALL, **SETTINGS)

    assert report.failures.destinations.keys() == {"warehouse", "lake"}
    assert len(api.requests) - asked <= 2 * (100 // 20 + 1)


@pytest.mark.usefixtures("refusing_stores")
@pytest.mark.parametrize(
    "fault",
    [
        Fault(page=8, status=503, times=None),
        Fault(page=8, body="<html>a moment</html>", times=None),
    ],
)
def test_nobody_waits_for_a_second_try_of_what_nobody_wants(api: Api, poll: Poll, fault: Fault) -> None:
    """A reader that sleeps between two tries is woken; an account is not called failed for it."""
    api.world.add(ACCOUNT, "v1", spread(4_000, DAY, DAY + timedelta(hours=20)))
    api.faults.append(fault)
    waiting = {"CLOUDFLARE_BACKOFF_SECONDS": "20", "CLOUDFLARE_MAX_RETRIES": "1"}

    report = poll(limits=SMALL, **SETTINGS, **waiting)

    assert report.failures.destinations.keys() == {"warehouse", "lake"}
    assert sum(request.page == fault.page for request in api.requests) <= 1
    assert report.failures.accounts.failed == {}


@pytest.mark.long
def test_stores_that_come_back_begin_one_new_cycle(
    api: Api, running: RunLoop, stores: Stores, warehouse_proxy: Proxy, lake_gate: Gate
) -> None:
    """While both are down, the API is not asked; then each event arrives once, and nothing was left alive."""
    first, events = event_at(DAY - timedelta(hours=1)), spread(800, DAY, DAY + timedelta(hours=20))
    api.world.add(ACCOUNT, "v1", [first])
    api.behaviour.latency_seconds = 0.05
    small = "from pipelines import run; from pipelines.fetch.reading import StepLimits; "
    small += "run.run.__kwdefaults__['limits'] = StepLimits(events=100); run._main()"

    with running("-c", small, CLOUDFLARE_BACKOFF_MAX_SECONDS="0.5", **SETTINGS) as loop:
        wait_until(lambda: stores.ids() == (sorted(ids([first])),) * 2)
        api.world.add(ACCOUNT, "v1", events)
        wait_until(lambda: len(stores.warehouse_ids()) > 100 and len(stores.lake_ids()) > 100)
        warehouse_proxy.refuse()
        lake_gate.refuse = lambda _: ACCESS_DENIED
        wait_until(lambda: {"warehouse", "lake"} <= _failed(loop.log))
        wait_until(lambda: _is_silent(api))
        asked = len(api.requests)
        wait_until(lambda: loop.log.count("destination.failed") > 8)
        asked_for_nobody = len(api.requests) - asked
        warehouse_proxy.accept()
        lake_gate.refuse = lambda _: None
        wanted = sorted(ids([first, *events]))
        wait_until(lambda: stores.ids() == (wanted, wanted), 120)

    assert asked_for_nobody == 0


def _failed(log: str) -> set[str]:
    lines = [line for line in log.splitlines() if "destination.failed" in line]
    return {name for name in ("warehouse", "lake") for line in lines if f"destination={name} " in line}


def _is_silent(api: Api) -> bool:
    """Nothing was asked for a second: a request in flight may come to its end."""
    return datetime.now(UTC) - api.requests[-1].at > timedelta(seconds=1)
