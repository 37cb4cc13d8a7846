"""Polls the main job in this process, with a clock of its own: each poll finds only new events."""

import os
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

from pipelines.cli.main_job import run
from pipelines.settings.settings import PROJECT_ROOT, PostgresSettings, read_environment, read_settings
from simulator.api import Api
from simulator.server import serving
from simulator.world import Plan, World, build_world

from .servers.postgres import settings_of

ACCOUNT = "0f9e8d7c6b5a49382716f5e4d3c2b1a0"
TOKEN = "simulated"  # noqa: S105  # of the simulator
BETWEEN_POLLS = timedelta(minutes=20)
"""More than the safety lag, so that no poll reads the previous poll's events again."""


class Poller:
    """Polls into one warehouse, with a lake and an API of its own."""

    def __init__(self, server: PostgresSettings, schema: str, folder: Path, start: datetime) -> None:
        self._now, self._number = start, 0
        self._api = Api(World([ACCOUNT]), token=TOKEN, clock=lambda: self._now)
        self._environment = {
            "CLOUDFLARE_API_TOKEN": TOKEN,
            "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
            "CLOUDFLARE_API_VERSION": "v1",
            "INITIAL_CHECKPOINT": (start - timedelta(minutes=1)).isoformat(),
            "DATA_DIR": str(folder),
            "SWEEP_INTERVAL_SECONDS": "0",
            "RECONCILE_AFTER_HOURS": "0",
            **settings_of(server),
            "PG_SCHEMA": schema,
        }

    def poll(self, *, events: int) -> float:
        """Adds so many events, polls, and returns the seconds of the poll."""
        self._number += 1
        self._now += BETWEEN_POLLS
        since, at_once = self._now - timedelta(minutes=5), timedelta()
        plan = Plan((ACCOUNT,), ("v1",), events, since, self._now, seed=self._number, delay=at_once)
        self._api.world.add(ACCOUNT, "v1", build_world(plan).events(ACCOUNT, "v1"))
        with serving(self._api) as api:
            os.environ.update(self._environment, CLOUDFLARE_API_URL=api.url)
            Container()[PluggableRunContext].reload(str(PROJECT_ROOT))
            settings = read_settings(read_environment(), now=self._now)
            begun = time.perf_counter()
            report = run(settings, once=True, stop=threading.Event(), clock=lambda: self._now)
            spent = time.perf_counter() - begun
        if report.new != {"warehouse": events, "lake": events}:
            msg = f"a poll of {events} events brought {dict(report.new)}: {report}"
            raise RuntimeError(msg)
        return spent
