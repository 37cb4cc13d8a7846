"""Runs in the worker processes of a Dask cluster: does units by settings and secrets of the worker's own.

Each thread opens its stores at its first unit of a command and keeps them until that command ends. No secret goes over
the network, in either direction.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from distributed import Reschedule, WorkerPlugin, get_worker
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

from pipelines.fetch.api import StopRequestedError
from pipelines.host.file_lock import free_number
from pipelines.host.masking import mask_error
from pipelines.lake.destination import Lake
from pipelines.load.store import client_of
from pipelines.settings.settings import (
    PROJECT_ROOT,
    Settings,
    SettingsError,
    begin_logs,
    read_environment,
    read_settings,
)
from pipelines.warehouse.destination import Warehouse
from sources.cloudflare_audit_logs.errors import AuditLogsError

from .shared import Shared
from .units import OpenUnit, UnfitWorkerError, is_of_all_units


@dataclass(frozen=True)
class Job:
    """A command, as it is sent to its workers."""

    name: str
    """Unlike that of any other job, at any time."""
    open_unit: OpenUnit
    asks_api: bool
    whereabouts: Mapping[str, str] = field(compare=False)


@dataclass
class _Thread:
    """The function that does units, and what it has opened. The lock is held while it runs."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    stack: ExitStack = field(default_factory=ExitStack)
    work: Callable[[Any], Any] | None = None


class _Running:
    """A job in this process."""

    def __init__(self, job: Job) -> None:
        self._job, self._settings, self.shared = job, _settings_for(job), Shared()
        self._threads: dict[int, _Thread] = {}

    def do(self, unit: Any) -> Any:
        """Does a unit with what this thread has opened, or opens it."""
        thread = self._threads.setdefault(threading.get_ident(), _Thread())
        with thread.lock:
            if self.shared.stop.is_set():
                raise StopRequestedError
            if thread.work is None:
                workers = self._settings.stores.data_dir / "dlt" / "workers"
                name = f"worker_{thread.stack.enter_context(free_number(workers))}"
                thread.work = thread.stack.enter_context(self._job.open_unit(self._settings, self.shared, name))
            return thread.work(unit)

    def close(self, *, waits: bool) -> None:
        """Closes what the threads have opened: waits for those that do a unit, or leaves them out."""
        for thread in list(self._threads.values()):
            if thread.lock.acquire(blocking=waits):
                try:
                    thread.work = None
                    thread.stack.close()
                finally:
                    thread.lock.release()


_jobs: dict[str, _Running] = {}
_jobs_lock = threading.Lock()


def do_unit(job: Job, processes: int, unit: Any) -> Any:
    """Returns the result of a unit, or its error. The tokens' budgets are divided by the number of processes."""
    try:
        running = _running(job, get_worker())
        running.shared.budgets.divide_by(processes)
        return running.do(unit)
    except StopRequestedError:  # this worker is being stopped: that is not the unit's fault
        raise Reschedule from None
    except AuditLogsError as error:
        if is_of_all_units(error):
            error.message = f"{get_worker().address}: {error.message}"
        mask_error(error)
        return error
    except Exception as error:
        mask_error(error)
        raise


async def begin(job: Job, dask_worker: Any) -> AuditLogsError | None:
    """Begins a job; returns why this worker cannot do it, if so. A raised OSError is thus never ours."""
    try:
        await asyncio.to_thread(_running, job, dask_worker)
    except AuditLogsError as error:
        mask_error(error)
        return error
    return None


async def end(job: Job, dask_worker: Any) -> None:
    """Ends a job after its last unit."""
    if job.name in dask_worker.plugins:
        await dask_worker.plugin_remove(job.name)


class _Ending(WorkerPlugin):
    """Ends a job in this process when it is removed: after the last unit, or when the worker stops."""

    def __init__(self, job: Job) -> None:
        self._job = job

    async def teardown(self, worker: Any) -> None:  # noqa: ARG002  # the hook's name
        """Stops the units that run, and closes all that was opened."""
        if running := _jobs.get(self._job.name):
            running.shared.stop.set()
            await asyncio.to_thread(running.close, waits=True)


def _running(job: Job, worker: Any) -> _Running:
    with _jobs_lock:
        if job.name not in _jobs:
            for other in _jobs.values():  # whose command may have been killed
                other.close(waits=False)
            _jobs[job.name] = _Running(job)
            worker.loop.add_callback(worker.plugin_add, _Ending(job), name=job.name)
        return _jobs[job.name]


def _settings_for(job: Job) -> Settings:
    """Reads the worker's own settings anew; raises UnfitWorkerError if they are wrong, or name other places."""
    begin_logs()
    Container()[PluggableRunContext].reload(str(PROJECT_ROOT))  # dlt reads them once a process
    try:
        settings = read_settings(read_environment(), now=datetime.now(UTC), asks_api=job.asks_api)
        here = whereabouts(settings, asks_api=job.asks_api)
    except (SettingsError, AuditLogsError, OSError) as error:
        detail = "; ".join(str(error).splitlines())
        raise UnfitWorkerError("the worker's settings are not right", detail=detail) from None
    for name, there in job.whereabouts.items():
        if here.get(name) != there:
            detail = f"the {name} is {here.get(name)} there and {there} here"
            raise UnfitWorkerError("the worker's settings name another place", detail=detail)
    return settings


def whereabouts(settings: Settings, *, asks_api: bool) -> dict[str, str]:
    """Returns what has to be the same for command and workers, by name and without secrets, as dlt resolves it."""
    stores, lake = settings.stores, client_of(Lake()).config
    found = {"lake": str(lake.bucket_url), "warehouse": f"embedded PostgreSQL in {stores.postgres_dir}"}
    if endpoint := getattr(lake.credentials, "endpoint_url", None):
        found["lake"] += f" at {endpoint}"
    if stores.postgres is not None:
        login = client_of(Warehouse.of(stores)).config.credentials
        found["warehouse"] = f"{login.host}:{login.port}/{login.database}"
    found["warehouse"] += f", schema {stores.postgres_schema}"
    found["TIMESCALE_RETENTION_DAYS"] = str(stores.timescale.retention_days)
    if asks_api:
        accounts = sorted((a.id, a.api_versions, a.hide_user_logs) for a in settings.accounts.values())
        digest = sha256(repr(accounts).encode()).hexdigest()[:8]
        found["API"] = settings.api_url
        found["accounts, versions and what is hidden of them"] = f"{len(accounts)} ({digest})"
    if stores.postgres is None or found["lake"].startswith("file:"):
        found["host, which a folder or an embedded PostgreSQL asks to be one"] = socket.gethostname()
    return found
