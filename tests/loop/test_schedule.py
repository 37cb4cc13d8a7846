"""What the loop decides by the time that has passed is decided by the clock that it is given: no test waits."""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.fetch.reading import Part, StepLimits
from pipelines.host.aside import TOLD_AGAIN_SECONDS, aside
from pipelines.load.loader import Loader
from pipelines.load.spool import Spool
from pipelines.loop.account_failures import GATHERING_SECONDS as FAILURES_GATHER_SECONDS
from pipelines.loop.account_failures import AccountFailures
from pipelines.loop.background import MOST_HANGING, Background
from pipelines.loop.cycle import GATHERING_SECONDS, Pass
from pipelines.loop.pauses import FAILED_PAUSE_FACTOR, Pauses
from pipelines.loop.readers import Readers
from pipelines.loop.workers import Workers
from pipelines.settings.settings import Settings, read_settings
from sources.cloudflare_audit_logs.errors import RefusedError, UnavailableError
from sources.cloudflare_audit_logs.events import Page
from sources.cloudflare_audit_logs.streams import Stream, Window
from tests.factory import ACCOUNT, OTHER_ACCOUNT

NOW = datetime(2026, 11, 27, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(hours=1), NOW)
STREAMS = [Stream(ACCOUNT, "v1"), Stream(OTHER_ACCOUNT, "v1")]


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """At some time."""
    return Clock()


@pytest.fixture
def settings() -> Settings:
    """Two accounts."""
    environment = {"CLOUDFLARE_API_TOKEN": "t", "CLOUDFLARE_ACCOUNT_ID": f"{ACCOUNT},{OTHER_ACCOUNT}"}
    return read_settings({**environment, "CLOUDFLARE_API_VERSION": "v1"}, now=NOW)


def test_a_destination_that_fails_again_is_left_alone_for_longer_each_time(clock: Clock, settings: Settings) -> None:
    """2, 4, 8 … seconds, to the limit; a success begins anew."""
    pauses, waited = Pauses(settings, clock), list[float]()
    for _ in range(10):
        waited.append(pauses.after_failure("lake"))
        clock.now += waited[-1] - 0.001
        assert pauses.include("lake")
        clock.now += 0.002
        assert not pauses.include("lake")
    pauses.after_success("lake")

    assert waited == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert pauses.after_failure("lake") == waited[0]


def test_an_account_is_left_alone_in_proportion_to_what_it_cost(clock: Clock, settings: Settings) -> None:
    """Twice, at least; a refused one for five minutes."""
    pauses = Pauses(settings, clock)

    seconds = pauses.seconds_after(UnavailableError("down"), 10, NOW)

    assert 10 * FAILED_PAUSE_FACTOR <= seconds <= 15 * FAILED_PAUSE_FACTOR
    assert pauses.seconds_after(RefusedError("no"), 10, NOW) == 300  # as documented


def test_a_step_waits_for_the_other_streams_for_a_moment(clock: Clock, settings: Settings) -> None:
    """Then it is to be loaded as it is, and what has waited longest goes first."""
    entry = _pass(settings, clock)
    _, stream, _ = entry.next_reading(lambda _: True) or pytest.fail("nothing to read")
    entry.add(stream, Part(WINDOW, is_last=True))

    clock.now += GATHERING_SECONDS - 0.001
    assert not entry.is_due
    clock.now += 0.002
    assert entry.is_due
    assert entry.due_since == clock.now


def test_a_pass_that_nobody_wants_ends_its_readings_alone(clock: Clock, settings: Settings) -> None:
    """Each has a stop of its own."""
    unwanted, wanted = _pass(settings, clock), _pass(settings, clock)

    unwanted.stop.set()

    assert not wanted.stop.is_set()


def test_readers_and_workers_say_how_long_it_took(clock: Clock) -> None:
    """By the clock that they are given."""
    readers, workers = Readers[str](clock), Workers[str, str](900, clock)
    with readers, workers:
        readers.submit("queue", "an account", lambda: None)
        workers.submit("lake", "a step", lambda: None)
        wait([*readers.futures, *workers.futures], 10)
        clock.now += 7

        assert workers.busy_seconds("lake") == 7  # as above
        assert [read.seconds for read in readers.collect()] == [7]


def test_failures_of_accounts_gather_for_a_moment(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Then they are told together."""
    failures, failed = AccountFailures(monotonic=clock), dict.fromkeys(STREAMS, UnavailableError("down"))
    for stream in STREAMS:
        failures.note(stream, UnavailableError("down"), "next poll")
    failures.tell(failed, (), at_once=False)
    told_at_once = len(caplog.messages)
    clock.now += FAILURES_GATHER_SECONDS
    failures.tell(failed, (), at_once=False)

    assert (told_at_once, len(caplog.messages)) == (0, 1)


def test_what_fails_beside_the_way_is_told_now_and_then(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Not in each cycle; another error at once."""

    def fail(error: Exception) -> None:
        with aside("a_test", clock):
            raise error

    for _ in range(100):
        fail(KeyError("x"))
    fail(MemoryError())
    clock.now += TOLD_AGAIN_SECONDS
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


def test_what_hangs_is_left_to_itself_and_no_more_than_some_of_it(clock: Clock, release: threading.Event) -> None:
    """It is told to stop; when one of them ends, there is room again."""
    background, stops = Background[None]("test", 900, clock), list[threading.Event]()
    for _ in range(MOST_HANGING):
        assert background.has_room
        background.begin(_hanging(stops, release))
        clock.now += 899
        assert background.collect() is None
        clock.now += 1
        assert "left to itself" in str(_error_of(background.collect()))

    full = background.has_room
    release.set()
    for stop in stops:
        assert stop.is_set()
    while not background.has_room:
        release.wait(0.01)

    assert not full
    assert len(stops) == MOST_HANGING


def test_a_result_is_collected_once(clock: Clock) -> None:
    """And an error of any kind is no more than a result."""
    background = Background[int]("test", 900, clock)
    background.begin(lambda _: 7)
    wait(background.futures, 10)
    ended = background.collect()
    background.begin(_exit)
    wait(background.futures, 10)

    assert ended is not None
    assert ended.result() == 7  # as above
    assert isinstance(_error_of(background.collect()), SystemExit)
    assert background.collect() is None


def _exit(_: threading.Event) -> int:
    raise SystemExit(3)


def _hanging(stops: list[threading.Event], release: threading.Event) -> Callable[[threading.Event], None]:
    def hang(stop: threading.Event) -> None:
        stops.append(stop)
        release.wait()

    return hang


def _error_of(ended: "Future[int] | Future[None] | None") -> BaseException | None:
    assert ended is not None
    return ended.exception()


def _pass(settings: Settings, clock: Clock) -> Pass:
    loads: dict[Loader, Callable[..., Mapping[Stream, object]]] = {}
    return Pass(
        dict.fromkeys(STREAMS, WINDOW),
        _fetch_nothing,
        Spool(Path()),
        settings,
        loads,  # type: ignore[arg-type]  # nobody
        queue_of=lambda stream: stream.account_id,
        limits=StepLimits(),
        begun=NOW,
        is_sweep=False,
        monotonic=clock,
    )


def _fetch_nothing(*_: object, **__: object) -> Iterator[Page]:
    yield from ()
