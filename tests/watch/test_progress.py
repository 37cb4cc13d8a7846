"""The loop counts as alive as long as something is finished, and no longer than the longest wait there is."""

import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
import requests

from pipelines.loop.failures import Failures
from pipelines.loop.report import Report
from pipelines.settings.settings import read_settings
from pipelines.watch.health_server import serving_health
from pipelines.watch.progress import Progress
from pipelines.watch.running import Running
from sources.cloudflare_audit_logs.traffic import Traffic
from tests.clock import Clock

START = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.fixture
def progress(clock: Clock) -> Progress:
    environment = {"CLOUDFLARE_API_TOKEN": "t", "CLOUDFLARE_ACCOUNT_ID": "a", "METRICS_PORT": "0"}
    return Progress(read_settings(environment, now=START), clock=clock)


@pytest.fixture
def livez(progress: Progress) -> Iterator[Callable[[], requests.Response]]:
    """Asks a server of a run that stands still."""
    environment = {"CLOUDFLARE_API_TOKEN": "t", "CLOUDFLARE_ACCOUNT_ID": "a", "METRICS_PORT": str(_free_port())}
    settings = read_settings(environment, now=START)
    with serving_health(Running(settings, Report(Failures(settings)), [], progress), lambda: START):
        yield lambda: requests.get(f"http://127.0.0.1:{settings.metrics_port}/livez", timeout=60)


def test_it_is_alive_as_long_as_something_is_finished(
    livez: Callable[[], requests.Response], clock: Clock, progress: Progress
) -> None:
    """Otherwise it says for how long nothing was."""
    clock.now += 959
    before = livez()
    clock.now += 2
    stuck = livez()
    progress.note()

    again = livez()
    head = requests.head(again.url, timeout=60)

    assert (before.status_code, stuck.status_code, again.status_code) == (200, 503, 200)
    assert "no progress for 961 s" in stuck.text
    assert (head.status_code, head.headers["Content-Length"], head.content) == (200, "3", b"")


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        ("POLL_INTERVAL_SECONDS", "30", 960),
        ("POLL_INTERVAL_SECONDS", "86400", 86_460),
        ("CLOUDFLARE_REQUEST_TIMEOUT_SECONDS", "100", 1_360),
    ],
)
def test_the_longest_silence_is_the_longest_wait(name: str, value: str, seconds: float) -> None:
    """The limit is the longest of poll interval, load deadline and slowest answer, and a minute more."""
    environment = {"CLOUDFLARE_API_TOKEN": "t", "CLOUDFLARE_ACCOUNT_ID": "a", name: value}

    assert Progress(read_settings(environment, now=START)).longest_silence_seconds == seconds


def test_each_request_is_progress() -> None:
    """A long reading of slow pages is no standstill; headers say what is left of the budget."""
    answers: list[int] = []
    traffic = Traffic(lambda: answers.append(1))

    traffic.note("200", {"Ratelimit": '"default";r=7;t=42'})
    traffic.note("none", {})
    traffic.note_retry()

    assert (traffic.requests, traffic.left, traffic.retries, len(answers)) == ({"200": 1, "none": 1}, 7, 1, 2)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
