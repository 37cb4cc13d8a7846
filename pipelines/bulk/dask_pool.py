"""Runs the units of a command on a Dask cluster. Imported with `--scheduler` alone, as are Dask's packages.

Dask does a lost worker's units again elsewhere, and gives a unit up that lost it several workers. It is given no
more units than there are threads: it would count a worker's death against all that wait for that worker.
"""

import logging
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from typing import Any

import distributed
from distributed.versions import VersionMismatchWarning

from pipelines.host.aside import words_of
from pipelines.host.logs import log
from pipelines.settings.settings import Settings, UsageError
from sources.cloudflare_audit_logs.errors import TemporaryError

from .dask_worker import Job, begin, do_unit, end, whereabouts
from .units import BrokenUnitError, OpenUnit, Pool, UnfitWorkerError

TIMEOUT_SECONDS = 10
"""For the scheduler to answer, for a first worker to be there, and for the end."""
PATIENCE_SECONDS = 60
"""Without any worker: a supervisor may be about to start it again."""
RETRIES = 2
"""After unexpected errors."""

_LOOK_SECONDS = 2
_SOON_SECONDS = 0.2
_PACKAGES = ("python", "dask", "distributed", "cloudpickle", "tornado", "cloudflare-audit-pipeline")


@contextmanager
def dask_pool(scheduler: str, open_unit: OpenUnit, settings: Settings, *, asks_api: bool) -> Iterator[Pool]:
    """Yields a pool of the scheduler's workers, of those too that come while the block runs; any may be lost.

    Raises:
        TemporaryError: the scheduler cannot be reached, or has no worker.
        UnfitWorkerError: settings of a worker are not right.
    """
    job = Job(uuid.uuid4().hex, open_unit, asks_api, whereabouts(settings, asks_api=asks_api))
    client = _connected(scheduler)
    crew = _Crew(client, job)
    try:
        try:
            _compare_versions(client)
            _begin(client, job)
        except OSError as error:
            raise _lost_scheduler(error) from error
        yield Pool(crew.submit, crew.width)
    finally:
        # As far as the cluster still answers.
        ending = threading.Thread(target=crew.end, daemon=True)
        ending.start()
        ending.join(TIMEOUT_SECONDS)
        with suppress(OSError):
            client.close(timeout=TIMEOUT_SECONDS)


class _Crew:
    """The cluster's workers, counted now and then, and the units that were submitted to them."""

    def __init__(self, client: Any, job: Job) -> None:
        self._client, self._job = client, job
        self._looked, self._seen = float("-inf"), time.monotonic()
        self._processes = self._threads = 1
        self._units: set[Any] = set()

    def width(self) -> int:
        """Returns how many units the workers can do at once; raises TemporaryError if there is none for a while."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_SECONDS and self._client.status == "running":
            with suppress(OSError):
                threads: dict[str, int] = self._client.nthreads()
                self._looked = now
                if threads:
                    self._seen, self._processes, self._threads = now, len(threads), sum(threads.values())
                elif now - self._seen > PATIENCE_SECONDS:
                    hint = "start some, then run this again"
                    raise TemporaryError("the Dask cluster has lost all its workers", hint=hint)
        return self._threads

    def submit(self, unit: Any) -> "Future[Any]":
        """Gives a unit to a worker that is free."""
        future = self._client.submit(do_unit, self._job, self._processes, unit, pure=False, retries=RETRIES)
        self._units.add(future)
        outcome: Future[Any] = Future()
        # Each is waited for in a thread that ends with the process. Dask's own executor never answers for a unit whose
        # result was lost with its worker, and which fails when it is done again.
        threading.Thread(target=self._wait_for, args=(future, outcome), daemon=True).start()
        return outcome

    def _wait_for(self, unit: Any, outcome: "Future[Any]") -> None:
        try:
            outcome.set_result(unit.result())
        except Exception as error:  # noqa: BLE001  # whatever a unit raises
            if isinstance(error, (CancelledError, OSError)) and unit.status != "error":
                outcome.set_exception(_lost_scheduler(error))
            else:
                hint = "see the workers' logs"
                outcome.set_result(BrokenUnitError("it failed on its Dask worker", detail=words_of(error), hint=hint))
        finally:
            self._units.discard(unit)

    def end(self) -> None:
        """Cancels the units that wait, and closes what the workers opened."""
        with suppress(Exception):  # the command ends, whatever the cluster answers
            self._client.cancel(list(self._units))
            self._client.run(end, self._job, on_error="ignore")


def _connected(scheduler: str) -> Any:
    security: Any = distributed.Security()  # type: ignore[no-untyped-call]
    if scheduler.startswith("tls:") and not security.get_connection_args("client").get("ssl_context"):
        raise UsageError(
            "tls:// needs Dask's own names of the certificates, DASK_DISTRIBUTED__COMM__TLS__…: docs/scale/dask.md"
        )
    for name in ("distributed", "distributed.client"):  # of a lost connection, we log one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore", VersionMismatchWarning)
    connect: Any = distributed.Client
    try:
        client = connect(scheduler, timeout=TIMEOUT_SECONDS, set_as_default=False)
    except OSError as error:
        problem = f"the Dask scheduler {scheduler} cannot be reached"
        hint = "start it with: dask scheduler; for TLS see docs/scale/dask.md"
        raise TemporaryError(problem, detail=words_of(error), hint=hint) from error
    try:
        client.wait_for_workers(1, timeout=TIMEOUT_SECONDS)
    except OSError as error:
        client.close(timeout=TIMEOUT_SECONDS)
        hint = f"dask worker {scheduler}"
        raise TemporaryError(f"the Dask scheduler {scheduler} has no worker", hint=hint) from error
    return client


def _compare_versions(client: Any) -> None:
    """Logs each process of the cluster that runs other versions than this one."""
    versions: Any = client.get_versions(packages=["cloudflare-audit-pipeline"])
    here = versions["client"]["packages"]
    for name, process in {"scheduler": versions["scheduler"], **versions["workers"]}.items():
        there = process["packages"]
        differing = [f"{p} {there.get(p)} (here {here.get(p)})" for p in _PACKAGES if there.get(p) != here.get(p)]
        if differing:
            log.warning("dask.versions_differ", at=name, found=", ".join(differing), hint="install the same everywhere")


def _begin(client: Any, job: Job) -> None:
    """Begins the job on every worker; if one is lost meanwhile, once more on those that are left."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        answers: dict[str, Exception | None] = client.run(begin, job, on_error="return")
        errors = {address: error for address, error in answers.items() if error is not None}
        unfit = {address: error for address, error in errors.items() if not isinstance(error, OSError)}
        if unfit:
            problem = f"{len(unfit)} of {len(answers)} Dask workers do not suit"
            raise UnfitWorkerError(problem, detail=_lines(unfit), hint="every worker needs the .env of this host")
        if not errors:
            return
        if time.monotonic() > give_up_at:
            hint = "the scheduler must be able to connect to each worker"
            raise TemporaryError("Dask workers cannot be reached", detail=_lines(errors), hint=hint)
        time.sleep(_SOON_SECONDS)


def _lines(errors: Mapping[str, Exception]) -> str:
    return "; ".join(f"{address}: {words_of(error)}" for address, error in errors.items())


def _lost_scheduler(error: BaseException) -> TemporaryError:
    hint = "run this again: what is done stays done"
    return TemporaryError("the Dask scheduler was lost, or has ended this", detail=words_of(error), hint=hint)
