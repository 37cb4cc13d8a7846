"""The units of a command on a Dask cluster. Imported with `--scheduler` alone, as are Dask's packages.

Dask does a lost worker's units again elsewhere, and gives a unit up that lost it several workers. It is given no
more units than there are threads: it would count a worker's death against all that wait for that worker.
"""

import logging
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import distributed
from distributed.versions import VersionMismatchWarning

from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError

from .dask_worker import Ending, Job, begin, do_unit
from .logs import log
from .settings import Settings, UsageError
from .units import BrokenUnitError, OpenUnit, Pool, UnfitWorkerError
from .whereabouts import whereabouts

TIMEOUT_SECONDS = 10
"""For the scheduler to answer, for a first worker to be there, and for the end."""
PATIENCE_SECONDS = 60
"""Without any worker: a supervisor may be about to start it again."""
RETRIES = 2
"""After errors that nobody thought of."""

_LOOK_SECONDS = 2
_PACKAGES = ("python", "dask", "distributed", "cloudpickle", "tornado", "cloudflare-audit-pipeline")


@contextmanager
def dask_pool(scheduler: str, open_unit: OpenUnit, settings: Settings, *, asks_api: bool) -> Iterator[Pool[Any, Any]]:
    """The workers that the scheduler has, and those that come while the block runs.

    Raises:
        TemporaryError: it cannot be reached, or has no worker.
        UnfitWorkerError: settings of a worker are not right.
    """
    job = Job(uuid.uuid4().hex, open_unit, asks_api, whereabouts(settings, asks_api=asks_api))
    client = _connected(scheduler)
    executor: Executor = client.get_executor(pure=False, retries=RETRIES)
    try:
        _tell_versions(client)
        client.register_plugin(Ending(job), name=job.name)
        _begin_on_all(client, job)
        crew = _Crew(client)
        yield Pool(lambda unit: _submit(executor, job, crew.processes, unit), crew.width)
    finally:
        _end_in_time(client, executor, job)


class _Crew:
    """The cluster's workers, looked at now and then."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._looked = self._seen = float("-inf")
        self.processes = self._threads = 1

    def width(self) -> int:
        """How many units they can do at once.

        Raises:
            TemporaryError: there has been none for a while.
        """
        now = time.monotonic()
        if now - self._looked >= _LOOK_SECONDS and self._client.status == "running":
            with suppress(OSError):
                self._look(now)
        return self._threads

    def _look(self, now: float) -> None:
        threads: dict[str, int] = self._client.nthreads()
        self._looked = now
        if threads:
            self._seen, self.processes, self._threads = now, len(threads), sum(threads.values())
        elif now - self._seen > PATIENCE_SECONDS:
            raise TemporaryError("the Dask cluster has lost all its workers", hint="start some, then run this again")


def _connected(scheduler: str) -> Any:
    connect: Any = distributed.Client
    security: Any = distributed.Security()  # type: ignore[no-untyped-call]
    if scheduler.startswith("tls:") and not security.get_connection_args("client").get("ssl_context"):
        raise UsageError(
            "tls:// needs Dask's own names of the certificates, DASK_DISTRIBUTED__COMM__TLS__…: docs/scale-dask.md"
        )
    for name in ("distributed", "distributed.client"):  # what they say of a lost connection, we say in a line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore", VersionMismatchWarning)
    try:
        client = connect(scheduler, timeout=TIMEOUT_SECONDS, set_as_default=False)
    except OSError as error:
        hint = "start it with: dask scheduler; for TLS see docs/scale-dask.md"
        raise TemporaryError(
            f"the Dask scheduler {scheduler} cannot be reached", detail=_line(error), hint=hint
        ) from error
    try:
        client.wait_for_workers(1, timeout=TIMEOUT_SECONDS)
    except OSError as error:
        client.close(timeout=TIMEOUT_SECONDS)
        raise TemporaryError(
            f"the Dask scheduler {scheduler} has no worker", hint=f"dask worker {scheduler}"
        ) from error
    return client


def _tell_versions(client: Any) -> None:
    versions: Any = client.get_versions(packages=["cloudflare-audit-pipeline"])
    here = versions["client"]["packages"]
    others = {"scheduler": versions["scheduler"], **versions["workers"]}
    for name, other in others.items():
        there = other["packages"]
        differing = [f"{p} {there.get(p)} (here {here.get(p)})" for p in _PACKAGES if there.get(p) != here.get(p)]
        if differing:
            log.warning("dask.versions_differ", at=name, found=", ".join(differing), hint="install the same everywhere")


def _begin_on_all(client: Any, job: Job) -> None:
    found: dict[str, AuditLogsError | Exception | None] = client.run(begin, job, on_error="return")
    unfit = {address: error for address, error in found.items() if error is not None}
    if unfit:
        detail = "; ".join(f"{address}: {_line(error)}" for address, error in unfit.items())
        hint = "every worker needs the .env of this host"
        raise UnfitWorkerError(f"{len(unfit)} of {len(found)} Dask workers do not suit", detail=detail, hint=hint)


def _submit(executor: Executor, job: Job, processes: int, unit: Any) -> "Future[Any]":
    told: Future[Any] = Future()
    executor.submit(do_unit, job, processes, unit).add_done_callback(partial(_tell, told))
    return told


def _tell(told: "Future[Any]", future: "Future[Any]") -> None:
    """Hands a result on, or what became of the unit if there is none."""
    if future.cancelled():
        lost = "the Dask scheduler was lost, or has ended this"
        told.set_exception(TemporaryError(lost, hint="run this again: what is done stays done"))
    elif error := future.exception():
        told.set_result(
            BrokenUnitError("it failed on its Dask worker", detail=_line(error), hint="see the workers' logs")
        )
    else:
        told.set_result(future.result())


def _end_in_time(client: Any, executor: Executor, job: Job) -> None:
    """Cancels what is pending and closes what the workers opened, as far as the cluster still answers."""

    def finish() -> None:
        with suppress(Exception):  # we leave, whatever it says
            executor.shutdown(wait=False)
            client.unregister_worker_plugin(job.name)

    thread = threading.Thread(target=finish, daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    with suppress(OSError):
        client.close(timeout=TIMEOUT_SECONDS)


def _line(error: BaseException) -> str:
    text = str(error) if isinstance(error, AuditLogsError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:500]
