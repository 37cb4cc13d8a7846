"""The two stores answer alike, and cannot be written through the dashboard."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import process_time
from typing import Any

import pytest

from benchmarks.servers.seaweed import Bucket
from dashboard.ask import questions
from dashboard.ask.conditions import Filters
from dashboard.ask.search import FIELDS, TEXTS, Term, parse
from dashboard.ask.stores import EventStore, LakeStore, WarehouseStore, ask
from pipelines.loop.report import Report
from simulator.api import Api
from simulator.world import SimulatedEvent
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, encoded, event_at, spread, v2_tree
from tests.rows import rows
from tests.stores import Stores

pytestmark = pytest.mark.integration

NOW = datetime.now(UTC).replace(microsecond=0)
ALL = Filters(NOW - timedelta(days=3), NOW)
HOSTILE = "%' OR '1'='1'; DROP TABLE audit_logs; --"
FAILED: dict[str, Any] = {"action": {"result": False, "type": "login"}}
NEW: dict[str, Any] = {"actor": {"email": "new@example.com", "ip": "192.0.2.1"}}
ODD: dict[str, Any] = {"actor": {"email": "", "id": "a-token", "ip": "", "type": "token"}, "resource": None}


@pytest.fixture(params=rows("folder", long=["bucket"]))
def both(
    api: Api,
    poll: Callable[..., Report],
    environment: dict[str, str],
    bucket: Bucket,
    request: pytest.FixtureRequest,
) -> list[EventStore]:
    """Both stores, with events of two accounts, some failed, one of hardly anything."""
    environment |= bucket.settings(environment["PG_SCHEMA"]) if request.param == "bucket" else {}
    failed = {"action": {"result": False, "type": "login"}}
    api.world.add(ACCOUNT, "v1", spread(60, ago(days=50), ago(hours=1)))
    api.world.add(ACCOUNT, "v1", spread(7, ago(hours=9), ago(hours=2), **failed, actor={"email": "eve@example.com"}))
    api.world.add(OTHER_ACCOUNT, "v2", [event_at(ago(hours=3), version="v2")])
    api.world.add(OTHER_ACCOUNT, "v1", [event_at(ago(hours=3), **ODD)])
    begin = ago(days=60).isoformat()
    accounts = f"{ACCOUNT},{OTHER_ACCOUNT}"
    poll(CLOUDFLARE_ACCOUNT_ID=accounts, CLOUDFLARE_API_VERSION="v1,v2", INITIAL_CHECKPOINT=begin)
    return [WarehouseStore(), LakeStore()]


QUESTIONS: dict[str, Callable[[EventStore, Filters], list[Any]]] = {
    "first_seen": lambda store, filters: _new(store.first_seen(filters)),
    "resources": lambda store, filters: ask(store, questions.values(filters, "resource", "rarest"))[0],
    **{
        one.__name__: lambda store, filters, one=one: ask(store, one(filters))[0]  # type: ignore[misc]
        for one in (
            questions.overview,
            questions.deeds,
            questions.addresses,
            questions.failures,
            questions.sign_ins,
            questions.tokens_used,
            questions.token_changes,
            questions.days,
            questions.events,
        )
    },
}


def _new(rows: list[Any]) -> list[Any]:
    """Without the row of the first of all, which the warehouse knows to the hour."""
    return [row for row in rows if row["subject"] != "all"]


MAY_BE_EMPTY = {"first_seen", "failures", "sign_ins", "tokens_used", "token_changes", "addresses"}


def test_both_stores_answer_every_question_alike(both: list[EventStore]) -> None:
    """Whatever the filters are; and not with nothing."""
    chosen = [
        ALL,
        replace(ALL, since=NOW - timedelta(days=90)),
        replace(ALL, accounts=(OTHER_ACCOUNT,)),
        replace(ALL, accounts=(OTHER_ACCOUNT, ACCOUNT)),
        replace(ALL, version="v2"),
        replace(ALL, terms=parse("EVE@")),
        replace(ALL, only_failures=True),
    ]
    for filters in chosen:
        for name, question in QUESTIONS.items():
            warehouse, lake = (question(store, filters) for store in both)

            assert warehouse == lake, name
            assert warehouse or name in MAY_BE_EMPTY, name
    assert both[0].accounts() == both[1].accounts() == sorted([ACCOUNT, OTHER_ACCOUNT])


def test_a_deed_of_both_versions_counts_once(api: Api, poll: Callable[..., Report]) -> None:
    """As many as the version has that has more; another minute, actor or account, and a sign-in, are other deeds."""
    minute = ago(hours=3).replace(second=10, microsecond=0)
    actor = {"email": "alice@example.com", "id": "f6b5de03", "ip": "::ffff:198.41.129.166", "type": "user"}
    sign_in = {"description": "LOGIN", "result": "failure", "time": f"{minute:%Y-%m-%dT%H:%M:%SZ}", "type": "update"}
    for seconds in (0, 20, 40):
        api.world.add(ACCOUNT, "v1", [event_at(minute + timedelta(seconds=seconds), actor=actor)])
    for seconds in (1, 21, 61):
        api.world.add(ACCOUNT, "v2", [event_at(minute + timedelta(seconds=seconds), version="v2")])
    api.world.add(ACCOUNT, "v2", [SimulatedEvent(minute, encoded(v2_tree(action=sign_in)), minute)])
    poll(CLOUDFLARE_API_VERSION="v1,v2")

    for store in (WarehouseStore(), LakeStore()):
        (found,) = ask(store, questions.deeds(ALL))

        for subject in ("time", "actor", "address"):
            its = [row for row in found if row["subject"] == subject]
            assert (sum(row["events"] for row in its), sum(row["failures"] for row in its)) == (5, 1)


def test_what_was_counted_at_the_load_is_not_read_again(both: list[EventStore], stores: Stores) -> None:
    """The first seen of the warehouse come from the counts by hour, and are those of the events."""
    warehouse = both[0]
    window = replace(ALL, since=(NOW - timedelta(hours=7)).replace(minute=31))
    counted, read = questions.first_seen(window, is_counted=True), questions.first_seen(window)

    assert _new(ask(warehouse, counted)[0]) == _new(ask(warehouse, read)[0]) == _new(warehouse.first_seen(window))
    assert _new(warehouse.first_seen(window))
    stores.query("DELETE FROM {schema}.audit_hourly_counts")
    assert _new(ask(warehouse, counted)[0]) != _new(ask(warehouse, read)[0])


def test_who_is_first_seen_is_told_with_what_came_with_it(api: Api, poll: Callable[..., Report]) -> None:
    """The address of his first event, not the least of all of them."""
    for hours, address in ((3, "203.0.113.7"), (2, "192.0.2.1"), (1, "198.51.100.3")):
        actor = {"email": "mallory@example.com", "ip": address}
        api.world.add(ACCOUNT, "v1", [event_at(ago(hours=hours), actor=actor)])
    api.world.add(ACCOUNT, "v1", [event_at(ago(hours=4), actor={"email": "zoe@example.com", "ip": "192.0.2.1"})])
    poll()

    for store in (WarehouseStore(), LakeStore()):
        found = store.first_seen(ALL)

        assert {
            row["value"]: row["address"] if row["subject"] == "actor" else row["actor"]
            for row in found
            if row["subject"] != "all"
        } == {
            "mallory@example.com": "203.0.113.7",
            "zoe@example.com": "192.0.2.1",
            "203.0.113.7": "mallory@example.com",
            "192.0.2.1": "zoe@example.com",
            "198.51.100.3": "mallory@example.com",
        }


def test_what_was_seen_before_is_not_new_by_a_search(api: Api, poll: Callable[..., Report]) -> None:
    """Neither a search nor a first failure makes an actor new, and the page names the first event of all."""
    api.world.add(ACCOUNT, "v1", [event_at(ago(days=10)), event_at(ago(days=1), **FAILED)])
    api.world.add(ACCOUNT, "v1", [event_at(ago(days=2), **NEW), event_at(ago(days=1), **NEW, **FAILED)])
    poll()

    for store in (WarehouseStore(), LakeStore()):
        for filters in (ALL, replace(ALL, only_failures=True), replace(ALL, terms=parse("login example"))):
            found = store.first_seen(filters)

            assert [row["value"] for row in found if row["subject"] == "actor"] == ["new@example.com"]
            assert {row["first_seen"].date() for row in found if row["subject"] == "actor"} == {ago(days=2).date()}
            assert [row["first_seen"].date() for row in found if row["subject"] == "all"] == [ago(days=10).date()]


@pytest.mark.parametrize("search", rows("a\0b", long=["\0"]))
def test_a_text_that_no_store_can_hold_is_not_found(both: list[EventStore], search: str) -> None:
    """A search that no store can hold finds nothing, and no store is said to be down."""
    asked = questions.events(replace(ALL, terms=(Term(search),)))

    assert [ask(store, asked) for store in both] == [[[]], [[]]]


@pytest.mark.parametrize(
    "email", rows("İSTANBUL@example.com", None, long=["ÜLKÜ@ÇANKAYA.example", "ΣΊΣΥΦΟΣ@example.gr"])
)
def test_whoever_is_listed_is_found_by_his_name(api: Api, poll: Callable[..., Report], email: str | None) -> None:
    """An actor is found in upper or lower case, or by the type if nothing else is known."""
    actor = {"email": email, "type": "user"} if email else {"type": "cloudflare_admin"}
    api.world.add(ACCOUNT, "v1", [event_at(ago(hours=4), actor=actor)])
    poll()

    for store in (WarehouseStore(), LakeStore()):
        ((listed,),) = ask(store, questions.events(ALL))

        for term in (Term(listed["actor"]), Term(listed["actor"], "actor")):
            assert ask(store, questions.events(replace(ALL, terms=(term,)))) == [[listed]]


def test_what_a_user_types_is_never_a_part_of_the_question(both: list[EventStore], stores: Stores) -> None:
    """In any field it finds nothing, and does nothing."""
    fields: list[dict[str, Any]] = [
        {"accounts": (HOSTILE,)},
        {"version": HOSTILE},
        *({"terms": (Term(HOSTILE, name),)} for name in ("", *FIELDS, *TEXTS)),
        {"terms": (Term(f"*{HOSTILE}", "actor", is_pattern=True),)},
    ]
    for field in fields:
        for question in (questions.overview, questions.deeds, questions.failures, questions.events):
            asked = question(replace(ALL, **field))

            assert HOSTILE not in asked.sql
            for store in both:
                assert ask(store, asked) == [[]]
    assert len(stores.warehouse_ids()) == 69


def test_the_lake_is_read_anew_where_it_has_changed(
    api: Api,
    poll: Callable[..., Report],
    lake_object: Callable[..., None],
    stores: Stores,
) -> None:
    """At every question; only objects of ours are read."""
    api.world.add(ACCOUNT, "v1", spread(6, ago(days=2), ago(hours=1)))
    poll()

    def events() -> int:
        return len(ask(LakeStore(), questions.events(ALL))[0])

    assert events() == 6
    lake_object(3, doubled=True)
    (min(stores.lake.rglob("events.parquet")).parent / "events.parquet.torn").write_text("PAR1")
    (stores.lake / f"cloudflare/audit_logs/account={ACCOUNT}/date=2026-11-2x").mkdir()
    assert events() == 7
    api.world.add(ACCOUNT, "v1", [event_at(ago(minutes=50))])
    poll()
    assert events() == 8


def test_a_time_from_the_calendars_begin_costs_what_is_there(both: list[EventStore]) -> None:
    """Not a listing for each day since."""
    begins = datetime(1, 1, 1, tzinfo=UTC)
    started = process_time()

    (found,) = ask(both[1], questions.events(replace(ALL, since=begins)))

    assert len(found) == 69
    assert process_time() - started < 20


def test_one_event_is_found_by_its_key(both: list[EventStore]) -> None:
    """Whole, in both stores."""
    for store in both:
        ((newest, *_),) = ask(store, questions.events(ALL))

        asked = questions.one_event(questions.key_of(newest))
        assert asked
        ((event,),) = ask(store, asked)

        assert newest["event"] in event["raw_event"]
        assert event["timestamp"] == newest["timestamp"]


def test_older_events_follow_the_last_one(both: list[EventStore], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, with the newest first or the oldest."""
    monkeypatch.setattr(questions, "LONGEST_LIST", 4)
    filters = replace(ALL, since=NOW - timedelta(days=90))
    for store in both:
        found, older_than = [], ""
        while page := ask(store, questions.events(filters, older_than))[0]:
            found += [questions.key_of(event) for event in page]
            older_than = found[-1]

        assert len(found) == len(set(found)) == 69
        forward, last = [], ""
        while page := ask(store, questions.events(filters, last, is_oldest_first=True))[0]:
            forward += [questions.key_of(event) for event in page]
            last = forward[-1]
        times = [key.split(" ")[2] for key in found]

        assert sorted(forward) == sorted(found)
        assert [key.split(" ")[2] for key in forward] == times[::-1]
        assert questions.events(ALL, "no key") == questions.events(ALL)


def test_what_is_no_key_is_no_question() -> None:
    """An address can say anything."""
    assert [questions.one_event(key) for key in ("a", "a v1 soon e", "a v1 0001-01-01T00:00+09:00 e")] == [None] * 3
