"""The arithmetic of docs/scale/model.md: what many accounts take, and which limit they meet. From made-up costs."""

from dataclasses import replace

import pytest

from benchmarks.scale.__main__ import DOCUMENT, tables
from benchmarks.scale.bill import HEADROOM, bill_of, machine_count
from benchmarks.scale.limits import PROCESS_LIMITS, arrange, first_limit, limits_of
from benchmarks.scale.model import Plan, Size, UnitCosts, need_of, requests_for

NOTHING = UnitCosts(**dict.fromkeys(UnitCosts.__dataclass_fields__, 0.0))
COSTS = UnitCosts(
    request=0.002,
    reread_event=15e-6,
    swept_event=20e-6,
    new_event=30e-6,
    new_event_postgres=30e-6,
    load=0.4,
    load_postgres=0.02,
    rewrite=0.03,
    held_event=10e-6,
    comparison=0.1,
    memory=250e6,
    account_memory=100e3,
    known_event_memory=500,
    warehouse_event=2_000,
    lake_event=420,
    object_bytes=11_000,
    load_puts=2,
    load_gets=8,
    load_lists=3,
)
QUIET, BUSY = 1_000, 1_000_000


def _limits(size: Size, plan: Plan = Plan()) -> dict[str, float]:  # noqa: B008  # frozen
    return limits_of(size, plan, need_of(size, plan, COSTS), COSTS.comparison)


@pytest.mark.parametrize(("events", "requests"), [(0, 1), (99, 1), (100, 2), (999, 2), (1_000, 2), (1_100, 3)])
def test_a_window_is_asked_for_until_a_page_is_short(events: int, requests: int) -> None:
    """A full page has another behind it, and so may one of 100 or more, as the client reads them."""
    assert requests_for(events) == requests


def test_without_events_a_day_is_polls_sweeps_and_comparisons() -> None:
    """One request for each in each version, and nothing is written."""
    need = need_of(Size(2, 0), Plan(), replace(NOTHING, load_puts=2))

    assert need.requests == 2 * 2 * (2_880 + 24 + 12)
    assert need_of(Size(2, 0), Plan(versions=1), NOTHING).requests == need.requests / 2
    assert (need.events, need.objects, need.puts, need.gets, need.lake_bytes) == (0, 0, 0, 0, 0)


def test_an_hour_has_one_object_however_often_it_is_written() -> None:
    """A busy account rewrites it at each poll; dlt's own objects come on top, once a load."""
    need = need_of(Size(1, BUSY), Plan(), replace(NOTHING, load_puts=2))

    assert need.objects == pytest.approx(24)
    assert need.rewrites == pytest.approx(2_880)
    assert need.puts == pytest.approx(3 * 2_880)


def test_accounts_share_their_loads_and_never_their_objects() -> None:
    """A hundred quiet accounts: 35 of 120 polls of an hour bring an event of one, nearly all bring one of some."""
    one, hundred = (need_of(Size(n, QUIET), Plan(), replace(NOTHING, load_puts=1)) for n in (1, 100))

    assert one.rewrites == pytest.approx(24 * 35.2, rel=0.01)
    assert hundred.rewrites == pytest.approx(100 * one.rewrites)
    assert hundred.puts - hundred.rewrites == pytest.approx(2_880, rel=0.001)


def test_polling_less_often_writes_less_often() -> None:
    """The one cure for the price of PUTs."""
    often, seldom = (need_of(Size(1, QUIET), Plan(poll_seconds=s), NOTHING) for s in (30, 600))

    assert seldom.objects == often.objects
    assert seldom.puts < often.puts / 5


@pytest.mark.parametrize(
    ("size", "tokens", "limit", "is_met"),
    [
        (Size(1, QUIET), 1, "memory", False),
        (Size(1, BUSY), 1, "a token's requests", False),
        (Size(40, QUIET), 1, "a token's requests", False),
        (Size(10_000, QUIET), 1, "a token's requests", True),
        (Size(100, BUSY), 100, "PostgreSQL's size", True),
        (Size(10_000, QUIET), 10_000, "objects, one after the other", True),
    ],
)
def test_the_first_limit_is_the_fullest(size: Size, tokens: int, limit: str, is_met: bool) -> None:  # noqa: FBT001  # a case
    """The first limit is the fullest one, reached or not; accounts with tokens of their own reach another one."""
    name, share = first_limit(_limits(size, Plan(tokens=tokens)))

    assert (name, share >= 1) == (limit, is_met)


def test_a_token_bears_50_accounts_at_the_defaults() -> None:
    """Nine tenths of 1,200 requests in 5 minutes, 20 polls: fifty fit, with sweeps and comparisons; 55 do not."""
    assert 0.9 < _limits(Size(50, QUIET))["a token's requests"] < 1
    assert 0.9 < _limits(Size(100, QUIET), Plan(versions=1))["a token's requests"] < 1
    assert _limits(Size(55, QUIET))["a token's requests"] > 1
    assert _limits(Size(55, QUIET), Plan(tokens=55))["a token's requests"] < 0.02


def test_the_loop_compares_3600_accounts_at_the_defaults() -> None:
    """Twelve stretches of 0.25 s an account, version and day, in a quarter of the time; less if polls are rare."""
    assert _limits(Size(3_600, QUIET))["comparisons"] == pytest.approx(1)
    assert _limits(Size(3_600, QUIET), Plan(poll_seconds=300))["comparisons"] == pytest.approx(1.25)


@pytest.mark.parametrize("poll_seconds", [30.0, 300.0])
@pytest.mark.parametrize("events", [QUIET, BUSY])
@pytest.mark.parametrize("accounts", [1, 100, 10_000])
def test_what_is_arranged_fits(accounts: int, events: int, poll_seconds: float) -> None:
    """Into the tokens and the processes; neither are more than accounts, and one process fewer would not do."""
    size = Size(accounts, events)

    plan = arrange(size, poll_seconds, COSTS)

    limits = _limits(size, plan)
    assert 1 <= plan.tokens <= accounts
    assert 1 <= plan.processes <= accounts
    assert limits["a token's requests"] <= HEADROOM
    # Loads of more processes are more loads: they may take a little of the headroom.
    assert all(limits[name] <= HEADROOM * 1.3 for name in PROCESS_LIMITS)
    if plan.processes > 1:
        fewer = _limits(size, replace(plan, processes=plan.processes - 1))
        assert max(fewer[name] for name in PROCESS_LIMITS) > HEADROOM


def test_a_bill_is_the_sum_of_what_was_needed() -> None:
    """A million events a day for a year in the lake, a quarter in the warehouse."""
    need = need_of(Size(1, BUSY), Plan(), COSTS)

    bill = bill_of(need)

    assert bill.puts == pytest.approx(3 * 2_880 * 30.4 * 0.005 / 1_000)
    assert bill.lake == pytest.approx(need.lake_bytes * 364.8 / 1e9 * 0.023)
    assert bill.disk == pytest.approx(2e9 * 90 / 1e9 * 0.08)
    assert bill.machines == pytest.approx(machine_count(need) * 0.096 * 24 * 30.4)
    assert bill.total == pytest.approx(bill.machines + bill.disk + bill.puts + bill.other_requests + bill.lake)


def test_the_page_has_a_place_for_every_table_and_every_limit() -> None:
    """The page has each table that `--write` fills, and what to do about each limit."""
    page = DOCUMENT.read_text()

    shown = tables(COSTS)

    assert all(f"<!-- {title} -->\n" in page for title in shown)
    assert all(f"\n| {limit} |" in page for limit in _limits(Size(1, 0)))
    assert [len(rows) for rows in shown.values()] == [len(UnitCosts.__dataclass_fields__), 6, 6, 12]
