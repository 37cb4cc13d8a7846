"""The two stores answer alike, and cannot be written through the dashboard."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import process_time
from typing import Any

import pytest

from benchmarks.servers.seaweed import Bucket
from dashboard import questions
from dashboard.questions import Filters, Question
from dashboard.stores import EventStore, LakeStore, WarehouseStore
from pipelines.loop.report import Report
from simulator.api import Api
from sources.cloudflare_audit_logs.errors import AuditLogsError
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, event_at, spread
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


def test_both_stores_answer_every_question_alike(both: list[EventStore]) -> None:
    """Whatever the filters are; and not with nothing."""
    chosen = [
        ALL,
        replace(ALL, since=NOW - timedelta(days=90)),
        replace(ALL, account_id=OTHER_ACCOUNT),
        replace(ALL, api_version="v2"),
        replace(ALL, search="EVE@"),
        replace(ALL, only_failures=True),
    ]
    for filters in chosen:
        for question in (questions.overview, questions.failures, questions.first_seen, questions.events):
            (warehouse,), (lake,) = (store.ask(question(filters)) for store in both)

            assert warehouse == lake, question.__name__
            assert warehouse or question in {questions.failures, questions.first_seen}, question.__name__
    assert both[0].accounts() == both[1].accounts() == sorted([ACCOUNT, OTHER_ACCOUNT])


def test_events_are_counted_by_version(both: list[EventStore]) -> None:
    """Most deeds of an account that is read in both versions are in each, so the page has a number for each."""
    for store in both:
        (found,) = store.ask(questions.overview(replace(ALL, account_id=OTHER_ACCOUNT)))

        assert {row["value"]: row["events"] for row in found if row["subject"] == "version"} == {"v1": 1, "v2": 1}


def test_who_is_first_seen_is_told_with_what_came_with_it(api: Api, poll: Callable[..., Report]) -> None:
    """The address of his first event, not the least of all of them."""
    for hours, address in ((3, "203.0.113.7"), (2, "192.0.2.1"), (1, "198.51.100.3")):
        actor = {"email": "mallory@example.com", "ip": address}
        api.world.add(ACCOUNT, "v1", [event_at(ago(hours=hours), actor=actor)])
    api.world.add(ACCOUNT, "v1", [event_at(ago(hours=4), actor={"email": "zoe@example.com", "ip": "192.0.2.1"})])
    poll()

    for store in (WarehouseStore(), LakeStore()):
        (found,) = store.ask(questions.first_seen(ALL))

        assert {
            row["value"]: row["address"] if row["subject"] == "who" else row["actor"]
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
        for filters in (ALL, replace(ALL, only_failures=True), replace(ALL, search="login example")):
            (found,) = store.ask(questions.first_seen(filters))

            assert [row["value"] for row in found if row["subject"] == "who"] == ["new@example.com"]
            assert {row["first_seen"].date() for row in found if row["subject"] == "who"} == {ago(days=2).date()}
            assert [row["first_seen"].date() for row in found if row["subject"] == "all"] == [ago(days=10).date()]


@pytest.mark.parametrize("search", rows("a\0b", long=["\0"]))
def test_a_text_that_no_store_can_hold_is_not_found(both: list[EventStore], search: str) -> None:
    """A search that no store can hold finds nothing, and no store is said to be down."""
    assert [store.ask(questions.events(replace(ALL, search=search))) for store in both] == [[[]], [[]]]


@pytest.mark.parametrize(
    "email", rows("İSTANBUL@example.com", None, long=["ÜLKÜ@ÇANKAYA.example", "ΣΊΣΥΦΟΣ@example.gr"])
)
def test_whoever_is_listed_is_found_by_his_name(api: Api, poll: Callable[..., Report], email: str | None) -> None:
    """An actor is found in upper or lower case, or by the type if nothing else is known."""
    actor = {"email": email, "type": "user"} if email else {"type": "cloudflare_admin"}
    api.world.add(ACCOUNT, "v1", [event_at(ago(hours=4), actor=actor)])
    poll()

    for store in (WarehouseStore(), LakeStore()):
        ((listed,),) = store.ask(questions.events(ALL))

        assert store.ask(questions.events(replace(ALL, search=listed["actor"]))) == [[listed]]


def test_what_a_user_types_is_never_a_part_of_the_question(both: list[EventStore], stores: Stores) -> None:
    """In any field it finds nothing, and does nothing."""
    fields: list[dict[str, Any]] = [{"search": HOSTILE}, {"account_id": HOSTILE}, {"api_version": HOSTILE}]
    for field in fields:
        for question in (questions.overview, questions.failures, questions.first_seen, questions.events):
            asked = question(replace(ALL, **field))

            assert HOSTILE not in asked.sql
            for store in both:
                (rows,) = store.ask(asked)
                assert [row for row in rows if row.get("subject") != "all"] == []
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
        return len(LakeStore().ask(questions.events(ALL))[0])

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

    (found,) = both[1].ask(questions.events(replace(ALL, since=begins)))

    assert len(found) == 69
    assert process_time() - started < 20


def test_a_question_to_the_lake_has_an_end(
    api: Api, poll: Callable[..., Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it reads, and while DuckDB reckons."""
    api.world.add(ACCOUNT, "v1", spread(6, ago(days=2), ago(hours=1)))
    poll()
    store = LakeStore()
    store.accounts()
    monkeypatch.setattr("dashboard.stores._LONGEST_ANSWER_MS", 0)

    with pytest.raises(AuditLogsError, match="took too long"):
        store.ask(questions.overview(ALL))
    monkeypatch.setattr("dashboard.stores._LONGEST_ANSWER_MS", 500)
    endless = "SELECT count(*) AS n FROM range(10000000) AS a, range(10000000) AS b, {events} WHERE a <> b"
    with pytest.raises(AuditLogsError, match="took too long"):
        store.ask(Question(endless, (), ALL.since, ALL.before))


def test_one_event_is_found_by_its_key(both: list[EventStore]) -> None:
    """Whole, in both stores."""
    for store in both:
        ((newest, *_),) = store.ask(questions.events(ALL))

        asked = questions.one_event(questions.key_of(newest))
        assert asked
        ((event,),) = store.ask(asked)

        assert newest["event_id"] in event["raw_event"]
        assert event["timestamp"] == newest["timestamp"]


def test_older_events_follow_the_last_one(both: list[EventStore], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once."""
    monkeypatch.setattr(questions, "LONGEST_LIST", 4)
    for store in both:
        found, older_than = [], ""
        while page := store.ask(questions.events(replace(ALL, since=NOW - timedelta(days=90)), older_than))[0]:
            found += [questions.key_of(event) for event in page]
            older_than = found[-1]

        assert len(found) == len(set(found)) == 69
        assert questions.events(ALL, "no key") == questions.events(ALL)


def test_what_is_no_key_is_no_question() -> None:
    """An address can say anything."""
    assert [questions.one_event(key) for key in ("a", "a v1 soon e", "a v1 0001-01-01T00:00+09:00 e")] == [None] * 3


@pytest.mark.usefixtures("both")
def test_the_dashboards_session_cannot_write(stores: Stores) -> None:
    """Whatever the rights of PG_USER are."""
    store = WarehouseStore()
    for statement in ("DELETE FROM {schema}.audit_logs", "CREATE TABLE {schema}.mine (a int)"):
        with pytest.raises(AuditLogsError, match="read-only transaction"), store.session() as cursor:
            cursor.execute(statement.replace("{schema}", stores.schema))
    assert len(stores.warehouse_ids()) == 69
