"""One poll, two loads: what the API shows is in both destinations, each event once."""

from collections.abc import Callable

import pytest

from pipelines.loop import Report
from simulator.api import Api

from .conftest import Finished, Stores
from .factory import ACCOUNT, OTHER_ACCOUNT, ago, ids, spread

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]


def test_every_visible_event_is_in_both_destinations_once(api: Api, poll: Poll, stores: Stores) -> None:
    """The promise, for one poll."""
    events = spread(250, ago(days=2), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", events)

    poll()

    assert stores.ids() == (sorted(ids(events)), sorted(ids(events)))


def test_a_second_poll_with_nothing_new_changes_nothing(api: Api, poll: Poll, stores: Stores) -> None:
    """No row, no object, no file of dlt's is written, and dlt is not started."""
    api.world.add(ACCOUNT, "v1", spread(50, ago(minutes=14), ago(minutes=1)))
    poll()
    files = {path: path.stat().st_mtime_ns for path in stores.lake.rglob("*") if path.is_file()}
    rows = stores.query("SELECT xmin::text, ctid::text, event_id FROM {schema}.audit_logs ORDER BY 3")
    loads = stores.query("SELECT count(*) FROM {schema}._dlt_loads")

    report = poll()

    assert not report.loads["warehouse"]
    assert not report.loads["lake"]
    assert {path: path.stat().st_mtime_ns for path in stores.lake.rglob("*") if path.is_file()} == files
    assert stores.query("SELECT xmin::text, ctid::text, event_id FROM {schema}.audit_logs ORDER BY 3") == rows
    assert stores.query("SELECT count(*) FROM {schema}._dlt_loads") == loads


def test_an_idle_cycle_with_two_accounts_makes_two_requests(api: Api, poll: Poll) -> None:
    """One pass over the API serves both pipelines."""
    for account in (ACCOUNT, OTHER_ACCOUNT):
        api.world.add(account, "v1", spread(20, ago(minutes=30), ago(minutes=1)))
    poll(CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},{OTHER_ACCOUNT}")
    api.requests.clear()

    poll(CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},{OTHER_ACCOUNT}")

    assert len(api.requests) == 2
