"""A run announces itself: metrics in a file, whole at any moment, and a heartbeat only when all was loaded."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished, process_of, wait_until
from simulator.api import Api
from tests.factory import ACCOUNT, ago, spread

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]
ONCE = ("pipelines/run.py", "--once")
SECRET = "/ping/7e5b1a52-90ab-4f6e-8d3c-2f6f0c0a1b2d?from=audit"

DEAD = "http://127.0.0.1:1"


@dataclass
class Switch:
    """Somebody who expects heartbeats."""

    url: str = ""
    status: int = 200
    seconds: float = 0
    beats: list[str] = field(default_factory=list)


@pytest.fixture
def switch() -> Iterator[Switch]:
    """Serves on loopback; answers as it is told."""
    found = Switch()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.beats.append(self.path)
            time.sleep(found.seconds)
            self.send_response(found.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found.url = f"http://127.0.0.1:{server.server_address[1]}{SECRET}"
        yield found
        server.shutdown()


def test_one_poll_leaves_its_metrics_in_the_file_and_one_heartbeat(
    api: Api, command: Command, switch: Switch, tmp_path: Path
) -> None:
    """The names are those of /metrics but for the process's own, which node_exporter has itself."""
    api.world.add(ACCOUNT, "v1", spread(20, ago(hours=2), ago(minutes=1)))
    file = tmp_path / "audit.prom"

    done = command(*ONCE, METRICS_TEXTFILE=str(file), HEARTBEAT_URL=switch.url)

    assert (done.code, switch.beats) == (0, [SECRET]), done.err
    assert (file.stat().st_mode & 0o777, [path.name for path in tmp_path.glob("*.prom*")]) == (0o644, ["audit.prom"])
    of_stream = rf'{{account="{ACCOUNT}",destination="lake",version="v1"}}'
    samples = dict(re.findall(r"^(cloudflare_\S+) (\S+)$", file.read_text(), re.MULTILINE))
    assert float(samples[f"cloudflare_audit_events_stored_total{of_stream}"]) == 20
    assert float(samples[f"cloudflare_audit_last_success_timestamp_seconds{of_stream}"]) > time.time() - 3600
    assert float(samples[f'cloudflare_audit_gap_hours{{account="{ACCOUNT}",version="v1"}}']) == 0
    assert re.findall(r"^(?!#|cloudflare_audit_).+", file.read_text(), re.MULTILINE) == []


def test_a_run_in_which_something_failed_sends_no_heartbeat(
    api: Api, command: Command, switch: Switch, tmp_path: Path
) -> None:
    """Its metrics are in the file all the same."""
    api.world.add(ACCOUNT, "v1", spread(20, ago(hours=2), ago(minutes=1)))
    file = tmp_path / "audit.prom"

    done = command(*ONCE, METRICS_TEXTFILE=str(file), HEARTBEAT_URL=switch.url, PG_PORT="1")

    assert (done.code, switch.beats) == (75, []), done.err
    assert 'cloudflare_audit_destination_up{destination="lake"} 1.0' in file.read_text()
    assert 'cloudflare_audit_destination_up{destination="warehouse"} 0.0' in file.read_text()


@pytest.mark.parametrize("is_there", [True, False])
def test_an_announcement_that_fails_is_a_warning_and_no_more(
    api: Api, command: Command, switch: Switch, tmp_path: Path, *, is_there: bool
) -> None:
    """The events are loaded, the exit code is theirs, and the log does not show the URL."""
    api.world.add(ACCOUNT, "v1", spread(20, ago(hours=2), ago(minutes=1)))
    switch.status = 500
    url = switch.url if is_there else f"http://127.0.0.1:1{SECRET}"

    done = command(*ONCE, "--json", METRICS_TEXTFILE=str(tmp_path / "missing" / "audit.prom"), HEARTBEAT_URL=url)

    assert (done.code, done.report["new"]) == (0, {"warehouse": 20, "lake": 20})
    assert ("heartbeat.failed" in done.err, "metrics_file.failed" in done.err) == (True, True), done.err
    assert SECRET[-20:] not in done.err


@contextmanager
def _loop(environment: dict[str, str], **changes: str) -> Iterator[None]:
    with process_of(environment, "pipelines/run.py", POLL_INTERVAL_SECONDS="0.3", **changes):
        yield


def test_the_loop_announces_each_poll(environment: dict[str, str], switch: Switch, tmp_path: Path) -> None:
    """The file is replaced, so that nobody reads half of it."""
    file = tmp_path / "audit.prom"

    with _loop(environment, METRICS_TEXTFILE=str(file), HEARTBEAT_URL=switch.url):
        wait_until(lambda: len(switch.beats) > 2 and file.exists())
        first = file.stat().st_ino, file.read_text()
        wait_until(lambda: (file.stat().st_ino, file.read_text()) != first)

    assert "cloudflare_audit_build_info" in file.read_text()


def test_a_run_that_another_one_locks_out_leaves_that_ones_file_alone(
    command: Command, environment: dict[str, str], tmp_path: Path
) -> None:
    """Else a second `run --once` beside the loop would say that both destinations are down."""
    file = tmp_path / "audit.prom"
    environment |= {"METRICS_TEXTFILE": str(file), "POLL_INTERVAL_SECONDS": "3600"}
    with process_of(environment, "pipelines/run.py"):
        wait_until(lambda: file.exists() and file.read_text().count("destination_up{") == 2)
        wait_until(lambda: re.findall(r"destination_up{.*} (.+)", file.read_text()) == ["1.0", "1.0"])
        before = file.stat().st_ino

        second = command(*ONCE)

        after = file.stat().st_ino
    assert (second.code, after) == (75, before), second.err


def test_a_run_whose_destinations_are_down_writes_its_file(command: Command, tmp_path: Path) -> None:
    """Nobody else would say so."""
    file = tmp_path / "audit.prom"

    done = command(*ONCE, METRICS_TEXTFILE=str(file), PG_PASSWORD="wrong", S3_BUCKET="no-such", S3_ENDPOINT=DEAD)

    assert done.code != 0
    assert re.findall(r"destination_up{.*} (.+)", file.read_text()) == ["0.0", "0.0"]


def test_a_switch_that_hangs_holds_up_no_poll(api: Api, environment: dict[str, str], switch: Switch) -> None:
    """Polls go on while one heartbeat waits for its answer."""
    switch.seconds = 60

    with _loop(environment, HEARTBEAT_URL=switch.url):
        wait_until(lambda: bool(switch.beats))
        asked = len(api.requests)
        wait_until(lambda: len(api.requests) > asked + 5)

    assert len(switch.beats) == 1


def test_the_log_is_json_and_as_quiet_as_it_is_asked_to_be(api: Api, command: Command) -> None:
    """Each line is an object with time, level and event; numbers are numbers."""
    api.world.add(ACCOUNT, "v1", spread(20, ago(hours=2), ago(minutes=1)))

    done = command(*ONCE, LOG_FORMAT="json")
    quiet = command(*ONCE, LOG_LEVEL="warning")
    wrong = command("pipelines/psql.py", "-c", "SELECT 1", LOG_LEVEL="loud", LOG_FORMAT="xml")

    lines = [json.loads(line) for line in done.err.splitlines()]
    assert {"run.started", "load.finished"} <= {line["event"] for line in lines}
    assert all(line.keys() >= {"time", "level", "event"} for line in lines)
    assert [line["new"] for line in lines if line["event"] == "load.finished"] == [20, 20]
    assert (quiet.code, quiet.err) == (0, "")
    assert wrong.code == 2
    assert "LOG_LEVEL ('loud') is not one of info, warning, error" in wrong.err
    assert "LOG_FORMAT ('xml') is not one of text, json" in wrong.err


def test_a_file_that_node_exporter_would_not_read_is_a_wrong_setting(command: Command) -> None:
    """So is a heartbeat that is no URL, which is not shown."""
    done = command(*ONCE, METRICS_TEXTFILE="metrics.txt", HEARTBEAT_URL="hc-ping.example/abc-def-ghi")

    assert done.code == 2
    assert "METRICS_TEXTFILE ('metrics.txt') is not the name of a file that node_exporter reads" in done.err
    assert "HEARTBEAT_URL is not a URL" in done.err
    assert "abc-def" not in done.err
