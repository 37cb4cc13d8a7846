"""The main job: puts the loop together with the API, the stores, what watches it, and its work in the background."""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pipelines.fetch.api import Clock, open_api, utc_now
from pipelines.fetch.reading import DEFAULT_LIMITS, StepLimits
from pipelines.host.aside import aside
from pipelines.host.logs import log
from pipelines.lake.destination import Lake, lake_url
from pipelines.load.dlt_settings import verify_hooks
from pipelines.load.loader import Loader
from pipelines.load.spool import Spool, open_spool
from pipelines.loop.background import Background, BackgroundTask
from pipelines.loop.cycle import Cycle
from pipelines.loop.cycles import Cycles
from pipelines.loop.failures import Failures
from pipelines.loop.loaders import Loaders
from pipelines.loop.loop import Loop
from pipelines.loop.plan import CyclePlan
from pipelines.loop.report import Report
from pipelines.loop.schedule import Schedule
from pipelines.proof.compactor import Compactor
from pipelines.proof.reconciler import Reconciler
from pipelines.seals.sealer import Sealer
from pipelines.seals.weekly_check import WeeklyCheck
from pipelines.settings.settings import Settings
from pipelines.settings.shards import WHOLE, Shard
from pipelines.warehouse.destination import Warehouse
from pipelines.warehouse.embedded import embedded_postgres, ensure_running
from pipelines.watch.progress import Progress, longest_silence_seconds
from pipelines.watch.running import Running
from pipelines.watch.systemd import Supervisor
from sources.cloudflare_audit_logs.budget import LOOP_KEPT_BACK, LOOP_SHARE, Budgets
from sources.cloudflare_audit_logs.streams import Stream
from sources.cloudflare_audit_logs.traffic import Traffic


def run(
    settings: Settings,
    *,
    once: bool,
    stop: threading.Event,
    shard: Shard = WHOLE,
    limits: StepLimits = DEFAULT_LIMITS,
    clock: Clock = utc_now,
) -> Report:
    """Runs the loop on these settings, or on a shard of their accounts, until `stop` or for one poll.

    Raises:
        TemporaryError: the embedded PostgreSQL does not start.
        AuditLogsError: the dlt that is installed is another one than this was built for, or METRICS_PORT is in use.
    """
    verify_hooks()
    budgets, settings = budgets_of(settings, shard), _part_of(settings, shard)
    supervisor = Supervisor(longest_silence_seconds(settings), is_idle=not settings.accounts)
    progress = Progress(settings, supervisor.alive)
    failures = Failures(settings)
    report = Report(failures, timedelta(seconds=settings.poll_interval_seconds), Traffic(progress.note))
    with (
        # Before dlt is asked for anything: it reads its configuration once, with the server's port in it.
        nullcontext() if settings.stores.postgres else embedded_postgres(settings.stores.postgres_dir),
        open_api(settings, stop, clock, budgets, report.traffic) as fetch_pages,
        open_spool(settings.stores.data_dir) as spool,
        _destinations(settings, spool, shard, clock) as destinations,
        _progress_line(report) as show,
        _watched(Running(settings, report, destinations, progress), clock, is_asked_for=not once) as look,
    ):
        _log_start(settings, shard)
        reconciler = Reconciler(settings, clock, report, budgets)
        compactor, sealer = Compactor(settings, clock, reconciler), Sealer(settings, clock, report)
        check = WeeklyCheck(settings, clock, report)
        new_cycle = partial(Cycle, fetch_pages=fetch_pages, spool=spool, settings=settings, limits=limits)
        Loop(
            destinations=destinations,
            schedule=_schedule_of(settings, once=once),
            plan=CyclePlan(settings, destinations, clock()),
            cycles=Cycles(settings, new_cycle, failures.accounts.failed),
            loaders=Loaders(destinations, clock),
            background=Background([reconciler, compactor, sealer, check]),
            failures=failures,
            report=report,
            on_progress=partial(_show_progress, progress, supervisor, report, show, look),
            clock=clock,
            stop=stop,
        ).run()
        return report


def _schedule_of(settings: Settings, *, once: bool) -> Schedule[Loader, Stream, BackgroundTask]:
    return Schedule(
        settings.streams,
        poll_seconds=settings.poll_interval_seconds,
        has_sweeps=settings.sweep_interval_seconds > 0,
        is_once=once,
    )


def _show_progress(
    progress: Progress, supervisor: Supervisor, report: Report, show: Callable[[], None], look: Callable[[], None]
) -> None:
    progress.note()
    with aside("announcements"):
        look()
    with aside("notify"):
        supervisor.follow(report)
    show()


def budgets_of(settings: Settings, shard: Shard) -> Budgets:
    """Returns the shard's part of each token's budget, by its accounts: no loop sees what the others send."""
    budgets = Budgets(share=LOOP_SHARE, kept_back=LOOP_KEPT_BACK)
    accounts = settings.accounts.values()
    all_of = Counter(account.token_name for account in accounts)
    own_of = Counter(account.token_name for account in accounts if shard.takes(account.id))
    for token_name, count in own_of.items():
        budgets.of(token_name).share = LOOP_SHARE * count / all_of[token_name]
    return budgets


def _part_of(settings: Settings, shard: Shard) -> Settings:
    """Returns the settings with the accounts of the shard alone."""
    own = {account_id: account for account_id, account in settings.accounts.items() if shard.takes(account_id)}
    if not own:
        hint = "it stands by for accounts that are added; fewer shards would do"
        log.warning("shard.empty", shard=shard, accounts=len(settings.accounts), hint=hint)
    return replace(settings, accounts=own)


@contextmanager
def _destinations(settings: Settings, spool: Spool, shard: Shard, clock: Clock) -> Iterator[list[Loader]]:
    """The warehouse and the lake, not opened yet: one that is down must not stop the other."""
    stores, pipelines_dir = settings.stores, settings.stores.data_dir / "dlt" / "pipelines"
    # A server of the user's own is not ours to start.
    revive = (lambda: None) if stores.postgres else partial(ensure_running, stores.postgres_dir)
    warehouse = Warehouse.of(stores, shard=shard, ensure_server=revive, on_others=_warner(), clock=clock)
    with ExitStack() as stack:
        yield [
            stack.enter_context(closing(Loader(store, spool, pipelines_dir=pipelines_dir, lag=settings.safety_lag)))
            for store in (warehouse, Lake(shard))
        ]


def _warner() -> Callable[[list[str]], None]:
    """Logs once who else polls our accounts."""
    has_warned = threading.Event()

    def warn(programs: list[str]) -> None:
        if not has_warned.is_set():
            has_warned.set()
            hint = "loops of one number of shards at a time: nothing is lost or doubled, but accounts are polled twice"
            log.warning("shard.others", loops=", ".join(programs), hint=hint)

    return warn


@contextmanager
def _watched(running: Running, clock: Clock, *, is_asked_for: bool) -> Iterator[Callable[[], None]]:
    """Serves and announces metrics and health as long as the block runs, where the settings ask for it.

    Yields what is to be called after progress. What is not asked for is not imported either: 11 ms.
    """
    settings = running.settings
    with ExitStack() as stack:
        if is_asked_for and settings.metrics_port is not None:
            from pipelines.watch.health_server import serving_health  # noqa: PLC0415

            stack.enter_context(serving_health(running, clock))
        if is_asked_for and (settings.metrics_port is not None or settings.metrics_textfile):
            from pipelines.watch.gap_watch import watching_gaps  # noqa: PLC0415

            stack.enter_context(watching_gaps(settings, running.report))
        if settings.metrics_textfile or settings.heartbeat_url:
            from pipelines.watch.announcing import announcing  # noqa: PLC0415

            yield stack.enter_context(announcing(running))
        else:
            yield lambda: None


@contextmanager
def _progress_line(report: Report) -> Iterator[Callable[[], None]]:
    """A live line on a terminal; nothing elsewhere."""
    tqdm.monitor_interval = 0  # its thread would wake us for nothing
    with tqdm(unit=" events", desc="read", disable=not sys.stderr.isatty()) as bar, logging_redirect_tqdm():

        def show() -> None:
            bar.update(report.read - bar.n)
            where = ", ".join(f"{name} +{count:,}" for name, count in report.new.items())
            newest = f", up to {report.newest:%Y-%m-%d %H:%M:%S}" if report.newest else ""
            bar.set_postfix_str(where + newest)

        yield show


def _log_start(settings: Settings, shard: Shard) -> None:
    server = settings.stores.postgres
    log.info(
        "run.started",
        shard=shard,
        accounts=len(settings.account_ids),
        tokens=len({account.token_name for account in settings.accounts.values()}),
        versions=",".join(sorted({stream.api_version for stream in settings.streams})),
        every_seconds=f"{settings.poll_interval_seconds:g}",
        warehouse=f"{server.host}:{server.port}/{server.database}" if server else settings.stores.postgres_dir,
        lake=lake_url(settings.stores.lake_url),
    )
