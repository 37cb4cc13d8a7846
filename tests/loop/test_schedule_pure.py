"""Clock and activity alone decide what is due: no thread, no process, no sleep."""

import pytest

from pipelines.loop.schedule import PATIENCE_SECONDS, SLOWEST_EVENTS_PER_SECOND, Activity, Busy, Schedule
from tests.clock import Clock

LAKE, WAREHOUSE = BOTH = ("lake", "warehouse")
NOTHING = Activity[str]({})


def _schedule(clock: Clock, *, is_once: bool = False, has_sweeps: bool = True) -> Schedule[str, str, str]:
    return Schedule(["a", "b"], poll_seconds=30, has_sweeps=has_sweeps, is_once=is_once, monotonic=clock)


def test_a_poll_is_due_at_once_and_at_every_interval(clock: Clock) -> None:
    """Counted from the time at which the last one was called to."""
    schedule = _schedule(clock)
    at_first = schedule.poll_is_due
    schedule.call(BOTH, {})
    clock.now += 29
    before, left = schedule.poll_is_due, schedule.wait_seconds
    clock.now += 1

    assert (at_first, before, left, schedule.poll_is_due) == (True, False, 1, True)
    assert not schedule.is_done


def test_destinations_begin_their_poll_together(clock: Clock) -> None:
    """Destinations begin their poll together, and once."""
    schedule = _schedule(clock)
    schedule.call(BOTH, {})

    assert schedule.take_ready(NOTHING) == {LAKE, WAREHOUSE}
    assert schedule.take_ready(NOTHING) == set()


def test_one_waits_for_another_that_opens_and_no_longer_than_its_patience(clock: Clock) -> None:
    """Then it begins alone; the other one follows when it is open."""
    schedule = _schedule(clock)
    schedule.call(BOTH, {})
    opening = Activity({LAKE: Busy(1, is_opening=True)})
    at_first = schedule.take_ready(opening)
    clock.now += PATIENCE_SECONDS + 0.001

    assert at_first == set()
    assert schedule.take_ready(opening) == {WAREHOUSE}
    assert schedule.take_ready(NOTHING) == {LAKE}


def test_patience_counts_from_the_first_poll_that_was_not_begun(clock: Clock) -> None:
    """However short the interval is: a destination that opens for ever holds back no other."""
    schedule, opening = _schedule(clock), Activity({LAKE: Busy(1, is_opening=True)})
    schedule.call(BOTH, {})
    clock.now += PATIENCE_SECONDS / 2
    schedule.call(BOTH, opening.busy)
    clock.now += PATIENCE_SECONDS / 2 + 0.001

    assert schedule.take_ready(opening) == {WAREHOUSE}


@pytest.mark.parametrize(
    ("busy", "is_called"),
    [
        (Busy(1), True),
        (Busy(PATIENCE_SECONDS + 1), False),
        (Busy(1, is_opening=True), False),
        (Busy(1, is_last=True), False),
    ],
)
def test_a_busy_destination_is_called_in_the_middle_of_a_long_cycle_alone(
    clock: Clock, busy: Busy, *, is_called: bool
) -> None:
    """Whatever else it does may hang, and the next poll comes soon. The other one never waits."""
    schedule = _schedule(clock)

    called = schedule.call(BOTH, {LAKE: busy})

    assert called == ([LAKE, WAREHOUSE] if is_called else [WAREHOUSE])
    assert schedule.take_ready(Activity({LAKE: busy})) == set(called)


def test_a_destination_that_failed_is_not_waited_for(clock: Clock) -> None:
    """It is called again when its pause is over."""
    schedule = _schedule(clock)
    schedule.call(BOTH, {})

    schedule.dismiss(LAKE)

    assert schedule.take_ready(NOTHING) == {WAREHOUSE}


def test_a_sweep_begins_when_all_is_quiet(clock: Clock) -> None:
    """Slow accounts in a poll are waited for no longer than the patience; they are left out."""
    schedule = _schedule(clock)
    called = schedule.call(BOTH, {}), schedule.sweep_begins(NOTHING)
    schedule.take_ready(NOTHING)
    slow = Activity[str]({}, polls=[clock.now])
    hurried = [
        schedule.sweep_begins(activity)
        for activity in (Activity({LAKE: Busy(1)}), slow, NOTHING._replace(is_in_background=True))
    ]
    clock.now += PATIENCE_SECONDS + 0.001

    assert (called[1], hurried) == (False, [False, False, False])
    assert not schedule.sweep_begins(slow._replace(is_sweeping=True))
    assert schedule.sweep_begins(slow)
    assert schedule.take_unswept({"b"}) == ["a"]
    assert not schedule.sweep_begins(NOTHING)


def test_the_only_poll_sweeps_slow_accounts_later(clock: Clock) -> None:
    """No next poll would call to their sweep."""
    schedule = _schedule(clock, is_once=True)
    schedule.call(BOTH, {})
    schedule.take_ready(NOTHING)

    first, is_done = schedule.take_unswept({"b"}), schedule.is_done
    later = schedule.sweep_begins(NOTHING), schedule.take_unswept(set())

    assert (first, is_done, later) == (["a"], False, (True, ["b"]))
    assert schedule.is_done


def test_one_step_of_a_sweep_is_read_between_two_polls(clock: Clock) -> None:
    """With a single poll, the sweep is read to its end."""
    schedule, once = _schedule(clock), _schedule(clock, is_once=True)
    for each in (schedule, once):
        each.call(BOTH, {})
        each.note_handed_over(is_sweep=False)
        assert each.may_sweep
        each.note_handed_over(is_sweep=True)

    assert (schedule.may_sweep, once.may_sweep) == (False, True)
    schedule.call(BOTH, {})
    assert schedule.may_sweep


def test_the_background_comes_after_polls_and_sweeps_one_task_at_a_time(clock: Clock) -> None:
    """Background tasks run one at a time after polls and sweeps, and are scheduled anew at each poll."""
    schedule = _schedule(clock)
    schedule.call(BOTH, {}, ["compare", "seal"])
    schedule.take_ready(NOTHING)
    before_the_sweep = schedule.take_background(NOTHING)
    schedule.take_unswept(set())

    assert before_the_sweep is None
    assert schedule.take_background(Activity({LAKE: Busy(1)})) is None
    assert schedule.take_background(NOTHING) == "compare"
    assert schedule.take_background(NOTHING._replace(is_in_background=True)) is None
    assert schedule.take_background(NOTHING) == "seal"
    assert schedule.take_background(NOTHING) is None


def test_a_single_poll_is_done_when_nothing_that_it_called_to_is_left(clock: Clock) -> None:
    """Sweeps and background included; what is abandoned is not waited for."""
    schedule = _schedule(clock, is_once=True)
    at_first = schedule.is_done
    schedule.call(BOTH, {}, ["compare"])
    called = schedule.is_done
    schedule.abandon()

    assert (at_first, called, schedule.is_done) == (False, False, True)
    assert not schedule.poll_is_due
    assert 0 < schedule.wait_seconds < 1


def test_who_was_left_behind_in_the_only_poll_reads_by_itself(clock: Clock) -> None:
    """When its load is over; otherwise the next poll is soon enough."""
    schedule, once = _schedule(clock), _schedule(clock, is_once=True)
    for each in (schedule, once):
        each.call(BOTH, {})
        each.take_ready(NOTHING)
        each.recall(LAKE)

    assert schedule.take_ready(NOTHING) == set()
    assert once.take_ready(Activity({LAKE: Busy(60)})) == set()
    assert once.take_ready(NOTHING) == {LAKE}


def test_a_large_step_waits_longer_for_a_busy_destination(clock: Clock) -> None:
    """A large step waits as long as the load before may take."""
    schedule, since = _schedule(clock), clock.now
    clock.now += PATIENCE_SECONDS + 0.5

    assert not schedule.is_patient(since, 0)
    assert schedule.is_patient(since, SLOWEST_EVENTS_PER_SECOND)


def test_without_sweeps_none_is_due(clock: Clock) -> None:
    """SWEEP_INTERVAL_SECONDS=0."""
    schedule = _schedule(clock, has_sweeps=False)
    schedule.call(BOTH, {})
    schedule.take_ready(NOTHING)

    assert (schedule.may_sweep, schedule.sweep_begins(NOTHING)) == (False, False)
