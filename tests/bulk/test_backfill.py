"""History from the API is loaded into both stores, each event once, resumable, within the budget, next to the loop."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.servers.commands import Finished
from pipelines.loop.report import Report
from simulator.api import Api, Fault
from sources.cloudflare_audit_logs.budget import LOOP_KEPT_BACK, LOOP_SHARE, Budget, Budgets
from sources.cloudflare_audit_logs.errors import UnavailableError
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, event_at, ids, spread
from tests.stores import Stores

Poll = Callable[..., Report]
Command = Callable[..., Finished]

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=9)
WINDOW = ("--since", DAY.isoformat(), "--before", (DAY + timedelta(days=4)).isoformat())
BOTH = {"CLOUDFLARE_ACCOUNT_ID": f"{ACCOUNT},{OTHER_ACCOUNT}", "CLOUDFLARE_API_VERSION": "v1,v2"}


@pytest.mark.integration
def test_history_is_in_both_stores_once_and_the_cursor_stays(
    api: Api, poll: Poll, command: Command, stores: Stores
) -> None:
    """Two accounts in both versions are filled in addition to what the loop has, exactly between the given edges."""
    inside = spread(90, DAY, DAY + timedelta(days=4))
    for account in (ACCOUNT, OTHER_ACCOUNT):
        api.world.add(account, "v1", inside)
        api.world.add(account, "v2", spread(40, DAY, DAY + timedelta(days=4), version="v2"))
    recent = spread(5, ago(minutes=20), ago(minutes=1))
    outside = [event_at(DAY - timedelta(microseconds=1)), event_at(DAY + timedelta(days=4))]
    api.world.add(ACCOUNT, "v1", [*recent, *outside])
    poll(INITIAL_CHECKPOINT=ago(hours=1).isoformat(), **BOTH)
    states = stores.query("SELECT state FROM {schema}._dlt_pipeline_state ORDER BY version DESC LIMIT 1")

    done = command("pipelines/backfill.py", *WINDOW, "--json", **BOTH)

    assert done.code == 0, done.err
    assert done.report["new"] == {"warehouse": 260, "lake": 260}
    assert not done.report["gaps"]
    counted = stores.query(
        "SELECT count(*) AS n, count(DISTINCT (event_id, account_id)) AS ids FROM {schema}.audit_logs"
    )
    assert counted == [{"n": 265, "ids": 265}]
    assert len(stores.lake_ids()) == 265
    assert not ids(outside) & set(stores.warehouse_ids())
    assert stores.query("SELECT state FROM {schema}._dlt_pipeline_state ORDER BY version DESC LIMIT 1") == states


@pytest.mark.integration
def test_what_was_read_whole_and_is_still_there_is_not_read_again(api: Api, command: Command, stores: Stores) -> None:
    """The second run asks the API for nothing; after a loss, for the day that lost something."""
    events = spread(100, DAY, DAY + timedelta(days=4))
    api.world.add(ACCOUNT, "v1", events)
    first = command("pipelines/backfill.py", *WINDOW, "--json")
    asked = len(api.requests)

    second = command("pipelines/backfill.py", *WINDOW, "--json")
    asked_again = len(api.requests) - asked
    stores.query('DELETE FROM {schema}.audit_logs WHERE "timestamp" < \'' + str(DAY + timedelta(hours=2)) + "'")
    third = command("pipelines/backfill.py", *WINDOW, "--json")

    assert (first.code, first.report["read"], first.report["days_skipped"]) == (0, 100, 0), first.err
    assert (second.code, second.report["days_skipped"], asked_again) == (0, 4, 0)
    assert (third.report["days_skipped"], third.report["new"]["warehouse"]) == (3, 3)
    assert stores.ids() == (sorted(ids(events)),) * 2


@pytest.mark.integration
def test_a_broken_account_does_not_hold_up_the_others(api: Api, command: Command, stores: Stores) -> None:
    """It is named, and the exit code is 1."""
    for account in (ACCOUNT, OTHER_ACCOUNT):
        api.world.add(account, "v1", spread(20, DAY, DAY + timedelta(days=4)))
    api.faults.append(Fault(account_id=ACCOUNT, status=403, body="{}", times=None))

    done = command("pipelines/backfill.py", *WINDOW, "--json", CLOUDFLARE_ACCOUNT_ID=BOTH["CLOUDFLARE_ACCOUNT_ID"])

    assert done.code == 1
    assert list(done.report["failed_accounts"]) == [f"audit_logs_v1_{ACCOUNT}"]
    assert stores.query("SELECT DISTINCT account_id FROM {schema}.audit_logs") == [{"account_id": OTHER_ACCOUNT}]


@pytest.mark.integration
def test_after_a_429_it_goes_on_when_it_may(api: Api, command: Command, stores: Stores) -> None:
    """Nothing failed, nothing is missing."""
    events = spread(40, DAY, DAY + timedelta(days=4))
    api.world.add(ACCOUNT, "v1", events)
    api.faults.append(Fault(status=429, body="{}", headers={"Retry-After": "2"}))

    done = command("pipelines/backfill.py", *WINDOW, "--json")

    assert done.code == 0, done.err
    assert "backfill.rate_limited" in done.err
    assert stores.ids() == (sorted(ids(events)),) * 2


@pytest.mark.integration
def test_what_the_retention_deletes_goes_into_the_lake_alone(api: Api, command: Command, stores: Stores) -> None:
    """Events older than the retention are loaded into the lake alone; the command says so, and it is no gap."""
    api.world.add(ACCOUNT, "v1", spread(40, DAY, DAY + timedelta(days=4)))

    done = command("pipelines/backfill.py", *WINDOW, "--json", TIMESCALE_RETENTION_DAYS="7")

    assert done.code == 0, done.err
    assert "events older than that go into the lake alone" in done.err
    assert done.report["new"]["lake"] == 40
    assert 0 < len(stores.warehouse_ids()) < 40


@pytest.mark.integration
@pytest.mark.parametrize(
    ("since", "said"),
    [(ago(days=600), "is beyond what the API keeps, 18 months"), (ago(days=-2), "nothing is there yet")],
)
def test_a_window_that_the_api_cannot_have_is_told(command: Command, api: Api, since: datetime, said: str) -> None:
    """Before anything is asked."""
    before = since + timedelta(days=1)

    done = command("pipelines/backfill.py", "--since", since.isoformat(), "--before", before.isoformat())

    assert (done.code, said in done.err, api.requests) == (2, True, []), done.err


class Clock:
    """A clock that moves when someone sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Moves it."""
        self.slept.append(seconds)
        self.now += seconds


def test_the_budget_is_half_of_the_limit() -> None:
    """However fast the API answers, no 5 minutes have more than 600 requests of ours."""
    clock = Clock()
    budget, sent = Budget(clock=clock), []
    for _ in range(2_000):
        budget.wait(clock.sleep)
        sent.append(clock.now)
        clock.now += 1 / 64

    assert max(sum(begin <= time < begin + 300 for time in sent) for begin in sent) == 600


@pytest.mark.parametrize(("left", "seconds"), [(301, 0), (300, 42), (0, 42)])
def test_a_quarter_of_the_quota_that_the_api_states_is_kept_back(left: int, seconds: float) -> None:
    """For the loop and for people: we wait until the API counts anew."""
    clock = Clock()
    budget = Budget(clock=clock)

    budget.note({"Ratelimit": f'"default";r={left};t=42', "Ratelimit-Policy": '"default";q=1200;w=300'})
    budget.wait(clock.sleep)

    assert sum(clock.slept) == seconds


@pytest.mark.parametrize("header", ["", "nonsense", '"default";r=x', '"default";t=9'])
def test_headers_that_say_nothing_change_nothing(header: str) -> None:
    """They are no part of the contract of the API."""
    clock = Clock()
    budget = Budget(clock=clock)

    budget.note({"Ratelimit": header})
    budget.wait(clock.sleep)

    assert not clock.slept


def test_whoever_has_no_patience_is_told_at_once() -> None:
    """The loop's own comparison comes again later."""
    budget = Budget(clock=Clock(), patience_seconds=10)
    budget.note({"Ratelimit": '"default";r=0;t=42'})

    with pytest.raises(UnavailableError, match="spent for the next 42 s"):
        budget.wait(time.sleep)


def test_the_budget_is_shared_by_threads() -> None:
    """Each request is counted once, whoever sends it."""
    clock = Clock()
    budget = Budget(clock=clock, share=100 / 1200)

    def send_some() -> None:
        for _ in range(25):
            budget.wait(clock.sleep)

    threads = [threading.Thread(target=send_some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not clock.slept
    budget.wait(clock.sleep)
    assert sum(clock.slept) == 300


def test_comparisons_leave_the_polls_their_part_of_one_count() -> None:
    """The polls' requests count against both budgets, so the comparisons stop while the polls go on."""
    polls = Budgets(share=LOOP_SHARE, kept_back=LOOP_KEPT_BACK)
    comparisons = Budgets(share=0.9, patience_seconds=10, beside=polls)
    for _ in range(972):  # nine tenths of nine tenths of 1,200
        polls.of("token").wait(time.sleep)

    with pytest.raises(UnavailableError, match="spent"):
        comparisons.of("token").wait(time.sleep)
    comparisons.of("another").wait(time.sleep)
    for _ in range(1_080 - 972):
        polls.of("token").wait(time.sleep)

    def stop(seconds: float) -> None:
        raise TimeoutError(seconds)

    with pytest.raises(TimeoutError):
        polls.of("token").wait(stop)


def test_polls_keep_back_what_may_be_under_way() -> None:
    """When the API says that nearly nothing is left, the requests that are on their way need it."""
    clock = Clock()
    budget = Budget(clock=clock, share=LOOP_SHARE, kept_back=LOOP_KEPT_BACK)
    for left, waits in ((13, 0), (12, 1)):
        budget.note({"Ratelimit": f'"default";r={left};t=42', "Ratelimit-Policy": '"default";q=1200;w=300'})
        budget.wait(clock.sleep)
        assert len(clock.slept) == waits
