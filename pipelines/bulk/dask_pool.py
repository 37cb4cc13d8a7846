"""The units of a command on a Dask cluster. Imported with `--scheduler` alone, as are Dask's packages.

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

from pipelines.host.logs import log
from pipelines.settings.settings import Settings, UsageError
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError

from .dask_worker import Job, begin, do_unit, end
from .units import BrokenUnitError, OpenUnit, Pool, UnfitWorkerError
from .whereabouts import whereabouts

TIMEOUT_SECONDS = 10
"""For the scheduler to answer, for a first worker to be there, and for the end."""
PATIENCE_SECONDS = 60
"""Without any worker: a supervisor may be about to start it again."""
RETRIES = 2
"""After errors that nobody thought of."""

_LOOK_SECONDS = 2
_SOON_SECONDS = 0.2
_PACKAGES = ("python", "dask", "distributed", "cloudpickle", "tornado", "cloudflare-audit-pipeline")


@contextmanager
def dask_pool(scheduler: str, open_unit: OpenUnit, settings: Settings, *, asks_api: bool) -> Iterator[Pool]:
    """The workers that the scheduler has, and those that come while the block runs; any of them may be lost.

    Raises:
        TemporaryError: it cannot be reached, or has no worker.
        UnfitWorkerError: settings of a worker are not right.
    """
    job = Job(uuid.uuid4().hex, open_unit, asks_api, whereabouts(settings, asks_api=asks_api))
    client = _connected(scheduler)
    crew = _Crew(client, job)
    try:
        try:
            _tell_versions(client)
            _begin_on_all(client, job)
        except OSError as error:
            raise _lost_scheduler(error) from error
        yield Pool(crew.submit, crew.width)
    finally:
        _end_in_time(client, crew)


class _Crew:
    """The cluster's workers, looked at now and then, and the units that they have in hand."""

    def __init__(self, client: Any, job: Job) -> None:
        self._client, self._job = client, job
        self._looked, self._seen = float("-inf"), time.monotonic()
        self._processes = self._threads = 1
        self._units: set[Any] = set()

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
            self._seen, self._processes, self._threads = now, len(threads), sum(threads.values())
        elif now - self._seen > PATIENCE_SECONDS:
            raise TemporaryError("the Dask cluster has lost all its workers", hint="start some, then run this again")

    def submit(self, unit: Any) -> "Future[Any]":
        """Gives a unit to whichever worker is free."""
        future = self._client.submit(do_unit, self._job, self._processes, unit, pure=False, retries=RETRIES)
        self._units.add(future)
        outcome: Future[Any] = Future()
        # Each is waited for in a thread that ends with the process. Dask's own executor never answers for a unit whose
        # result was lost with its worker, and which fails when it is done again.
        threading.Thread(target=self._wait_for, args=(future, outcome), daemon=True).start()
        return outcome

    def _wait_for(self, unit: Any, outcome: "Future[Any]") -> None:
        """Hands its result on, or what became of it if there is none."""
        try:
            outcome.set_result(unit.result())
        except Exception as error:  # noqa: BLE001  # whatever a unit raises
            if isinstance(error, (CancelledError, OSError)) and unit.status != "error":
                outcome.set_exception(_lost_scheduler(error))
            else:
                hint = "see the workers' logs"
                outcome.set_result(BrokenUnitError("it failed on its Dask worker", detail=_line(error), hint=hint))
        finally:
            self._units.discard(unit)

    def end(self) -> None:
        """Cancels what is pending and closes what the workers opened."""
        self._client.cancel(list(self._units))
        self._client.run(end, self._job, on_error="ignore")


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
    """Begins the job on every worker; once more, if one is lost meanwhile, on those that are left."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while unreached := _begin(client, job):
        if time.monotonic() > give_up_at:
            hint = "the scheduler must be able to connect to each worker"
            raise TemporaryError("Dask workers cannot be reached", detail=unreached, hint=hint)
        time.sleep(_SOON_SECONDS)


def _begin(client: Any, job: Job) -> str:
    """Begins the job on the workers that there are; returns those that did not answer, in words."""
    found: dict[str, Exception | None] = client.run(begin, job, on_error="return")
    errors = {address: error for address, error in found.items() if error is not None}
    unreached = {address: error for address, error in errors.items() if isinstance(error, OSError)}
    unfit = {address: error for address, error in errors.items() if address not in unreached}
    if unfit:
        hint = "every worker needs the .env of this host"
        problem = f"{len(unfit)} of {len(found)} Dask workers do not suit"
        raise UnfitWorkerError(problem, detail=_lines(unfit), hint=hint)
    return _lines(unreached)


def _lost_scheduler(error: BaseException) -> TemporaryError:
    hint = "run this again: what is done stays done"
    return TemporaryError("the Dask scheduler was lost, or has ended this", detail=_line(error), hint=hint)


def _end_in_time(client: Any, crew: _Crew) -> None:
    """Ends the job as far as the cluster still answers."""

    def finish() -> None:
        with suppress(Exception):  # we leave, whatever it says
            crew.end()

    thread = threading.Thread(target=finish, daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    with suppress(OSError):
        client.close(timeout=TIMEOUT_SECONDS)


def _lines(errors: Mapping[str, BaseException]) -> str:
    return "; ".join(f"{address}: {_line(error)}" for address, error in errors.items())


def _line(error: BaseException) -> str:
    text = str(error) if isinstance(error, AuditLogsError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:500]
