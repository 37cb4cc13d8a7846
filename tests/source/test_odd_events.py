"""Odd events are kept: the lake has the exact text, the warehouse a readable substitute or the quarantine."""

import json
import random
import time as clock
from collections.abc import Callable

import pytest

from pipelines.fetch.reading import StepLimits
from pipelines.loop.report import Report
from simulator.api import Api
from sources.cloudflare_audit_logs.streams import Stream
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, encoded, event_at, ids, raw_event, v1_tree
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]


def test_an_event_that_cannot_be_placed_is_quarantined_in_both_stores_once(
    api: Api, poll: Poll, stores: Stores
) -> None:
    """It is never dropped, never blocks the others, and is not loaded again at every poll."""
    odd, fine = '{"id":"odd","when":"yesterday"}', event_at(ago(minutes=3))
    api.world.add(ACCOUNT, "v1", [raw_event(odd, time=ago(minutes=4)), fine])

    poll()
    again = poll()

    quarantined = stores.query("SELECT * FROM {schema}.audit_logs_quarantine")
    assert [row["raw_event"] for row in quarantined] == [odd]
    assert "no readable time" in quarantined[0]["reason"]
    assert stores.lake_table("audit_logs_quarantine").to_pylist() == quarantined
    assert stores.ids() == ([*ids([fine])], [*ids([fine])])
    assert again.loads == {}


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param({"id": "number", "metadata": {"ttl": "NUMBER"}}, id="a number without bound"),
        pytest.param({"id": "x" * 50_000}, id="an id too long for an index"),
    ],
)
def test_an_event_that_postgresql_refuses_is_quarantined_there_and_kept_in_the_lake(
    api: Api, poll: Poll, stores: Stores, refused: dict[str, object]
) -> None:
    """Its neighbours are in both stores, and no later poll tries it again."""
    time = ago(minutes=3)
    tree = v1_tree(when=f"{time:%Y-%m-%dT%H:%M:%SZ}", **refused)
    # Random text, as PostgreSQL would compress a long run of one letter below its limit.
    tree["id"] = _incompressible(len(str(tree["id"]))) if len(str(tree["id"])) > 1000 else tree["id"]
    raw = encoded(tree).replace(b'"NUMBER"', b"1e999999")
    fine = [event_at(ago(minutes=4)), event_at(ago(minutes=2))]
    api.world.add(ACCOUNT, "v1", [fine[0], raw_event(raw, time=time), fine[1]])

    first = poll()
    again = poll()

    quarantined = stores.query("SELECT * FROM {schema}.audit_logs_quarantine")
    assert stores.ids() == (sorted(ids(fine)), sorted({tree["id"], *ids(fine)}))
    assert raw.decode() in stores.lake_table()["raw_event"].to_pylist()
    assert [(row["event_id"], row["raw_event"]) for row in quarantined] == [(tree["id"], raw.decode())]
    assert "refused by PostgreSQL" in quarantined[0]["reason"]
    assert (first.new, first.quarantined) == ({"warehouse": 2, "lake": 3}, {"warehouse": 1, "lake": 0})
    flow = first.flow("warehouse", Stream(ACCOUNT, "v1"))
    assert (flow.stored, flow.quarantined, flow.duplicate) == (2, 1, 0)
    assert again.loads == {}


def test_what_postgresql_refuses_in_a_step_of_a_long_window_or_in_a_sweep_is_counted_as_quarantined(
    api: Api, poll: Poll, stores: Stores
) -> None:
    """Each stream keeps its own, however the events are written."""
    events = [event_at(ago(minutes=minutes)) for minutes in (9, 8, 7, 6, 5)]
    for account, refused in ((ACCOUNT, 0), (OTHER_ACCOUNT, 1)):
        raw = encoded(v1_tree(when=ago(minutes=8).isoformat(), metadata={"ttl": "N"})).replace(b'"N"', b"1e999999")
        api.world.add(account, "v1", [*events, *[raw_event(raw, time=ago(minutes=8))] * refused])
    both = {"CLOUDFLARE_ACCOUNT_ID": f"{ACCOUNT},{OTHER_ACCOUNT}", "SWEEP_INTERVAL_SECONDS": "1"}

    polled = poll(limits=StepLimits(events=2), **both)
    late = encoded(v1_tree(when=ago(hours=3).isoformat(), metadata={"ttl": "N"})).replace(b'"N"', b"1e999999")
    api.world.add(OTHER_ACCOUNT, "v1", [raw_event(late, time=ago(hours=3))])
    clock.sleep(1.1)
    swept = poll(**both)

    assert (polled.new, polled.quarantined) == ({"warehouse": 10, "lake": 11}, {"warehouse": 1, "lake": 0})
    assert [polled.flow("warehouse", Stream(a, "v1")).quarantined for a in (ACCOUNT, OTHER_ACCOUNT)] == [0, 1]
    assert (swept.late, swept.quarantined) == ({"warehouse": 0, "lake": 1}, {"warehouse": 1, "lake": 0})
    assert len(stores.query("SELECT * FROM {schema}.audit_logs_quarantine")) == 2


@pytest.mark.parametrize(("escape", "meaning"), [(r"\u0000", "\ufffd"), (r"\ud800", "\ufffd"), (r"\ud83d\ude00", "😀")])
def test_characters_that_jsonb_refuses_are_replaced_in_the_warehouse_alone(
    api: Api, poll: Poll, stores: Stores, escape: str, meaning: str
) -> None:
    """The lake's text is byte for byte the API's, and the event's key is the same in both."""
    time = ago(minutes=3)
    tree = v1_tree(when=f"{time:%Y-%m-%dT%H:%M:%SZ}", metadata={"name": "a-HERE-b"})
    raw = encoded(tree).decode().replace("HERE", escape)
    api.world.add(ACCOUNT, "v1", [raw_event(raw, time=time)])

    poll()

    assert [row["raw_event"] for row in stores.lake_events()] == [raw]
    assert [json.loads(row["metadata"]) for row in stores.warehouse()] == [{"name": f"a-{meaning}-b"}]
    assert stores.ids() == ([tree["id"]], [tree["id"]])


def test_an_event_of_10_mb_is_loaded(api: Api, poll: Poll, stores: Stores) -> None:
    """Neither step nor stores have a limit below 10 MB for an event."""
    time = ago(minutes=3)
    raw = encoded(v1_tree(when=f"{time:%Y-%m-%dT%H:%M:%SZ}", newValue="€" * 2_000_000))
    api.world.add(ACCOUNT, "v1", [raw_event(raw, time=time), event_at(ago(minutes=2))])

    poll()

    assert raw.decode() in stores.lake_table()["raw_event"].to_pylist()
    assert (
        stores.query("SELECT max(length(raw_event::text)) AS length FROM {schema}.audit_logs")[0]["length"] > 2_000_000
    )
    assert len(stores.ids()[0]) == 2


def test_the_same_event_through_two_accounts_is_kept_for_each(api: Api, poll: Poll, stores: Stores) -> None:
    """User-level events are visible on every account that the user could reach."""
    event = event_at(ago(minutes=3), id="shared")
    api.world.add(ACCOUNT, "v1", [event])
    api.world.add("other", "v1", [event])

    poll(CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},other")

    assert [row["account_id"] for row in stores.warehouse()] == [ACCOUNT, "other"]
    assert [row["account_id"] for row in stores.lake_events()] == [ACCOUNT, "other"]


def test_an_event_without_id_is_loaded_once_under_the_hash_of_its_content(api: Api, poll: Poll, stores: Stores) -> None:
    """The API may write the same event with other spaces the next time."""
    time = ago(minutes=3)
    tree = v1_tree(id=None, when=f"{time:%Y-%m-%dT%H:%M:%SZ}")
    api.world.add(
        ACCOUNT, "v1", [raw_event(encoded(tree), time=time), raw_event(json.dumps(tree, indent=1), time=time)]
    )

    poll()

    warehouse, lake = stores.ids()
    assert len(warehouse) == len(lake) == 1
    assert len(warehouse[0]) == 64


def _incompressible(length: int) -> str:
    dice = random.Random(0)  # not for secrets
    return "".join(dice.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=length))


def test_an_event_older_than_was_asked_for_is_kept(api: Api, poll: Poll, stores: Stores) -> None:
    """No event that the API shows is dropped; a server that shows it at every poll causes one load, not many."""
    old, new = event_at(ago(days=400)), event_at(ago(minutes=3))
    shown_as_new = raw_event(old.raw, time=ago(minutes=4))
    api.world.add(ACCOUNT, "v1", [shown_as_new, new])

    poll()
    again = poll()

    assert stores.ids() == (sorted(ids([old, new])),) * 2
    assert again.loads == {}
