"""What a comparison says in a line: of accounts, not of their versions; of what was compared, and of nothing else."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.servers.commands import Finished
from pipelines.loop.report import Report
from simulator.api import Api, Fault
from tests.factory import ACCOUNT, OTHER_ACCOUNT, spread

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
RECONCILE = ("pipelines/reconcile.py", "--since", DAY.isoformat(), "--before", (DAY + timedelta(days=2)).isoformat())


@pytest.fixture(autouse=True)
def _two_days(api: Api, poll: Callable[..., Report]) -> None:
    """Forty-eight events."""
    api.world.add(ACCOUNT, "v1", spread(48, DAY, DAY + timedelta(days=2)))
    poll()


def test_accounts_that_fail_are_counted_once_and_nothing_compared_is_no_good_news(api: Api, command: Command) -> None:
    """Two accounts in two versions are two accounts, of the comparison and of the loop."""
    both = {"CLOUDFLARE_ACCOUNT_ID": f"{ACCOUNT},{OTHER_ACCOUNT}", "CLOUDFLARE_API_VERSION": "v1,v2"}
    api.faults.append(Fault(status=403, body="{}", times=None))

    compared, loop = command(*RECONCILE, **both), command("pipelines/run.py", "--once", **both)

    assert (compared.code, loop.code) == (1, 1), compared.err + loop.err
    assert "nothing was compared; 2 accounts could not be compared in full, see the log" in compared.out
    assert "no gap found" not in compared.out
    assert "; 2 failed, see the log" in loop.out


def test_hours_that_the_warehouse_does_not_keep_are_said_to_be_compared_without_it(command: Command) -> None:
    """The retention has deleted them, or is about to: the lake alone proves them."""
    shortened = {"TIMESCALE_RETENTION_DAYS": "3"}

    kept, short = command(*RECONCILE), command(*RECONCILE, **shortened)
    report = command(*RECONCILE, "--json", **shortened).report

    assert kept.out == "48 hours, 48 events in API, warehouse, lake: complete\n"
    assert 0 < report["warehouse_hours"] < 48
    older = 48 - report["warehouse_hours"]
    assert short.out == (
        "48 hours, 48 events in API, warehouse, lake: complete;"
        f" {older} hours without the warehouse, whose retention they are older than\n"
    )
