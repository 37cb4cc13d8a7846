"""The loop decides by the clock that it is given: no test waits."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import wait
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from pipelines.fetch.reading import Part, StepLimits
from pipelines.load.spool import Spool
from pipelines.loop.cycle import GATHERING_SECONDS, Cycle
from pipelines.loop.failures import Failures
from pipelines.loop.schedule import FAILED_PAUSE_FACTOR
from pipelines.loop.threads import Threads
from pipelines.settings.settings import Settings, read_settings
from sources.cloudflare_audit_logs.errors import RateLimitedError, RefusedError, UnavailableError
from sources.cloudflare_audit_logs.events import Page
from sources.cloudflare_audit_logs.streams import Stream, Window
from tests.clock import Clock
from tests.factory import ACCOUNT, OTHER_ACCOUNT

NOW = datetime(2026, 11, 27, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(hours=1), NOW)
STREAMS = [Stream(ACCOUNT, "v1"), Stream(OTHER_ACCOUNT, "v1")]


@pytest.fixture
def settings() -> Settings:
    """Two accounts."""
    environment = {"CLOUDFLARE_API_TOKEN": "t", "CLOUDFLARE_ACCOUNT_ID": f"{ACCOUNT},{OTHER_ACCOUNT}"}
    return read_settings({**environment, "CLOUDFLARE_API_VERSION": "v1"}, now=NOW)


def test_a_destination_that_fails_again_is_left_alone_for_longer_each_time(clock: Clock, settings: Settings) -> None:
    """2, 4, 8 … seconds, to the limit; a success begins anew."""
    failures, waited = Failures(settings, clock), list[float]()
    for seconds in (2, 4, 8, 16, 32, 64, 128, 256, 300, 300):
        failures.note_destination("lake", UnavailableError("down"))
        clock.now += seconds - 0.001
        assert failures.is_paused("lake")
        clock.now += 0.002
        assert not failures.is_paused("lake")
        waited.append(seconds)
    failures.note_loaded("lake")
    failures.note_destination("lake", UnavailableError("down"))
    clock.now += waited[0] + 0.001

    assert not failures.is_paused("lake")


def test_an_account_is_left_alone_in_proportion_to_what_it_cost(clock: Clock, settings: Settings) -> None:
    """Twice, at least, and not all at the same time; a refused one for five minutes."""
    failures, (failed, refused) = Failures(settings, clock), STREAMS

    failures.note_account(failed, UnavailableError("down"), 10, NOW)
    failures.note_account(refused, RefusedError("no"), 10, NOW)

    clock.now += 10 * FAILED_PAUSE_FACTOR - 0.001
    assert failures.streams == []
    clock.now += 5 * FAILED_PAUSE_FACTOR
    assert failures.streams == [failed]
    clock.now += 300  # as documented
    assert failures.streams == STREAMS


def test_all_accounts_of_a_token_that_is_shut_out_are_left_alone(clock: Clock, settings: Settings) -> None:
    """Until the API answers again; those that waited to be read count as failed."""
    failures, (limited, other) = Failures(settings, clock), STREAMS
    until = NOW + timedelta(seconds=60)

    failures.note_account(limited, RateLimitedError("slow down", until=until), 1, NOW, [other])

    assert failures.streams == []
    assert set(failures.accounts.failed) == set(STREAMS)
    clock.now += 61
    assert failures.streams == STREAMS


def test_a_step_waits_for_the_other_streams_for_a_moment(clock: Clock, settings: Settings) -> None:
    """Then it is to be loaded as it is, and what has waited longest goes first."""
    cycle = _cycle(settings, clock)
    _, stream, _ = cycle.next_reading(lambda _: True) or pytest.fail("nothing to read")
    cycle.add(stream, Part(WINDOW, is_last=True))

    clock.now += GATHERING_SECONDS - 0.001
    assert not cycle.is_due
    clock.now += 0.002
    assert cycle.is_due
    assert cycle.due_since == clock.now


def test_a_cycle_that_nobody_wants_ends_its_readings_alone(clock: Clock, settings: Settings) -> None:
    """Each has a stop of its own."""
    unwanted, wanted = _cycle(settings, clock), _cycle(settings, clock)

    unwanted.stop.set()

    assert not wanted.stop.is_set()


def test_threads_say_how_long_a_task_took(clock: Clock) -> None:
    """By the clock that they are given; until it is collected, it counts as under way."""
    threads = Threads[str]("test", clock)

    def work() -> None:
        clock.now += 7

    threads.submit("an account", work, queue="a token")
    wait(threads.futures, 10)
    under_way = [task.queue for task in threads.tasks]
    (task,) = threads.collect()
    threads.close()

    assert (under_way, task.subject, task.seconds) == (["a token"], "an account", 7)
    assert (threads.tasks, threads.collect(), threads.overdue(0)) == ([], [], [])


def test_a_thread_that_is_free_does_the_next_task() -> None:
    """A thread that is free is used again; a task that comes while it is busy has another one."""
    threads, both_are_there = Threads[str]("test"), threading.Barrier(2)
    idents = list[int]()
    for subject in ("first", "second"):
        threads.submit(subject, lambda: idents.append(threading.get_ident()))
        wait(threads.futures, 10)
        threads.collect()
    for subject in ("third", "fourth"):
        threads.submit(subject, partial(both_are_there.wait, 10))
    wait(threads.futures, 10)
    threads.close()

    assert len(set(idents)) == 1
    assert [task.future.exception() for task in threads.collect()] == [None, None]


HANGING = """
import threading
from pipelines.loop.loaders import DEADLINE_SECONDS, Loaders

class Hanging:
    name, is_begun = "lake", threading.Event()
    def open(self):
        self.is_begun.set()
        threading.Event().wait()

now, destination = [0.0], Hanging()
loaders = Loaders([destination], None, lambda: now[0])
loaders.open(destination)
destination.is_begun.wait()
now[0] = DEADLINE_SECONDS - 1.0
print(loaders.collect(), flush=True)
now[0] += 1
{}
print("went on")
"""


@pytest.mark.parametrize("asked", ["loaders.collect()", "loaders.close()"])
def test_a_load_that_hangs_ends_the_process_at_its_deadline(asked: str) -> None:
    """An error that dlt cannot see; with a traceback of every thread. Also when the loop is to stop."""
    done = subprocess.run(
        [sys.executable, "-c", HANGING.format(asked)], capture_output=True, text=True, timeout=120, check=False
    )

    assert (done.returncode, done.stdout) == (1, "[]\n"), done.stderr
    assert "in open" in done.stderr


def _cycle(settings: Settings, clock: Clock) -> Cycle:
    return Cycle(
        dict.fromkeys(STREAMS, WINDOW),
        [],
        _fetch_nothing,
        Spool(Path()),
        settings,
        queue_of=lambda stream: stream.account_id,
        limits=StepLimits(),
        begun=NOW,
        is_sweep=False,
        monotonic=clock,
    )


def _fetch_nothing(*_: object, **__: object) -> Iterator[Page]:
    yield from ()
