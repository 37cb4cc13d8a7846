"""A quarantine object that is broken is named, and made anew from what still has its events."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from simulator.api import Api
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, encoded, event_at, ids, raw_event, v1_tree
from tests.proof.test_reconcile_damage import DAY, RECONCILE, Command, Poll, hour_objects
from tests.stores import Stores

pytestmark = pytest.mark.integration


def _quarantine_of(stores: Stores, account_id: str = ACCOUNT) -> Path:
    (path,) = (stores.lake / f"cloudflare/audit_logs_quarantine/account={account_id}").glob("date=*/events.parquet")
    return path


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _quarantined(stores: Stores) -> tuple[list[str], list[str]]:
    warehouse = stores.query("SELECT raw_event FROM {schema}.audit_logs_quarantine WHERE timestamp IS NULL")
    lake = stores.lake_table("audit_logs_quarantine").to_pylist()
    return sorted(row["raw_event"] for row in warehouse), sorted(row["raw_event"] for row in lake)


def test_a_broken_quarantine_is_made_anew_by_the_command_that_the_loop_names(
    api: Api, poll: Poll, command: Command, stores: Stores
) -> None:
    """The quarantine is made from the warehouse's, the broken object is kept elsewhere, and the next poll loads."""
    odd = [raw_event(f'{{"id":"odd-{n}"}}', time=ago(minutes=9)) for n in range(3)]
    refused = encoded(v1_tree(when=ago(minutes=8).isoformat(), metadata={"ttl": "N"})).replace(b'"N"', b"1e999999")
    api.world.add(ACCOUNT, "v1", [*odd, raw_event(refused, time=ago(minutes=8))])
    poll()
    held = _quarantined(stores)
    _torn(_quarantine_of(stores))
    api.world.add(ACCOUNT, "v1", [event_at(ago(minutes=5), id="after")])

    stopped = poll()
    error = str(stopped.failures.destinations["lake"])
    named = re.search(r"cloudflare-audit (reconcile( \S+)+?) sets it aside", error)
    assert named, error
    words = ["-m", "cloudflare_audit", *named[1].split()]
    found = command(*words, "--json")
    wrong = command(*[word for word in words if word != "--repair"], "--json")
    went_on = poll()

    assert (found.code, found.report["broken_quarantines"]) == (0, []), found.err
    assert wrong.code == 0, wrong.out
    assert _quarantined(stores) == held == (sorted(event.raw.decode() for event in odd),) * 2
    assert list((stores.lake / "cloudflare/_broken/audit_logs_quarantine").rglob("events.parquet-*"))
    assert not went_on.failures.destinations
    assert "after" in stores.lake_ids()


def test_a_broken_quarantine_is_told_and_filled_from_the_api_where_the_warehouse_has_nothing(
    api: Api, poll: Poll, command: Command, stores: Stores
) -> None:
    """A comparison alone changes nothing."""
    api.world.add(ACCOUNT, "v1", [raw_event('{"id":"odd"}', time=DAY + timedelta(hours=1))])
    poll()
    stores.query("DELETE FROM {schema}.audit_logs_quarantine")
    _torn(_quarantine_of(stores))
    torn = _quarantine_of(stores).read_bytes()

    told, doctor = command(*RECONCILE), command("pipelines/doctor.py")
    is_untouched = _quarantine_of(stores).read_bytes() == torn
    mended = command(*RECONCILE, "--repair")

    assert (told.code, doctor.code, is_untouched, mended.code) == (3, 1, True, 0), told.err + mended.err
    assert re.search(r"^fail  quarantine .*cloudflare-audit reconcile --repair --account", doctor.out, re.MULTILINE), (
        doctor.out
    )
    assert f"account {ACCOUNT}: its quarantine in the lake is broken" in told.out
    assert _quarantined(stores) == (['{"id":"odd"}'],) * 2


def test_a_broken_quarantine_that_nobody_can_fill_stays_a_gap_of_its_repair(
    api: Api, poll: Poll, command: Command, stores: Stores
) -> None:
    """The API has forgotten it, the warehouse lost it."""
    api.world.add(ACCOUNT, "v1", [raw_event('{"id":"odd"}', time=DAY + timedelta(hours=1))])
    poll()
    stores.query("DELETE FROM {schema}.audit_logs_quarantine")
    api.world.forget(ACCOUNT, "v1")
    _torn(_quarantine_of(stores))

    mended = command(*RECONCILE, "--repair", "--json")

    assert (mended.code, mended.report["broken_quarantines"]) == (3, [ACCOUNT])
    assert list((stores.lake / "cloudflare/_broken").rglob("events.parquet-*"))


def test_a_broken_quarantine_holds_up_neither_other_accounts_nor_the_repair_of_an_hour(
    api: Api, poll: Poll, command: Command, stores: Stores
) -> None:
    """Nor its own, unless there is something to quarantine."""
    both = {"CLOUDFLARE_ACCOUNT_ID": f"{ACCOUNT},{OTHER_ACCOUNT}"}
    odd, hour, newest = (
        raw_event('{"id":"odd"}', time=DAY + timedelta(hours=1)),
        event_at(DAY),
        event_at(ago(minutes=30)),
    )
    api.world.add(ACCOUNT, "v1", [odd, hour, newest])
    poll(**both)
    _torn(_quarantine_of(stores))
    others, own = event_at(ago(minutes=5)), event_at(ago(minutes=5))
    api.world.add(OTHER_ACCOUNT, "v1", [others])
    api.world.add(ACCOUNT, "v1", [own])

    report = poll(SWEEP_INTERVAL_SECONDS="0", **both)
    _torn(hour_objects(stores)[0])
    mended = command(*RECONCILE, "--repair")

    assert not report.failures.destinations
    assert mended.code == 0, mended.err
    assert stores.lake_ids() == sorted(ids([hour, newest, others, own]))
