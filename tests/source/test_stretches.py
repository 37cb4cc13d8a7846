"""A window is read whole, however little of it one query shows; where that cannot be, it is reported."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sources.cloudflare_audit_logs.errors import (
    AccountError,
    BadAnswerError,
    HiddenEventsError,
    RefusedError,
    UnavailableError,
)
from sources.cloudflare_audit_logs.events import Page
from sources.cloudflare_audit_logs.reach import DEPTH, HOLD, Reach
from sources.cloudflare_audit_logs.streams import Window
from sources.cloudflare_audit_logs.stretches import read_whole

from .limited_server import BEGIN, MONTH, Event, Server, burst, page_of, read

TICK = timedelta(microseconds=1)


@pytest.mark.parametrize("count", [0, 1, 99])
def test_a_short_page_is_one_request(count: int) -> None:
    """An idle poll costs no more than it did."""
    server = Server(burst(count, BEGIN, timedelta(days=1)) if count else [])

    assert len(read(server)) == count
    assert server.requests == 1


def test_what_ends_on_a_page_that_is_not_full_is_not_asked_again() -> None:
    """250 events in pages of 100 are three requests."""
    server = Server(burst(250, BEGIN, timedelta(days=1)))

    assert len(read(server)) == 250
    assert server.requests == 3


def test_no_query_is_deeper_than_a_step() -> None:
    """The next one begins at the newest time reached, so each event is yielded once."""
    events = burst(2 * DEPTH + 500, BEGIN, timedelta(days=20))
    server = Server(events)

    found = read(server, per_page=1_000)

    assert found == Counter(events)
    assert len(server.queries) == 3
    assert server.requests <= 22


@pytest.mark.wide
@pytest.mark.parametrize("says_so", [True, False])
@pytest.mark.parametrize("most", [100, 1_000, 10_000, 950])
def test_a_limit_of_results_hides_nothing(most: int, *, says_so: bool) -> None:
    """Whatever its end looks like, and though it is no multiple of a page."""
    events = burst(12_000, BEGIN + timedelta(days=3), timedelta(minutes=10)) + burst(
        5, BEGIN + timedelta(days=4), timedelta(hours=1)
    )
    per_page = 50 if most == 950 else 100

    assert read(Server(events, most=most, says_so=says_so), per_page=per_page) == Counter(events)


def test_a_limit_that_was_met_is_not_met_at_every_query() -> None:
    """Once it is known where the queries end, they end there by themselves."""
    server = Server(burst(12_000, BEGIN, timedelta(days=9)), most=1_000, says_so=True)

    read(server)

    assert server.requests < 12_000 / 100 + 20


@pytest.mark.parametrize("says_so", [True, False])
@pytest.mark.parametrize("later", [0, 5])
def test_an_instant_that_holds_more_than_shown_is_reported_and_the_rest_is_read(later: int, *, says_so: bool) -> None:
    """The shown part of it, the events before it, and those behind it."""
    instant = BEGIN + timedelta(days=2)
    shown = burst(30, BEGIN, timedelta(days=1))
    behind = burst(later, BEGIN + timedelta(days=3), timedelta(hours=1)) if later else []
    server = Server(shown + [(instant, f"{number:04}") for number in range(1_200)] + behind, most=500, says_so=says_so)
    found = Counter[Event]()

    with pytest.raises(HiddenEventsError) as caught:
        read(server, found=found)

    assert caught.value.instants == [instant]
    assert Counter(time for time, _ in found)[instant] == 500
    assert {*shown, *behind} <= found.keys()
    assert server.requests < 60


@pytest.mark.parametrize("count", [450, 1_300])
def test_an_instant_of_any_size_is_read_whole_where_all_is_shown(count: int) -> None:
    """Deeper than a step if need be; a full page at its end is no limit."""
    server = Server(
        [(BEGIN + timedelta(days=2), f"{number:05}") for number in range(count)] + burst(9, BEGIN, TICK * 99)
    )

    assert len(read(server, per_page=50)) == count + 9


def test_more_events_at_one_instant_than_a_step_are_read_whole() -> None:
    """Only there a query is deeper."""
    server = Server([(BEGIN, f"{number:05}") for number in range(DEPTH + 1_234)])

    assert len(read(server, per_page=1_000)) == DEPTH + 1_234


@pytest.mark.parametrize("hours", [1, 24, 24 * 7])
def test_a_range_that_is_refused_is_made_shorter(hours: int) -> None:
    """The whole month arrives, in not many more requests than it has such ranges, and few of them are refused."""
    events = burst(700, BEGIN, timedelta(days=30))
    server = Server(events, longest=timedelta(hours=hours))

    assert read(server, per_page=1_000) == Counter(events)
    refused = [query for query in server.queries if query.before - query.since > server.longest]
    assert len(refused) <= 6 + len(server.queries) // HOLD
    assert len(server.queries) <= 2 * 30 * 24 / hours + 20


def test_a_range_that_is_too_full_is_made_shorter_where_it_is() -> None:
    """A range that is too full is made shorter there, and longer again where little happens."""
    events = burst(3_000, BEGIN + timedelta(days=9), timedelta(hours=2)) + burst(30, BEGIN, timedelta(days=8))
    server = Server(sorted(events), fullest=400)

    assert read(server) == Counter(events)
    assert server.requests < 300


def test_ranges_shorter_than_the_overlap_go_on() -> None:
    """The overlap is less than the range: nothing is read for ever, and the refusal ends the reading."""
    crowd = [(BEGIN + timedelta(hours=5), f"{number:03}") for number in range(44)]
    server = Server(burst(600, BEGIN + timedelta(hours=4), timedelta(hours=1)) + crowd, fullest=40)
    found = Counter[Event]()

    with pytest.raises(RefusedError):
        read(server, found=found)

    assert set(burst(600, BEGIN + timedelta(hours=4), timedelta(hours=1))) == found.keys()
    assert server.requests < 400


def test_a_server_that_never_shows_the_same_is_given_up() -> None:
    """New ids at each query, all of one instant, and never more than a page: there is no end to that."""
    queries = iter(range(10_000))

    def ask(*_: object) -> Iterator[Page]:
        query = next(queries)
        yield page_of([(BEGIN, f"{query}-{number}") for number in range(100)])

    with pytest.raises(BadAnswerError, match="without end"):
        list(read_whole(ask, MONTH, Reach(100), "asc"))


@pytest.mark.parametrize("largest", [1, 10, 99, 500])
def test_a_page_that_is_refused_is_made_smaller(largest: int) -> None:
    """The range keeps its length: what is refused is found by changing one of them at a time."""
    events = burst(1_200, BEGIN, timedelta(days=30))
    server = Server(events, largest_page=largest)
    reach = Reach(1_000)

    assert read(server, reach=reach) == Counter(events)
    assert reach.page <= largest
    assert read(server, reach=reach) == Counter(events)
    assert reach.window(MONTH.since, MONTH.before) == MONTH


def test_what_was_made_smaller_grows_again() -> None:
    """After some time without a refusal, so that a bad hour does not cost requests for ever."""
    server = Server(burst(3, BEGIN, timedelta(days=30)), longest=timedelta(hours=1), largest_page=30)
    reach = Reach(1_000)
    read(server, Window(BEGIN, BEGIN + timedelta(hours=20)), reach=reach)
    assert reach.page < 1_000
    server.longest, server.largest_page = timedelta.max, 1_000

    for _ in range(2 * HOLD):
        read(server, reach=reach)
    server.queries.clear()
    read(server, reach=reach)

    assert (reach.page, server.queries) == (1_000, [MONTH])


def test_a_hopeless_window_costs_one_request_more() -> None:
    """If not even a second of it is answered, its size is not what is wrong, and is kept."""
    server = Server([], longest=timedelta(-1))
    reach = Reach(1_000)

    with pytest.raises(RefusedError):
        read(server, reach=reach)

    assert server.requests == 2
    assert server.patient == 1
    assert (reach.page, reach.window(MONTH.since, MONTH.before)) == (1_000, MONTH)


def test_a_failure_that_has_nothing_to_do_with_the_window_ends_the_reading_at_once() -> None:
    """A token that is refused is not asked with again and again."""
    error = UnavailableError("down")
    asked = []

    def ask(*query: object) -> Iterator[Page]:
        asked.append(query)
        raise error
        yield

    with pytest.raises(AccountError) as caught:
        list(read_whole(ask, MONTH, Reach(1_000), "asc"))

    assert caught.value is error
    assert len(asked) == 1


@pytest.mark.parametrize("most", [None, 300])
def test_without_an_order_nothing_is_left_out(most: int | None) -> None:
    """Newest first though asked otherwise: the newest time reached says nothing, so shorter ranges are read."""
    events = burst(1_000, BEGIN, timedelta(days=30))
    server = Server(events, most=most, order=lambda found: sorted(found, reverse=True))

    assert read(server).keys() == set(events)


def test_times_that_are_rounded_leave_nothing_out() -> None:
    """Among the events of one second, the server's order is not that of the times that it shows."""
    events = [(BEGIN + timedelta(seconds=index // 7), f"{index * 7919 % 10_000:05}") for index in range(3_000)]

    assert read(Server(events, most=1_000), per_page=100) == Counter(events)


@pytest.mark.parametrize(("most", "fullest"), [(7, None), (None, 12)])
def test_a_second_out_of_order_is_divided(most: int | None, fullest: int | None) -> None:
    """A server that orders by seconds alone, and shows less than a second's events."""
    events = [(BEGIN + timedelta(seconds=index / 10), f"{index * 7919 % 1000:03}") for index in range(120)]
    server = Server(
        events, most=most, says_so=most is not None, fullest=fullest, order=lambda found: sorted(found, key=_by_second)
    )

    assert read(server, per_page=7).keys() == set(events)


def _by_second(event: Event) -> Event:
    return event[0].replace(microsecond=0), event[1]


_TIMES = st.integers(0, 40).map(lambda tenth: BEGIN + timedelta(seconds=tenth / 4))


@given(
    times=st.lists(_TIMES, max_size=120),
    most=st.one_of(st.none(), st.integers(1, 60)),
    per_page=st.sampled_from([1, 5, 10, 100]),
    says_so=st.booleans(),
    includes_since=st.booleans(),
    fullest=st.one_of(st.none(), st.integers(20, 60)),
)
def test_all_is_read_or_the_rest_is_reported(
    *, times: list[datetime], most: int | None, per_page: int, says_so: bool, includes_since: bool, fullest: int | None
) -> None:
    """Whatever the limit of results, the size of the pages and the times of the events."""
    events = [(time, f"{number:03}") for number, time in enumerate(times)]
    server = Server(events, most=most, says_so=says_so, includes_since=includes_since, fullest=fullest)
    window = Window(BEGIN - TICK, BEGIN + timedelta(days=1))
    densest = max(Counter(times).values(), default=0)
    # A limit in silence shows only by its full pages, and within one instant by what lies behind it.
    is_by_pages = most is not None and most % per_page == 0 and densest < most and fullest is None
    is_detectable = most is None or says_so or most % 100 == 0 or is_by_pages

    try:
        found = read(server, window, per_page)
    except AccountError:
        assert (most is not None and densest >= most) or (fullest is not None and densest * 8 > fullest)
        return

    if is_detectable:
        assert found.keys() == set(events)
    assert server.requests < 2_000
