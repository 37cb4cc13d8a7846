"""The benchmark of many accounts finds its cycles in the API's log; on made-up requests."""

from datetime import UTC, datetime, timedelta

from benchmarks.servers.simulated import Asked, cycle_seconds, longest_wait_seconds, polls_of, seconds_between

BEGIN = datetime(2026, 11, 20, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def poll(account: str, seconds: float, *, begun: float | None = None) -> Asked:
    """A request for what is new, of a round that began then, or now."""
    return Asked(at(seconds), account, "token", at(seconds if begun is None else begun))


ROUNDS = [poll("a", 0), poll("b", 4), poll("a", 30), poll("b", 36), poll("a", 60)]


def test_sweeps_retries_and_pages_are_no_polls() -> None:
    """Requests of sweeps, retries and further pages, and accounts not asked about, do not count as polls."""
    others = [poll("a", 5, begun=0), poll("b", 10, begun=-3600), poll("c", 6)]

    assert polls_of([*reversed(ROUNDS), *others], {"a", "b"}) == ROUNDS


def test_a_cycle_is_from_the_first_account_to_the_last() -> None:
    """Only whole rounds count; the last one here is not."""
    assert cycle_seconds(ROUNDS, {"a", "b"}) == [4, 6]
    assert cycle_seconds(ROUNDS, {"a", "b", "c"}) == []


def test_an_account_that_is_never_polled_again_waits_to_the_end() -> None:
    """Though its distances from poll to poll are the usual ones."""
    assert seconds_between(ROUNDS) == [30, 32, 30]
    assert longest_wait_seconds(ROUNDS, {"a", "b"}, at(0), at(70)) == 34
    assert longest_wait_seconds(ROUNDS, {"a", "b", "c"}, at(0), at(70)) == 70
    assert longest_wait_seconds([], {"a"}, at(0), at(70)) == 70
