"""Whoever is on call sees from outside whether it works, and why not."""

import re
import socket
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from prometheus_client.process_collector import ProcessCollector

from pipelines.completeness import STORES
from pipelines.health import serving_health
from pipelines.measurements import LoadedStep, Measurements
from pipelines.metrics import METRICS, OwnProcess
from pipelines.progress import Progress
from pipelines.reading import Part, Step
from pipelines.report import Report
from pipelines.running import Running
from pipelines.settings import PROJECT_ROOT, read_settings
from simulator.api import Api, Fault
from sources.cloudflare_audit_logs import Batch, Position
from sources.cloudflare_audit_logs.events import decode_page
from sources.cloudflare_audit_logs.streams import Stream, Window
from sources.cloudflare_audit_logs.traffic import Traffic

from .conftest import Finished, Stores, wait_until
from .factory import ACCOUNT, OTHER_ACCOUNT, ago, event_at, raw_event, spread
from .watching import watched_loop

NAME = "cloudflare_audit_{}".format
STREAM = Stream(ACCOUNT, "v1")
START = datetime(2026, 11, 20, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_the_process_is_measured_where_proc_has_processes_alone(tmp_path: Path) -> None:
    """As systemd's ProcSubset=pid has it: AuditRestarting asks for the start time, which stays the same."""
    (tmp_path / "self").symlink_to("/proc/self")

    process = OwnProcess(proc=str(tmp_path), registry=None)
    usual = ProcessCollector(registry=None)
    first, again, other = ({m.name: m.samples[0].value for m in kind.collect()} for kind in (process, process, usual))

    assert first["process_start_time_seconds"] == again["process_start_time_seconds"]
    assert first["process_start_time_seconds"] == pytest.approx(other["process_start_time_seconds"], abs=2)
    assert first["process_resident_memory_bytes"] > 10_000_000
    assert first["process_cpu_seconds"] > 0
    assert first["process_open_fds"] > 2


# --- what a real loop tells -------------------------------------------------------------------------------------------


@pytest.mark.integration
def test_a_loop_counts_what_it_fetched_and_stored(api: Api, environment: Mapping[str, str], tmp_path: Path) -> None:
    """By account, version and destination; what it held already and what it cannot place, too."""
    events = spread(30, ago(minutes=14), ago(minutes=1))
    api.world.add(ACCOUNT, "v1", [*events, raw_event('{"no": "time"}', time=ago(minutes=2))])

    with watched_loop(environment, tmp_path) as loop:
        wait_until(lambda: min(loop.value(NAME("events_duplicate_total"), destination=d) or 0 for d in STORES) >= 30)

        for destination in STORES:
            flow = {"account": ACCOUNT, "version": "v1", "destination": destination}
            assert loop.value(NAME("events_stored_total"), **flow) == 30
            assert loop.value(NAME("events_quarantined_total"), **flow) == 1
            assert loop.value(NAME("cursor_timestamp_seconds"), **flow) == events[-1].time.timestamp()
            assert (loop.value(NAME("last_success_timestamp_seconds"), **flow) or 0) > ago(minutes=1).timestamp()
            assert loop.value(NAME("load_duration_seconds_count"), destination=destination) == 1
            assert (loop.value(NAME("poll_duration_seconds_count"), destination=destination) or 0) >= 2
            assert loop.value(NAME("destination_up"), destination=destination) == 1
        assert (loop.value(NAME("events_fetched_total"), account=ACCOUNT, version="v1") or 0) >= 60
        assert (loop.value(NAME("api_requests_total"), code="200") or 0) >= 2
        assert (loop.value(NAME("api_requests_left")) or 0) > 1000
        assert loop.value(NAME("account_up")) == 1


@pytest.mark.integration
def test_the_visibility_lag_is_that_of_events_which_appear_while_we_look(
    api: Api, environment: Mapping[str, str], tmp_path: Path
) -> None:
    """Not of the history that the first poll reads."""
    api.world.add(ACCOUNT, "v1", spread(10, ago(hours=5), ago(minutes=10)))

    with watched_loop(environment, tmp_path) as loop:
        wait_until(lambda: loop.get("/readyz").ok)
        assert loop.value(NAME("visibility_lag_seconds_count")) == 0
        api.world.add(ACCOUNT, "v1", [event_at(ago(seconds=100))])
        wait_until(lambda: loop.value(NAME("visibility_lag_seconds_count")) == 2)

        assert 200 <= (loop.value(NAME("visibility_lag_seconds_sum")) or 0) < 240
        assert loop.value(NAME("visibility_lag_seconds_bucket"), le="60.0") == 0
        assert loop.value(NAME("visibility_lag_seconds_bucket"), le="120.0") == 2


@pytest.mark.integration
def test_a_late_event_is_counted_as_late(api: Api, environment: Mapping[str, str], tmp_path: Path) -> None:
    """The sweep finds it; its lag is not measured, for it is as long as sweeps are apart."""
    api.world.add(ACCOUNT, "v1", [event_at(ago(minutes=1))])

    with watched_loop(environment, tmp_path, SWEEP_INTERVAL_SECONDS="1") as loop:
        wait_until(lambda: loop.get("/readyz").ok)
        api.world.add(ACCOUNT, "v1", [event_at(ago(hours=2))])
        wait_until(lambda: loop.value(NAME("events_late_total")) == 2)

        assert loop.value(NAME("events_stored_total")) == 4
        assert loop.value(NAME("visibility_lag_seconds_count")) == 0


@pytest.mark.integration
def test_a_gap_is_counted_with_what_is_missing_where(
    api: Api, environment: Mapping[str, str], stores: Stores, poll: Callable[..., Report], tmp_path: Path
) -> None:
    """Found by the loop's own comparison."""
    api.world.add(ACCOUNT, "v1", spread(5, ago(hours=3), ago(hours=2)))
    poll(INITIAL_CHECKPOINT=ago(hours=6).isoformat())
    stores.query("DELETE FROM {schema}.audit_logs WHERE timestamp = (SELECT min(timestamp) FROM {schema}.audit_logs)")

    before = len(api.requests)

    with watched_loop(environment, tmp_path, RECONCILE_AFTER_HOURS="0.5") as loop:
        wait_until(lambda: loop.value(NAME("gaps_total")) == 1)

        assert loop.value(NAME("events_missing_total"), destination="warehouse") == 1
        # Those of the comparison included.
        wait_until(lambda: loop.value(NAME("api_requests_total"), code="200") == len(api.requests) - before)
        assert loop.value(NAME("events_missing_total"), destination="lake") == 0


@pytest.mark.integration
def test_an_account_that_is_refused_is_told(api: Api, environment: Mapping[str, str], tmp_path: Path) -> None:
    """By metric, and by a line of /readyz; the process is alive all the same."""
    api.faults.append(Fault(account_id=OTHER_ACCOUNT, status=403, times=None))
    api.faults.append(Fault(account_id=ACCOUNT, status=503, times=1))

    with watched_loop(environment, tmp_path, CLOUDFLARE_ACCOUNT_ID=f"{ACCOUNT},{OTHER_ACCOUNT}") as loop:
        wait_until(lambda: loop.value(NAME("account_refused"), account=OTHER_ACCOUNT) == 1)
        wait_until(lambda: loop.value(NAME("account_up"), account=ACCOUNT) == 1)
        ready, alive = loop.get("/readyz"), loop.get("/livez")

        assert loop.value(NAME("api_requests_total"), code="403") == 1
        assert (loop.value(NAME("api_requests_total"), code="503"), loop.value(NAME("api_retries_total"))) == (1, 1)
        assert loop.value(NAME("account_refused"), account=ACCOUNT) == 0
    assert (ready.status_code, alive.status_code) == (503, 200)
    assert f"account {OTHER_ACCOUNT} v1: the API refuses the token" in ready.text
    assert f"account {ACCOUNT} v1:" not in ready.text


@pytest.mark.integration
def test_a_destination_that_is_down_is_told(api: Api, environment: Mapping[str, str], tmp_path: Path) -> None:
    """The other one is up."""
    api.world.add(ACCOUNT, "v1", [event_at(ago(minutes=1))])
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    with watched_loop(environment, tmp_path, PG_PORT=str(port)) as loop:
        wait_until(lambda: loop.value(NAME("events_stored_total"), destination="lake") == 1)
        ready = loop.get("/readyz")

        assert loop.value(NAME("destination_up"), destination="warehouse") == 0
        assert loop.value(NAME("destination_up"), destination="lake") == 1
    assert ready.status_code == 503
    assert re.search("^warehouse: ", ready.text, re.MULTILINE)
    assert not re.search("^lake: ", ready.text, re.MULTILINE)


@pytest.mark.integration
def test_a_clock_that_is_off_is_told_until_it_is_right(
    api: Api, environment: Mapping[str, str], tmp_path: Path
) -> None:
    """Nothing is loaded meanwhile."""
    with watched_loop(environment, tmp_path) as loop:
        wait_until(lambda: loop.get("/readyz").ok)
        api.behaviour.clock_offset_seconds = 600
        wait_until(lambda: loop.value(NAME("reading_abandoned")) == 1)
        ready = loop.get("/readyz")
        api.behaviour.clock_offset_seconds = 0
        wait_until(lambda: loop.get("/readyz").ok)

        assert loop.value(NAME("reading_abandoned")) == 0
    assert re.match(r"polling: this host's clock is \d+ s behind the API's", ready.text)


@pytest.mark.integration
def test_labels_are_few_and_name_no_person(api: Api, environment: Mapping[str, str], tmp_path: Path) -> None:
    """Account, destination, version and code: nothing that comes from an event."""
    api.world.add(ACCOUNT, "v1", [event_at(ago(minutes=1), actor={"email": "eve@example.com", "ip": "203.0.113.9"})])

    with watched_loop(environment, tmp_path) as loop:
        wait_until(lambda: loop.get("/readyz").ok)
        told = loop.get("/metrics").text + loop.get("/readyz").text
        labels = {name for _, its in loop.samples() for name, _ in its}

    assert labels == {"account", "destination", "version", "code", "le"}
    assert not re.search(r"@|203\.0\.113|simulated-token", told)


@pytest.mark.integration
@pytest.mark.parametrize(("host", "is_open"), [(None, False), ("0.0.0.0", True)])  # noqa: S104  # what is tested
def test_only_this_host_is_answered_unless_the_settings_say_so(
    environment: Mapping[str, str], tmp_path: Path, host: str | None, *, is_open: bool
) -> None:
    """Another address of loopback stands for the network here."""
    with watched_loop(environment, tmp_path, **({"METRICS_HOST": host} if host else {})) as loop:
        elsewhere = loop._replace(host="127.0.0.2")
        try:
            has_answered = elsewhere.get("/livez").ok
        except requests.ConnectionError:
            has_answered = False

        assert loop.get("/livez").ok
        assert loop.get("/").status_code == 404
    assert has_answered == is_open


@pytest.mark.integration
def test_a_port_in_use_is_one_clear_error(
    api: Api, command: Callable[..., Finished], environment: Mapping[str, str]
) -> None:
    """It names the setting, and nothing was asked or loaded."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = command("pipelines/run.py", METRICS_PORT=str(taken.getsockname()[1]))

    errors = [line for line in done.err.splitlines() if "ERROR" in line]
    assert (done.code, len(errors), api.requests) == (1, 1, [])
    assert "METRICS_PORT" in errors[0]
    assert "Traceback" not in done.err
    assert not (Path(environment["DATA_DIR"]) / "lake").exists()


@pytest.mark.integration
@pytest.mark.parametrize("host", ["192.0.2.1", "a..b"])
def test_an_address_of_another_host_is_one_clear_error(command: Callable[..., Finished], host: str) -> None:
    """As above."""
    done = command("pipelines/run.py", METRICS_PORT="0", METRICS_HOST=host)

    assert done.code == 1
    assert f"METRICS_HOST {host} cannot be listened at" in done.err
    assert "Traceback" not in done.err


@pytest.mark.integration
def test_one_poll_serves_nothing(command: Callable[..., Finished]) -> None:
    """It would be gone before anyone asked, and must not stand in the way of a loop's port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = command("pipelines/run.py", "--once", METRICS_PORT=str(taken.getsockname()[1]))

    assert done.code == 0, done.err


# --- alive ------------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(clock: Clock) -> Progress:
    environment = {"CLOUDFLARE_API_TOKEN": "t", "CLOUDFLARE_ACCOUNT_ID": "a", "METRICS_PORT": "0"}
    return Progress(read_settings(environment, now=START), clock=clock)


@pytest.fixture
def livez(progress: Progress) -> Iterator[Callable[[], requests.Response]]:
    """Asks a server of a run that stands still."""
    environment = {"CLOUDFLARE_API_TOKEN": "t", "CLOUDFLARE_ACCOUNT_ID": "a", "METRICS_PORT": str(_free_port())}
    settings = read_settings(environment, now=START)
    with serving_health(Running(settings, Report(), [], progress), lambda: START):
        yield lambda: requests.get(f"http://127.0.0.1:{settings.metrics_port}/livez", timeout=5)


def test_it_is_alive_as_long_as_something_is_finished(
    livez: Callable[[], requests.Response], clock: Clock, progress: Progress
) -> None:
    """Otherwise it says for how long nothing was."""
    clock.now = 959
    before = livez()
    clock.now = 961
    stuck = livez()
    progress.note()

    again = livez()
    head = requests.head(again.url, timeout=5)

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
    """Of the next poll, of a load until its deadline, of an answer that trickles; and a minute's grace."""
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


# --- the visibility lag -----------------------------------------------------------------------------------------------


def _poll(measured: Measurements, begun: datetime, age: timedelta | None = None, *, is_sweep: bool = False) -> None:
    """A poll that is loaded, with an event that is so old when it is read."""
    raw = [event_at(begun - age).raw] if age is not None else []
    page = decode_page(raw, STREAM, begun)
    part = Part(Window(begun - timedelta(hours=1), begun), [page], is_last=True)
    batch = Batch(START, begun, [page])
    step = Step({STREAM: part}, len(raw), is_last=True)
    positions = {STREAM: Position(START, begun)}
    new = {STREAM: batch} if raw else {}
    measured.add_load(LoadedStep("lake", step, new, positions, is_sweep, begun, begun, 0.1))


def _lags(measured: Measurements) -> tuple[int, float]:
    histogram = measured.flow("lake", STREAM).visibility_lag
    return sum(histogram.counts), histogram.sum


def test_the_lag_is_measured_from_the_second_poll_on() -> None:
    """Of an event that is new then."""
    measured = Measurements(timedelta(seconds=30))

    _poll(measured, START, timedelta(hours=3))
    _poll(measured, START + MINUTE, timedelta(minutes=5))

    assert _lags(measured) == (1, 300.0)


@pytest.mark.parametrize("reason", ["a pause", "a failure", "a sweep"])
def test_the_lag_is_not_measured_where_we_did_not_look(reason: str) -> None:
    """After a pause or a failure, and by a sweep, an event may be old when it is first read, and was visible before."""
    measured = Measurements(timedelta(seconds=30))
    _poll(measured, START)

    if reason == "a failure":
        measured.add_failure("lake")
    after = 10 * MINUTE if reason == "a pause" else MINUTE
    _poll(measured, START + after, timedelta(minutes=9), is_sweep=reason == "a sweep")

    assert _lags(measured) == (0, 0.0)
    assert measured.flow("lake", STREAM).stored == 1


def test_a_clock_that_is_behind_makes_no_negative_lag() -> None:
    """A histogram's sum never falls."""
    measured = Measurements(timedelta(seconds=30))
    _poll(measured, START)

    _poll(measured, START + MINUTE, -MINUTE)

    assert _lags(measured) == (1, 0.0)


# --- the documents ----------------------------------------------------------------------------------------------------


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    """docs/metrics.md has each metric with its kind, labels and meaning, and no other."""
    kinds = {metric: metric.kind(metric.name, metric.meaning).type for metric in METRICS}
    rows = [
        f"| `{metric.name}` | {kinds[metric]} | {', '.join(metric.labels)} | {metric.meaning} |" for metric in METRICS
    ]

    in_docs = re.findall(r"^\| `cloudflare_audit_.*$", (PROJECT_ROOT / "docs/metrics.md").read_text(), re.MULTILINE)

    assert in_docs == rows


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
