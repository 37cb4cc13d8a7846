"""Many accounts in one process: one that is broken, however, holds up none of the others."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from simulator.accounts import account_ids_of
from simulator.api import Api, Fault

from .conftest import Finished, Stores
from .factory import ids, spread

pytestmark = pytest.mark.integration

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=9)
WINDOW = ("--since", DAY.isoformat(), "--before", (DAY + timedelta(days=1)).isoformat())


def test_a_backfill_names_the_accounts_that_are_broken_and_completes_the_others(
    api: Api, command: Callable[..., Finished], stores: Stores
) -> None:
    """Whatever is wrong with them. The next one asks for these alone again."""
    accounts = account_ids_of(100)
    for account in accounts:
        api.world.add(account, "v1", spread(3, DAY, DAY + timedelta(days=1)))
    refusing, failing, talking = accounts[7:60:52], accounts[20:80:50], accounts[99]
    broken = sorted([*refusing, *failing, talking])
    api.faults += [Fault(account_id=account, status=403, body="{}", times=None) for account in refusing]
    api.faults += [Fault(account_id=account, status=500, times=None) for account in failing]
    api.faults.append(Fault(account_id=talking, body="<html>hello</html>", times=None))
    several = {"CLOUDFLARE_ACCOUNT_ID": ",".join(accounts), "CLOUDFLARE_MAX_RETRIES": "1"}

    told = command("pipelines/backfill.py", *WINDOW, **several)
    asked = len(api.requests)
    again = command("pipelines/backfill.py", *WINDOW, "--json", **several)

    healthy = [account for account in accounts if account not in broken]
    wanted = sorted(event_id for account in healthy for event_id in ids(api.world.events(account, "v1")))
    assert stores.ids() == (wanted, wanted)
    assert (told.code, again.code, len(broken)) == (1, 1, 5), told.err
    assert sorted(line.split()[1] for line in told.out.splitlines() if line.startswith("failed: ")) == broken
    assert sorted(again.report["failed_accounts"]) == [f"audit_logs_v1_{account}" for account in broken]
    assert again.report["days_skipped"] == 95
    assert {request.account_id for request in api.requests[asked:]} == set(broken)
