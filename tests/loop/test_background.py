"""Failures, and what runs in the background, are told now and then, and hold up nothing: by a clock that is given."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from typing import Any

import pytest

from pipelines.host.aside import LOGGED_AGAIN_SECONDS, aside
from pipelines.loop.account_failures import GATHERING_SECONDS as FAILURES_GATHER_SECONDS
from pipelines.loop.account_failures import AccountFailures
from pipelines.loop.background import MOST_HANGING, Background
from sources.cloudflare_audit_logs.errors import UnavailableError
from sources.cloudflare_audit_logs.streams import Stream
from tests.clock import Clock
from tests.factory import ACCOUNT, OTHER_ACCOUNT

STREAMS = [Stream(ACCOUNT, "v1"), Stream(OTHER_ACCOUNT, "v1")]


def test_failures_of_accounts_gather_for_a_moment(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Then they are told together."""
    failures = AccountFailures(monotonic=clock)
    for stream in STREAMS:
        failures.note(stream, UnavailableError("down"), "next poll")
    failures.log(at_once=False)
    told_at_once = len(caplog.messages)
    clock.now += FAILURES_GATHER_SECONDS
    failures.log(at_once=False)

    assert (told_at_once, len(caplog.messages)) == (0, 1)


def test_what_fails_beside_the_way_is_told_now_and_then(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Not in each cycle; another error at once."""

    def fail(error: Exception) -> None:
        with aside("a_test", clock):
            raise error

    for _ in range(100):
        fail(KeyError("x"))
    fail(MemoryError())
    clock.now += LOGGED_AGAIN_SECONDS
    fail(KeyError("x"))

    assert [message.split(" hint")[0] for message in caplog.messages] == [
        "a_test.failed error=\"KeyError: 'x'\"",
        "a_test.failed error=MemoryError",
        "a_test.failed error=\"KeyError: 'x'\"",
    ]


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets what hangs come to its end."""
    event = threading.Event()
    yield event
    event.set()


class Work:
    """A task of the background."""

    deadline_seconds = 900.0
    is_due = True

    def __init__(self, do: Callable[[threading.Event], object]) -> None:
        self._do, self.ended = do, list[Future[Any]]()

    def work(self, _: object, stop: threading.Event) -> object:
        """Does it."""
        return self._do(stop)

    def note(self, ended: "Future[Any]") -> None:
        """Keeps what became of it."""
        self.ended.append(ended)


def test_what_hangs_is_left_to_itself_and_no_more_than_some_of_it(clock: Clock, release: threading.Event) -> None:
    """It is asked to stop; when one of them ends, there is room again."""
    stops = list[threading.Event]()

    def hang(stop: threading.Event) -> None:
        stops.append(stop)
        release.wait()

    task = Work(hang)
    background = Background([task], clock)
    for number in range(MOST_HANGING):
        assert background.due == [task]
        background.begin(task, {})
        clock.now += 899
        assert not background.collect()
        clock.now += 1
        assert background.collect()
        assert "left to itself" in str(task.ended[number].exception())

    full = background.due
    release.set()
    while not background.due:
        release.wait(0.01)

    assert full == []
    assert len(stops) == MOST_HANGING
    assert all(stop.is_set() for stop in stops)


def test_a_result_is_collected_once(clock: Clock) -> None:
    """And an error of any kind is no more than a result."""
    good, bad = Work(lambda _: 7), Work(_exit)
    background = Background([good, bad], clock)
    for task in (good, bad):
        background.begin(task, {})
        wait(background.futures, 10)
        assert background.collect()

    assert not background.collect()
    assert [ended.result() for ended in good.ended] == [7]  # as above
    assert [type(ended.exception()) for ended in bad.ended] == [SystemExit]


def _exit(_: threading.Event) -> int:
    raise SystemExit(3)
