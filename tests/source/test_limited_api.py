"""An API that answers less than all of a window: everything arrives in both stores, or what cannot is reported."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from benchmarks.servers.commands import Finished
from pipelines.loop.report import Report
from simulator.api import Api
from simulator.world import SimulatedEvent
from tests.factory import ACCOUNT, ago, encoded, event_at, ids, raw_event, spread, v1_tree, v2_tree
from tests.rows import rows
from tests.stores import Stores

pytestmark = pytest.mark.integration

Poll = Callable[..., Report]
Command = Callable[..., Finished]
WINDOW = ("--since", f"{ago(days=3):%Y-%m-%d}", "--before", ago(minutes=1).isoformat())
RECONCILE = ("pipelines/reconcile.py", *WINDOW, "--json")
BACKFILL = ("pipelines/backfill.py", *WINDOW, "--json")
MOST = 10_000

FORMS = [
    pytest.param(
        form, version, marks=[] if (form, version) in {("empty", "v1"), ("no_cursor", "v2")} else pytest.mark.long
    )
    for form in ("error", "empty", "no_cursor")
    for version in ("v1", "v2")
]


def burst(count: int, *, hours_ago: float = 30, minutes: float = 10, version: str = "v1") -> list[SimulatedEvent]:
    """Events close together, and five later ones."""
    since = ago(hours=hours_ago)
    last = since + timedelta(minutes=minutes)
    return spread(count, since, last, version=version) + spread(
        5, last + timedelta(hours=1), last + timedelta(hours=2), version=version
    )


@pytest.mark.parametrize(("form", "version"), FORMS)
def test_what_lies_behind_a_limit_of_results_arrives(
    api: Api, poll: Poll, command: Command, stores: Stores, form: Any, version: str
) -> None:
    """12,000 events in ten minutes and five later ones, of 10,000 that one query shows; the comparison sees them."""
    events = burst(12_000, version=version)
    api.world.add(ACCOUNT, version, events)
    api.behaviour.shows_at_most, api.behaviour.end_of_results = MOST, form

    report = poll(CLOUDFLARE_API_VERSION=version)
    compared = command(*RECONCILE, CLOUDFLARE_API_VERSION=version)

    assert report.failures.accounts.failed == {}
    assert stores.ids() == (sorted(ids(events)),) * 2
    assert (compared.code, compared.report["gaps"]) == (0, []), compared.err


@pytest.mark.parametrize("direction", rows("desc", long=["asc"]))
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_an_end_that_the_api_itself_contradicts_is_not_believed(
    api: Api, poll: Poll, stores: Stores, version: str, direction: str
) -> None:
    """250 results in pages of 100, then an empty page, though a total or a page cursor said that there is more."""
    events = spread(900, ago(minutes=14), ago(minutes=1), version=version)
    api.world.add(ACCOUNT, version, events)
    api.behaviour.shows_at_most, api.behaviour.end_of_results = 250, "empty"
    api.behaviour.sends_result_info = True

    poll(CLOUDFLARE_API_VERSION=version, CLOUDFLARE_PER_PAGE="100", CLOUDFLARE_DIRECTION=direction)

    assert stores.ids() == (sorted(ids(events)),) * 2


@pytest.mark.parametrize(("form", "status"), [("empty", 400), pytest.param("error", 500, marks=pytest.mark.long)])
def test_a_backfill_reads_behind_a_limit_of_results(
    api: Api, command: Command, stores: Stores, form: Any, status: int
) -> None:
    """A day of 2,400 events, of 500 that one query shows."""
    events = burst(2_400)
    api.world.add(ACCOUNT, "v1", events)
    api.behaviour.shows_at_most, api.behaviour.end_of_results, api.behaviour.refuses_with = 500, form, status

    done = command(*BACKFILL, CLOUDFLARE_PER_PAGE="100")

    assert done.code == 0, done.err
    assert stores.ids() == (sorted(ids(events)),) * 2


@pytest.mark.parametrize("form", ["error", pytest.param("no_cursor", marks=pytest.mark.long)])
def test_a_sweep_of_a_day_reads_behind_a_limit_of_results(api: Api, poll: Poll, stores: Stores, form: Any) -> None:
    """12,000 events spread over three hours: the loop's own windows are short, the sweep's is not."""
    events = burst(12_000, hours_ago=6, minutes=180)
    api.world.add(ACCOUNT, "v1", events)
    api.behaviour.shows_at_most, api.behaviour.end_of_results = MOST, form
    poll()
    late = event_at(ago(hours=2))
    api.world.add(ACCOUNT, "v1", [late])

    report = poll(SWEEP_INTERVAL_SECONDS="0.1")

    assert (report.failures.accounts.failed, report.late["lake"]) == ({}, 1)
    assert stores.ids() == (sorted(ids([*events, late])),) * 2


@pytest.mark.parametrize("status", rows(400, long=[500]))
@pytest.mark.parametrize(
    "limits",
    [{"longest_range_seconds": 6 * 3600}, {"most_in_range": 300}, {"largest_page": 99}],
    ids=lambda limits: next(iter(limits)),
)
def test_what_is_refused_is_asked_for_in_less(
    api: Api, poll: Poll, command: Command, stores: Stores, status: int, limits: dict[str, int]
) -> None:
    """A long range, a full one, a large page: all of them when a store is filled, compared and filled again."""
    events = burst(1_500)
    api.world.add(ACCOUNT, "v1", events)
    for name, value in {**limits, "refuses_with": status}.items():
        setattr(api.behaviour, name, value)

    report = poll()
    compared = command(*RECONCILE)

    assert report.failures.accounts.failed == {}
    assert stores.ids() == (sorted(ids(events)),) * 2
    assert (compared.code, compared.report["gaps"]) == (0, []), compared.err
    assert len(api.requests) < 600


@pytest.mark.long
def test_pages_that_take_too_long_are_made_smaller(api: Api, poll: Poll, stores: Stores) -> None:
    """The timeout is what refuses them."""
    events = burst(600)
    api.world.add(ACCOUNT, "v1", events)
    api.behaviour.slow_page, api.behaviour.slow_seconds = 300, 6

    report = poll(CLOUDFLARE_REQUEST_TIMEOUT_SECONDS="4", CLOUDFLARE_MAX_RETRIES="0")

    assert report.failures.accounts.failed == {}
    assert stores.ids() == (sorted(ids(events)),) * 2


@pytest.mark.long
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_events_too_heavy_for_one_page_arrive(api: Api, poll: Poll, stores: Stores, version: str) -> None:
    """280 of 1 MB are more than the 256 MB of an answer that we take."""
    since = ago(hours=5)
    events = [_heavy(number, since + timedelta(seconds=number), version) for number in range(280)]
    api.world.add(ACCOUNT, version, events)

    report = poll(CLOUDFLARE_API_VERSION=version)

    assert report.failures.accounts.failed == {}
    assert stores.ids() == (sorted(ids(events)),) * 2


def _heavy(number: int, time: datetime, version: str) -> SimulatedEvent:
    written, text = f"{time:%Y-%m-%dT%H:%M:%S.%fZ}", "x" * 1_000_000
    if version == "v1":
        return raw_event(encoded(v1_tree(id=f"heavy-{number}", when=written, newValue=text)), time=time)
    tree = v2_tree(id=f"heavy-{number}", resource={"id": text})
    tree["action"]["time"] = written
    return raw_event(encoded(tree), time=time)


@pytest.mark.parametrize("form", ["empty", pytest.param("error", marks=pytest.mark.long)])
def test_an_instant_that_holds_more_than_is_shown_is_reported(
    api: Api, command: Command, stores: Stores, form: Any
) -> None:
    """It is a gap for the loop and the comparison; what is shown of it, and what comes later, is loaded."""
    instant = ago(hours=30)
    crowd = [event_at(instant) for _ in range(700)]
    others = spread(40, instant - timedelta(hours=2), instant) + spread(5, instant + timedelta(hours=1), ago(hours=20))
    api.world.add(ACCOUNT, "v1", [*crowd, *others])
    api.behaviour.shows_at_most, api.behaviour.end_of_results = 500, form
    pages = {"CLOUDFLARE_PER_PAGE": "100"}

    polled = command("pipelines/run.py", "--once", "--json", **pages)
    compared = command(*RECONCILE, **pages)
    filled = command(*BACKFILL, **pages)

    assert polled.code == 1
    assert f"more events of one instant than it shows: {instant.isoformat()}" in polled.err
    assert [len(held) for held in stores.ids()] == [545, 545]
    assert ids(others) <= set(stores.lake_ids())
    assert (compared.code, filled.code) == (3, 3), compared.err + filled.err
    assert [gap["hidden"] for gap in compared.report["gaps"]] == [1]


@pytest.mark.parametrize("apart", [0, 150])
def test_two_events_of_one_key_that_differ_are_reported_and_counted_once(
    api: Api, poll: Poll, stores: Stores, apart: int
) -> None:
    """The first stays in both stores. Beside each other, and a page apart."""
    time = ago(minutes=5)
    written = f"{time:%Y-%m-%dT%H:%M:%S.%fZ}"
    first, second = (raw_event(encoded(v1_tree(id="twice", when=written, newValue=value)), time=time) for value in "ab")
    api.world.add(ACCOUNT, "v1", [first, *(event_at(time) for _ in range(apart)), second])

    reports = poll(CLOUDFLARE_PER_PAGE="100"), poll(CLOUDFLARE_PER_PAGE="100")

    assert [sum(report.conflicts.counts.values()) for report in reports] == [1, 1]
    assert [row["raw_event"] for row in stores.lake_events() if row["event_id"] == "twice"] == [first.raw.decode()]
    assert stores.warehouse_ids() == stores.lake_ids()
    assert len(stores.lake_ids()) == apart + 1


def test_null_is_an_account_without_events(api: Api, command: Command) -> None:
    """An answer of `null` is an account without events, not one that fails at each poll."""
    api.behaviour.null_result = True

    assert command("pipelines/run.py", "--once", CLOUDFLARE_API_VERSION="v1,v2").code == 0


def test_a_challenge_page_is_not_the_apis_word_on_the_token(api: Api, command: Command) -> None:
    """It passes, and nobody has to look at the token."""
    api.behaviour.challenge = True

    done = command("pipelines/run.py", "--once", CLOUDFLARE_MAX_RETRIES="0")

    assert done.code == 75
    assert "is not the API" in done.err
    assert "permission" not in done.err
