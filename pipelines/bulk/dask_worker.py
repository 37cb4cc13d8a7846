"""What runs in the worker processes of a Dask cluster: units, by settings and secrets of the worker's own.

Each thread opens its stores at its first unit of a command and keeps them until that command ends. Nothing that comes
over the network has a secret in it, and nothing that goes back.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from distributed import Reschedule, WorkerPlugin, get_worker
from dlt.common.configuration.container import Container
from dlt.common.configuration.specs.pluggable_run_context import PluggableRunContext

from pipelines.fetch.api import StopRequestedError
from pipelines.host.file_lock import free_number
from pipelines.host.logs import configure_logs
from pipelines.host.masking import mask_error
from pipelines.settings.settings import PROJECT_ROOT, Settings, SettingsError, read_environment, read_settings
from sources.cloudflare_audit_logs.errors import AuditLogsError

from .shared import Shared
from .units import OpenUnit, UnfitWorkerError, is_of_all_units
from .whereabouts import whereabouts


@dataclass(frozen=True)
class Job:
    """A command, as its workers know it."""

    name: str
    """That no other one has, at any time."""
    open_unit: OpenUnit
    asks_api: bool
    whereabouts: Mapping[str, str] = field(compare=False)


@dataclass
class _Hands:
    """What one thread has opened for a job. The lock is held while it works."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    stack: ExitStack = field(default_factory=ExitStack)
    work: Callable[[Any], Any] | None = None

    def close(self) -> None:
        """Closes it; the next unit opens it again."""
        self.work = None
        self.stack.close()


class _Running:
    """A job in this process."""

    def __init__(self, job: Job) -> None:
        self._job, self._settings, self.shared = job, _settings_for(job), Shared()
        self._hands: dict[int, _Hands] = {}

    def do(self, unit: Any) -> Any:
        """Does a unit with what this thread has opened."""
        hands = self._hands.setdefault(threading.get_ident(), _Hands())
        with hands.turn:
            if self.shared.stop.is_set():
                raise StopRequestedError
            if hands.work is None:
                number = hands.stack.enter_context(free_number(self._settings.stores.data_dir / "dlt" / "workers"))
                hands.work = hands.stack.enter_context(
                    self._job.open_unit(self._settings, self.shared, f"worker_{number}")
                )
            return hands.work(unit)

    def close(self, *, waits: bool) -> None:
        """Closes what no thread works with, or waits until that is all."""
        for hands in list(self._hands.values()):
            if hands.turn.acquire(blocking=waits):
                try:
                    hands.close()
                finally:
                    hands.turn.release()


_jobs: dict[str, _Running] = {}
_one_at_a_time = threading.Lock()


def do_unit(job: Job, processes: int, unit: Any) -> Any:
    """A task of Dask: the result of a unit, or its error. `processes` share the tokens' budgets."""
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
    """Before the first unit: why this worker does not suit, if it does not. An OSError is thus never ours."""
    try:
        await asyncio.to_thread(_running, job, dask_worker)
    except AuditLogsError as error:
        mask_error(error)
        return error
    return None


async def end(job: Job, dask_worker: Any) -> None:
    """After the last unit."""
    if job.name in dask_worker.plugins:
        await dask_worker.plugin_remove(job.name)


class _Ending(WorkerPlugin):
    """Removed after the last unit, or because the worker is told to stop: ends a job in this process."""

    def __init__(self, job: Job) -> None:
        self._job = job

    async def teardown(self, worker: Any) -> None:  # noqa: ARG002  # the hook's name
        """Stops what is still in hand, and closes all that was opened."""
        if running := _jobs.get(self._job.name):
            running.shared.stop.set()
            await asyncio.to_thread(running.close, waits=True)


def _running(job: Job, worker: Any) -> _Running:
    with _one_at_a_time:
        if job.name not in _jobs:
            for other in _jobs.values():  # whose command may have been killed
                other.close(waits=False)
            _jobs[job.name] = _Running(job)
            worker.loop.add_callback(worker.plugin_add, _Ending(job), name=job.name)
        return _jobs[job.name]


def _settings_for(job: Job) -> Settings:
    """The worker's own settings, read anew.

    Raises:
        UnfitWorkerError: they lack something, or name other places than those of whoever gave the command.
    """
    configure_logs()
    Container()[PluggableRunContext].reload(str(PROJECT_ROOT))  # dlt reads them once a process
    try:
        settings = read_settings(read_environment(), now=datetime.now(UTC), asks_api=job.asks_api)
        here = whereabouts(settings, asks_api=job.asks_api)
    except (SettingsError, AuditLogsError, OSError) as error:
        raise UnfitWorkerError(
            "the worker's settings are not right", detail="; ".join(str(error).splitlines())
        ) from None
    for what, there in job.whereabouts.items():
        if here.get(what) != there:
            detail = f"the {what} is {here.get(what)} there and {there} here"
            raise UnfitWorkerError("the worker's settings name another place", detail=detail)
    return settings
