"""Many accounts in one process: one that is broken, however, holds up none of the others."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from benchmarks.servers.commands import Finished, wait_until
from pipelines.loop.cycles import READERS_OF_A_QUEUE, READERS_OF_DOUBTFUL
from simulator.accounts import account_ids_of, token_of, write_accounts
from simulator.api import Api, Fault
from tests.factory import ago, event_at, ids, spread
from tests.stores import Stores
from tests.watching import watched_loop

pytestmark = pytest.mark.integration

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=9)
WINDOW = ("--since", DAY.isoformat(), "--before", (DAY + timedelta(days=1)).isoformat())


def test_a_backfill_names_the_accounts_that_are_broken_and_completes_the_others(
    api: Api, command: Callable[..., Finished], stores: Stores
) -> None:
    """Whatever is wrong with them. The next one asks for these alone again."""
    accounts = account_ids_of(20)
    for account in accounts:
        api.world.add(account, "v1", spread(3, DAY, DAY + timedelta(days=1)))
    refusing, failing, talking = accounts[3:12:8], accounts[6:15:7], accounts[19]
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
    assert again.report["days_skipped"] == 15
    assert {request.account_id for request in api.requests[asked:]} == set(broken)


@pytest.mark.long
def test_a_loop_polls_the_others_at_every_interval_whatever_some_accounts_do(
    api: Api, environment: Mapping[str, str], stores: Stores, tmp_path: Path
) -> None:
    """One hangs, one is refused, one is rate limited; each of the forty is asked with its own token alone."""
    accounts = account_ids_of(40)
    hanging, refused, limited, *others = accounts
    write_accounts(tmp_path / "accounts.toml", accounts, with_tokens=True)
    api.world.account_ids |= set(accounts)
    api.tokens = {token_of(account): {account} for account in accounts}
    api.faults += [
        Fault(account_id=hanging, latency_seconds=600, times=None),
        Fault(account_id=refused, status=403, body="{}", times=None),
        Fault(account_id=limited, status=429, body="{}", headers={"Retry-After": "6"}, times=None),
    ]
    several = {
        "ACCOUNTS_FILE": str(tmp_path / "accounts.toml"),
        "CLOUDFLARE_ACCOUNT_ID": "",
        "CLOUDFLARE_API_TOKEN": "",
        "CLOUDFLARE_REQUEST_TIMEOUT_SECONDS": "700",
        "POLL_INTERVAL_SECONDS": "2",
    }

    with watched_loop(environment, tmp_path, **several) as loop:
        for total in (37, 74, 111):
            for account in others:
                api.world.add(account, "v1", [event_at(ago(seconds=1))])
            wait_until(lambda n=total: [len(its) for its in stores.ids()] == [n, n], 120)  # type: ignore[misc]
        wait_until(lambda: sum(request.account_id == limited for request in api.requests) >= 2)
        refusals = loop.value("cloudflare_audit_account_refused", account=refused)
        asked = list(api.requests)

    wanted = sorted(event_id for account in others for event_id in ids(api.world.events(account, "v1")))
    counts = Counter(request.account_id for request in asked)
    seconds = (asked[-1].at - asked[0].at).total_seconds()
    pauses = [after.at - before.at for before, after in pairwise(r for r in asked if r.account_id == limited)]
    assert stores.ids() == (wanted, wanted)
    assert {(request.account_id, request.token) for request in asked} == {(a, token_of(a)) for a in accounts}
    assert (counts[hanging], counts[refused], refusals) == (1, 1, 1)
    assert min(pauses) >= timedelta(seconds=5.9)
    assert min(counts[account] for account in others) >= 3
    assert max(counts.values()) <= seconds / 2 + 5


@pytest.mark.long
def test_a_token_that_is_shut_out_is_asked_by_the_few_that_were_about_to(
    api: Api, environment: Mapping[str, str], tmp_path: Path
) -> None:
    """Not by all of its accounts, the next time either, when all of them have failed before."""
    accounts = account_ids_of(40)
    api.world.account_ids |= set(accounts)
    api.faults.append(Fault(status=429, body="{}", headers={"Retry-After": "30"}, times=None))

    with watched_loop(environment, tmp_path, CLOUDFLARE_ACCOUNT_ID=",".join(accounts), POLL_INTERVAL_SECONDS="1"):
        wait_until(lambda: len(api.requests) > READERS_OF_A_QUEUE, 120)
        time.sleep(3)
        asked = len(api.requests)

    assert asked <= READERS_OF_A_QUEUE + READERS_OF_DOUBTFUL


@pytest.mark.long
def test_accounts_that_do_not_answer_leave_readers_to_the_others(
    api: Api, environment: Mapping[str, str], tmp_path: Path
) -> None:
    """More of them than there are readers: once they are known for it, the others keep their pace."""
    accounts = account_ids_of(44)
    hanging, others = accounts[:40], accounts[40:]
    write_accounts(tmp_path / "accounts.toml", accounts, with_tokens=True)
    api.world.account_ids |= set(accounts)
    api.tokens = {token_of(account): {account} for account in accounts}
    api.faults += [Fault(account_id=account, latency_seconds=60, times=None) for account in hanging]
    several = {
        "ACCOUNTS_FILE": str(tmp_path / "accounts.toml"),
        "CLOUDFLARE_ACCOUNT_ID": "",
        "CLOUDFLARE_API_TOKEN": "",
        "CLOUDFLARE_MAX_RETRIES": "0",
        "CLOUDFLARE_REQUEST_TIMEOUT_SECONDS": "4",
        "POLL_INTERVAL_SECONDS": "1",
        "SWEEP_INTERVAL_SECONDS": "0",
    }

    with watched_loop(environment, tmp_path, **several):
        wait_until(lambda: len({request.account_id for request in api.requests}) == len(accounts), 120)
        known = len(api.requests)
        wait_until(lambda: sum(request.account_id in hanging for request in api.requests[known:]) > 40, 120)
        asked = list(api.requests[known:])

    for account in others:
        polls = [request.at for request in asked if request.account_id == account]
        # Each poll that waited for a reader would take four seconds; on a busy machine, some take long anyway.
        assert median((after - before).total_seconds() for before, after in pairwise(polls)) < 3.5
