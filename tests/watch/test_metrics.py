"""Metrics and health show from outside if the pipeline works, and why not."""

import re
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from prometheus_client.process_collector import ProcessCollector

from benchmarks.servers.commands import Finished, wait_until
from pipelines.loop.report import Report
from pipelines.proof.compare import STORES
from pipelines.settings.settings import PROJECT_ROOT
from pipelines.watch.metrics import METRICS, OwnProcess
from simulator.api import Api, Fault
from sources.cloudflare_audit_logs.streams import Stream
from tests.factory import ACCOUNT, OTHER_ACCOUNT, ago, event_at, raw_event, spread
from tests.stores import Stores
from tests.watching import watched_loop

NAME = "cloudflare_audit_{}".format
STREAM = Stream(ACCOUNT, "v1")
START = datetime(2026, 11, 20, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_the_process_is_measured_where_proc_has_processes_alone(tmp_path: Path) -> None:
    """With systemd's ProcSubset=pid, the start time is there and stays the same: AuditRestarting needs it."""
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
    """An address that is not this host's is one line, without a traceback."""
    done = command("pipelines/run.py", METRICS_PORT="0", METRICS_HOST=host)

    assert done.code == 1
    assert f"cannot listen on {host}:0 (METRICS_HOST, METRICS_PORT)" in done.err
    assert "Traceback" not in done.err


@pytest.mark.integration
def test_one_poll_serves_nothing(command: Callable[..., Finished]) -> None:
    """It would be gone before anyone asked, and must not stand in the way of a loop's port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = command("pipelines/run.py", "--once", METRICS_PORT=str(taken.getsockname()[1]))

    assert done.code == 0, done.err


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    """docs/watch/metrics.md has each metric with its kind, labels and meaning, and no other."""
    kinds = {metric: metric.kind(metric.name, metric.meaning).type for metric in METRICS}
    rows = [
        f"| `{metric.name}` | {kinds[metric]} | {', '.join(metric.labels)} | {metric.meaning} |" for metric in METRICS
    ]

    in_docs = re.findall(
        r"^\| `cloudflare_audit_.*$", (PROJECT_ROOT / "docs/watch/metrics.md").read_text(), re.MULTILINE
    )

    assert in_docs == rows
