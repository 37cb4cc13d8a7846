"""After whatever happened has settled, both destinations hold what was visible, once, and no cursor is past a gap.

A state machine over: an event becomes visible, in time or late; a poll; a poll that is killed at some step, with all
that it remembered; a destination fails and returns; the clock moves, by minutes or days; the host is lost; a sweep. It
runs the main job on a real PostgreSQL and a folder, by a clock of its own. The kill is an exception that nothing
catches: real ones are `test_killed_anywhere`'s business. MODEL_EXAMPLES says how many histories are tried.
"""

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext
from dlt.common.versioned_state import decompress_state
from dlt.destinations.impl.filesystem.filesystem import FilesystemClient
from dlt.pipeline.pipeline import Pipeline
from hypothesis import HealthCheck, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from pipelines.cli.main_job import run
from pipelines.lake.objects import lock_path
from pipelines.load.loader import Loader, Sidecar
from pipelines.settings.settings import PROJECT_ROOT, PostgresSettings, read_environment, read_settings
from pipelines.warehouse.dlt_client import WarehouseClient
from simulator.api import Api
from simulator.server import serving
from simulator.world import SimulatedEvent, World
from sources.cloudflare_audit_logs import Stream, stored_position
from tests.conftest import TOKEN
from tests.factory import ACCOUNT, event_at, ids
from tests.stores import Stores, drop_schemas

pytestmark = pytest.mark.integration

PARTS = 4
"""Run side by side."""
EXAMPLES = -(-int(os.environ.get("MODEL_EXAMPLES", "20")) // PARTS)
"""Histories of each part."""
LAG = timedelta(minutes=15)
IN_TIME = st.integers(0, 14 * 60).map(lambda seconds: timedelta(seconds=seconds))
LATE = st.integers(20, 20 * 60).map(lambda minutes: timedelta(minutes=minutes))
STREAMS = [Stream(ACCOUNT, "v1"), Stream(ACCOUNT, "v2")]
STEPS: dict[str, tuple[Any, str]] = {
    "open": (Loader, "open"),
    "load": (Loader, "load"),
    "sweep": (Sidecar, "load"),
    "extract": (Pipeline, "extract"),
    "normalize": (Pipeline, "normalize"),
    "the warehouse's state": (WarehouseClient, "complete_load"),
    "the lake's state": (FilesystemClient, "_store_load"),
}
_numbers = count(1)


class KilledError(BaseException):
    """Nothing catches it."""


@dataclass(frozen=True)
class Servers:
    """The servers that all histories share."""

    environment: Mapping[str, str]
    postgres: PostgresSettings
    folder: Path
    monkeypatch: pytest.MonkeyPatch


class History(RuleBasedStateMachine):
    """One history, in a schema and a folder of its own."""

    servers: Servers

    def __init__(self) -> None:
        super().__init__()
        number = next(_numbers)
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.begin = self.now - timedelta(days=3)
        self.api = Api(World([ACCOUNT]), token=TOKEN, clock=lambda: self.now)
        self.api.behaviour.requests_per_window = 1_000_000
        self.events: dict[Stream, list[SimulatedEvent]] = {stream: [] for stream in STREAMS}
        self.server = serving(self.api)
        data = self.servers.folder / str(number)
        self.environment = {
            **self.servers.environment,
            "CLOUDFLARE_API_URL": self.server.__enter__().url,
            "CLOUDFLARE_PER_PAGE": "5",
            "INITIAL_CHECKPOINT": self.begin.isoformat(),
            "SWEEP_INTERVAL_SECONDS": "0",
            "PG_SCHEMA": f"model_{os.getpid()}_{number}",
            "DATA_DIR": str(data),
        }
        self.stores = Stores(self.servers.postgres, self.environment["PG_SCHEMA"], data / "lake")

    @rule(events=st.lists(st.tuples(st.sampled_from(STREAMS), IN_TIME, IN_TIME), min_size=1, max_size=6))
    def events_become_visible_in_time(self, events: list[tuple[Stream, timedelta, timedelta]]) -> None:
        for stream, age, delay in events:
            time = self.now - age
            self._add(stream, time, visible_at=max(self.now, time + delay))

    @rule(stream=st.sampled_from(STREAMS), lateness=LATE)
    def an_event_becomes_visible_late(self, stream: Stream, lateness: timedelta) -> None:
        self._add(stream, self.now - lateness, visible_at=self.now)

    @rule(minutes=st.integers(1, 200))
    def the_clock_moves(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule(hours=st.integers(20, 60))
    def nothing_runs_for_long(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    @rule()
    def the_host_is_lost(self) -> None:
        for folder in ("dlt", "sweeps"):
            shutil.rmtree(Path(self.environment["DATA_DIR"]) / folder, ignore_errors=True)

    @rule(minutes=st.integers(0, 60))
    def poll(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)
        self._run()

    @rule()
    def sweep(self) -> None:
        self._run(SWEEP_INTERVAL_SECONDS="1")

    @rule(step=st.sampled_from(sorted(STEPS)), when=st.sampled_from(["before", "after"]), nth=st.integers(1, 2))
    def poll_and_be_killed(self, step: str, when: str, nth: int) -> None:
        with _killed_at(self.servers.monkeypatch, step, when, nth):
            try:
                self._run(SWEEP_INTERVAL_SECONDS="1")
            except KilledError:
                return

    @rule()
    def poll_without_the_warehouse(self) -> None:
        self._run(PG_PORT="1")

    @rule()
    def poll_without_the_lake(self) -> None:
        path = lock_path(self.stores.lake, "writer")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._run()

    @rule()
    def settle(self) -> None:
        """Everything is visible and in order; two polls and a sweep make it good."""
        self.now += LAG
        self._run()
        self._run(SWEEP_INTERVAL_SECONDS="1")

        expected = sorted(event_id for events in self.events.values() for event_id in ids(events))
        assert self.stores.ids() == (expected, expected)

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.server.__exit__(None, None, None)
            drop_schemas(self.servers.postgres, self.stores.schema)

    def _add(self, stream: Stream, time: datetime, *, visible_at: datetime) -> None:
        if time < self.begin:
            return
        event = event_at(time, visible_at=visible_at, version=stream.api_version)
        self.events[stream].append(event)
        self.api.world.add(ACCOUNT, stream.api_version, [event])

    def _run(self, **changes: str) -> None:
        for name, value in {**self.environment, **changes}.items():
            self.servers.monkeypatch.setenv(name, value)
        Container()[PluggableRunContext].reload(str(PROJECT_ROOT))
        checked = read_settings(read_environment(), now=self.now + timedelta(days=1))
        report = run(checked, once=True, stop=threading.Event(), clock=lambda: self.now)
        self._check_polled(except_for=report.failures.destinations.keys())
        self._check_cursors()

    def _check_polled(self, except_for: Collection[str]) -> None:
        """An event that became visible within the lag is stored by the next poll that reaches the destination."""
        expected = set()
        for events in self.events.values():
            in_time = [event for event in events if event.visible_at - event.time < LAG]
            expected |= ids([event for event in in_time if event.time < self.now and event.visible_at <= self.now])
        for name, held in {"warehouse": self.stores.warehouse_ids, "lake": self.stores.lake_ids}.items():
            assert name in except_for or expected <= set(held()), f"a poll of the {name} has left something out"

    def _check_cursors(self) -> None:
        """An event that is missing below cursor minus lag was not yet visible at the time of the poll."""
        held_by = {"warehouse": self.stores.warehouse_ids, "lake": self.stores.lake_ids}
        for name, state in self._states().items():
            held = set(held_by[name]())
            for stream in STREAMS:
                position = stored_position(state, stream)
                passed = [
                    event
                    for event in self.events[stream]
                    if position and event.time < position.cursor - LAG and event.visible_at - event.time < LAG
                ]
                assert ids(passed) <= held, f"the cursor of the {name} has passed what is missing"

    def _states(self) -> dict[str, Any]:
        states: dict[str, Any] = {}
        if self.stores.query("SELECT to_regclass('{schema}._dlt_loads') AS name")[0]["name"]:
            rows = self.stores.query(
                "SELECT state FROM {schema}._dlt_pipeline_state JOIN {schema}._dlt_loads ON load_id = _dlt_load_id"
                " WHERE pipeline_name = 'cloudflare_audit_warehouse' ORDER BY load_id DESC LIMIT 1"
            )
            states["warehouse"] = decompress_state(rows[0]["state"]) if rows else {}
        files = sorted((self.stores.lake / "cloudflare" / "_dlt_pipeline_state").glob("cloudflare_audit_lake__*"))
        if files:
            states["lake"] = decompress_state(json.loads(files[-1].read_text())["state"])
        return states


@contextmanager
def _killed_at(monkeypatch: pytest.MonkeyPatch, step: str, when: str, nth: int) -> Iterator[None]:
    owner, name = STEPS[step]
    original: Callable[..., Any] = getattr(owner, name)
    passed = [0]

    def deadly(*arguments: Any, **named: Any) -> Any:
        passed[0] += 1
        if passed[0] == nth and when == "before":
            raise KilledError
        result = original(*arguments, **named)
        if passed[0] == nth and when == "after":
            raise KilledError
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, deadly)
        yield


@pytest.mark.wide
@pytest.mark.timeout(300 * max(EXAMPLES, 3))
@pytest.mark.usefixtures("both_versions")
@pytest.mark.parametrize("_part", range(PARTS))
def test_after_any_history_that_settles_both_destinations_hold_what_was_visible_once(
    _part: int, environment: dict[str, str], postgres: PostgresSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every event once, nothing else, and never a cursor past a gap on the way."""
    servers = Servers(environment, postgres, tmp_path, monkeypatch)
    machine = type("History", (History,), {"servers": servers})

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=10,
            deadline=None,
            verbosity=Verbosity.normal,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
