"""Stores that were loaded by v1 alone take v2 up from its own begin; what they hold of v1 stays as it is."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished
from benchmarks.servers.seaweed import Bucket
from simulator.api import Api
from simulator.world import SimulatedEvent
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, ids, spread
from tests.stores import Stores

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]
DEFAULT = {"CLOUDFLARE_API_VERSION": None}
BOTH_ACCOUNTS = {"CLOUDFLARE_ACCOUNT_ID": f"{ACCOUNT},{OTHER_ACCOUNT}"}
LAG = timedelta(seconds=900)


def happened(api: Api, account_id: str = ACCOUNT) -> dict[str, list[SimulatedEvent]]:
    """Events of the last 35 days in both versions; the API of v1 and that of v2 show the same actions."""
    events = {version: spread(70, ago(days=35), ago(minutes=1), version=version) for version in ("v1", "v2")}
    for version, its in events.items():
        api.world.add(account_id, version, its)
    return events


def newer(events: list[SimulatedEvent], since: datetime) -> list[SimulatedEvent]:
    """Those from then on."""
    return [event for event in events if event.time >= since]


def cursors(command: Command, **changes: str | None) -> dict[tuple[str, str, str], str | None]:
    """Returns the cursor of each store, account and version."""
    status = command("pipelines/status.py", "--json", **DEFAULT, **changes).report
    return {
        (store, stream["account_id"], stream["api_version"]): stream["cursor"]
        for store in ("warehouse", "lake")
        for stream in status[store]["streams"]
        if stream["cursor"]
    }


def asked_since(api: Api, version: str) -> list[datetime]:
    """Where the windows began that the API was asked for."""
    return [datetime.fromisoformat(request.params["since"]) for request in api.requests if request.version == version]


@pytest.mark.wide
@pytest.mark.parametrize("days", [30, 33])
def test_v2_begins_30_days_before_or_at_the_checkpoint_and_v1_goes_on(
    api: Api, command: Command, stores: Stores, days: int
) -> None:
    """Nothing of v1 is read again but its lag and what a sweep reads, and nothing is there twice."""
    checkpoint = None if days == 30 else ago(days=days).isoformat()
    events = happened(api)
    first = command("pipelines/run.py", "--once", INITIAL_CHECKPOINT=checkpoint)
    again = command("pipelines/run.py", "--once")
    held, began_with = stores.ids(), cursors(command)
    api.requests.clear()

    upgraded = command("pipelines/run.py", "--once", INITIAL_CHECKPOINT=checkpoint, **DEFAULT)
    idle = command("pipelines/run.py", "--once", "--json", **DEFAULT)

    of_v1, of_v2 = (newer(events[version], ago(days=days)) for version in ("v1", "v2"))
    assert [done.code for done in (first, again, upgraded, idle)] == [0] * 4, upgraded.err
    assert held == (sorted(ids(of_v1)),) * 2
    assert stores.ids() == (sorted(ids([*of_v1, *of_v2])),) * 2
    assert idle.report["new"] == {}
    after = cursors(command)
    assert {key: after[key] for key in began_with} == began_with
    assert len(began_with) == 2
    assert len(after) == 4
    newest = max(event.time for event in of_v1)
    assert min(asked_since(api, "v1")) >= newest - LAG - timedelta(days=2)


@pytest.mark.long
def test_on_an_embedded_server_and_a_bucket_as_well(
    api: Api, command: Command, bucket: Bucket, server_dir: Path, tmp_path: Path
) -> None:
    """Each event once in both, whatever they are."""
    stores = {**dict.fromkeys(("PG_HOST", "PG_PORT", "PG_PASSWORD")), "DATA_DIR": str(server_dir / tmp_path.name)}
    lake = bucket.settings(f"second-{tmp_path.name}")
    events = happened(api)

    first = command("pipelines/run.py", "--once", "--json", **stores, **lake)
    upgraded = command("pipelines/run.py", "--once", "--json", **stores, **lake, **DEFAULT)
    window = ("--since", ago(days=29).isoformat(), "--before", ago(hours=1).isoformat())
    proof = command("pipelines/reconcile.py", *window, "--json", **stores, **lake, **DEFAULT)

    new = [len(newer(events[version], ago(days=30))) for version in ("v1", "v2")]
    assert (first.code, upgraded.code, proof.code) == (0, 0, 0), first.err + upgraded.err + proof.err
    assert [done.report["new"] for done in (first, upgraded)] == [{"warehouse": n, "lake": n} for n in new]
    assert proof.report["gaps"] == []
    assert proof.report["events"] == sum(
        ago(days=29) <= event.time < ago(hours=1) for its in events.values() for event in its
    )


@pytest.mark.long
def test_shards_take_it_up_though_their_number_changes_with_it(api: Api, command: Command, stores: Stores) -> None:
    """The former shards' positions in v1 do not count for v2."""
    events = {account: happened(api, account) for account in (ACCOUNT, OTHER_ACCOUNT)}
    first = [command("pipelines/run.py", "--once", "--shard", f"{n}/2", **BOTH_ACCOUNTS) for n in (1, 2)]
    began_with = cursors(command, **BOTH_ACCOUNTS)
    api.requests.clear()

    upgraded = [
        command("pipelines/run.py", "--once", "--shard", f"{n}/3", **BOTH_ACCOUNTS, **DEFAULT) for n in (1, 2, 3)
    ]
    back = command("pipelines/run.py", "--once", "--json", **BOTH_ACCOUNTS, **DEFAULT)

    every = [event for its in events.values() for of in its.values() for event in newer(of, ago(days=30))]
    assert [done.code for done in (*first, *upgraded, back)] == [0] * 6, "".join(done.err for done in upgraded)
    assert stores.ids() == (sorted(ids(every)),) * 2
    assert not any(back.report["new"].values())
    after = cursors(command, **BOTH_ACCOUNTS)
    assert len(began_with) == 4
    assert {key: after[key] for key in began_with} == began_with
    assert min(asked_since(api, "v1")) > ago(days=3)


def test_an_account_with_a_version_of_its_own_keeps_to_it(
    api: Api, command: Command, stores: Stores, tmp_path: Path
) -> None:
    """By its table in accounts.toml; the others take v2 up."""
    events = {account: happened(api, account) for account in (ACCOUNT, OTHER_ACCOUNT)}
    tables = tmp_path / "accounts.toml"
    tables.write_text(f'[[accounts]]\nid = "{OTHER_ACCOUNT}"\nCLOUDFLARE_API_VERSION = "v1"\n')
    first = command("pipelines/run.py", "--once", ACCOUNTS_FILE=str(tables))

    upgraded = command("pipelines/run.py", "--once", ACCOUNTS_FILE=str(tables), **DEFAULT)

    wanted = [*events[ACCOUNT]["v1"], *events[ACCOUNT]["v2"], *events[OTHER_ACCOUNT]["v1"]]
    assert (first.code, upgraded.code) == (0, 0), first.err + upgraded.err
    assert stores.ids() == (sorted(ids(newer(wanted, ago(days=30)))),) * 2
    assert {(request.account_id, request.version) for request in api.requests} == {
        (ACCOUNT, "v1"),
        (ACCOUNT, "v2"),
        (OTHER_ACCOUNT, "v1"),
    }
