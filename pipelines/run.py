"""`python pipelines/run.py [--once] [--json] [--shard K/N]`: the main job.

Results on stdout, logs and progress on stderr. Exit codes: 0 done, 1 failed or an account failed, 2 wrong usage or
settings, 75 try again later.
"""

from pipelines.cli.entry import end  # first: from here on, a signal ends it quietly, and no secret leaves it

# isort: split
import argparse
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pipelines.fetch.api import Clock, open_api, utc_now
from pipelines.fetch.reading import DEFAULT_LIMITS, StepLimits
from pipelines.host.aside import aside
from pipelines.host.logs import configure_logs, log
from pipelines.host.memory import keep_small
from pipelines.host.transient import can_pass
from pipelines.lake.destination import Lake
from pipelines.load.dlt_settings import verify_hooks
from pipelines.load.loader import Loader
from pipelines.load.spool import Spool, open_spool
from pipelines.loop.loop import Loop
from pipelines.loop.measurements import Measurements
from pipelines.loop.report import Report, as_json, as_text, exit_code
from pipelines.settings.settings import Settings, SettingsError, read_environment, read_settings
from pipelines.settings.shards import WHOLE, Shard
from pipelines.warehouse.destination import Warehouse
from pipelines.warehouse.embedded import embedded_postgres, ensure_running
from pipelines.watch.progress import Progress, longest_silence_seconds
from pipelines.watch.running import Running
from pipelines.watch.stopping import stop_on_signals
from pipelines.watch.systemd import Supervisor
from sources.cloudflare_audit_logs.budget import LOOP_KEPT_BACK, LOOP_SHARE, Budgets
from sources.cloudflare_audit_logs.errors import AuditLogsError, TemporaryError
from sources.cloudflare_audit_logs.traffic import Traffic

LONGEST_STOP_SECONDS = 60
"""How long a load may still take when we are to stop. Then the process ends as if killed, which is safe."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the loop, or one poll of it, and returns the exit code."""
    options = _parse_arguments(arguments)
    keep_small()
    configure_logs()
    try:
        settings = read_settings(read_environment(), now=utc_now())
    except SettingsError as error:
        print("The settings are not right; nothing was touched:", *error.problems, sep="\n  ", file=sys.stderr)
        return 2
    for warning in settings.warnings:
        log.warning("settings.warning", warning=warning)
    try:
        report = run(settings, once=options.once, shard=options.shard, stop=stop_on_signals(LONGEST_STOP_SECONDS))
    except AuditLogsError as error:
        log.error("run.failed", error=error)
        return 75 if isinstance(error, TemporaryError) else 1
    except OSError as error:
        hint = f"check {settings.stores.data_dir}, its rights and space, or set DATA_DIR"
        log.error("run.failed", error=error, hint=hint)
        return 75 if can_pass(error) else 1
    if not options.once:
        return 0
    print(json.dumps(as_json(report)) if options.json else as_text(report))
    return exit_code(report)


def run(
    settings: Settings,
    *,
    once: bool,
    stop: threading.Event,
    shard: Shard = WHOLE,
    limits: StepLimits = DEFAULT_LIMITS,
    clock: Clock = utc_now,
) -> Report:
    """The main job on these settings, or on a shard of their accounts, until `stop` or for one poll.

    Raises:
        TemporaryError: the embedded PostgreSQL does not start.
        AuditLogsError: the dlt that is installed is another one than this was built for, or METRICS_PORT is in use.
    """
    verify_hooks()
    budgets, settings = budgets_of(settings, shard), _part_of(settings, shard)
    supervisor = Supervisor(longest_silence_seconds(settings), is_idle=not settings.accounts)
    progress = Progress(settings, supervisor.alive)
    report = Report(traffic=Traffic(progress.note), measured=Measurements(settings.poll_interval))
    with ExitStack() as stack:
        if settings.stores.postgres is None:
            # Before dlt is asked for anything: it reads its configuration once, with the server's port in it.
            stack.enter_context(embedded_postgres(settings.stores.postgres_dir))
        fetch_pages = stack.enter_context(open_api(settings, stop, clock, budgets, report.traffic))
        spool = stack.enter_context(open_spool(settings.stores.data_dir))
        destinations = stack.enter_context(_destinations(settings, spool, shard, clock))
        show_progress = stack.enter_context(_progress())
        if not once:
            stack.enter_context(_health(Running(settings, report, destinations, progress), clock))

        def on_progress(report: Report) -> None:
            progress.note()
            with aside("notify"):
                supervisor.follow(report)
            show_progress(report)

        loop = Loop(
            settings,
            fetch_pages,
            destinations,
            report,
            spool=spool,
            budgets=budgets,
            clock=clock,
            stop=stop,
            on_progress=on_progress,
            limits=limits,
        )
        _log_start(settings, shard)
        loop.run(once=once)
        return report


@contextmanager
def _health(running: Running, clock: Clock) -> Iterator[None]:
    """What watches a loop from outside, where the settings ask for it."""
    if running.settings.metrics_port is None:
        yield
        return
    from pipelines.watch.gap_watch import watching_gaps  # noqa: PLC0415  # 11 ms that the main job need not spend without
    from pipelines.watch.health_server import serving_health  # noqa: PLC0415  # as above

    with serving_health(running, clock), watching_gaps(running.settings, running.report.measured):
        yield


def budgets_of(settings: Settings, shard: Shard) -> Budgets:
    """Of each token's budget, the part that the shard has of its accounts: no loop sees what the others send."""
    budgets = Budgets(share=LOOP_SHARE, kept_back=LOOP_KEPT_BACK)
    accounts = settings.accounts.values()
    all_of = Counter(account.token_name for account in accounts)
    own_of = Counter(account.token_name for account in accounts if shard.takes(account.id))
    for token_name, count in own_of.items():
        budgets.of(token_name).share = LOOP_SHARE * count / all_of[token_name]
    return budgets


def _part_of(settings: Settings, shard: Shard) -> Settings:
    """The settings with the accounts of the shard alone."""
    own = {account_id: account for account_id, account in settings.accounts.items() if shard.takes(account_id)}
    if not own:
        hint = "it stands by for accounts that are added; fewer shards would do"
        log.warning("shard.empty", shard=shard, accounts=len(settings.accounts), hint=hint)
    return replace(settings, accounts=own)


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
        lake=settings.stores.lake_url,
    )


@contextmanager
def _destinations(settings: Settings, spool: Spool, shard: Shard, clock: Clock) -> Iterator[list[Loader]]:
    """The warehouse and the lake, not opened yet: one that is down must not stop the other."""
    pipelines_dir = settings.stores.data_dir / "dlt" / "pipelines"
    is_embedded = settings.stores.postgres is None
    revive = partial(ensure_running, settings.stores.postgres_dir) if is_embedded else _leave_alone
    warehouse = Warehouse.of(settings.stores, shard=shard, ensure_server=revive, on_others=_warner(), clock=clock)
    stores = (warehouse, Lake(shard))
    destinations = [Loader(store, spool, pipelines_dir=pipelines_dir, lag=settings.safety_lag) for store in stores]
    try:
        yield destinations
    finally:
        for destination in destinations:
            destination.close()


def _warner() -> Callable[[list[str]], None]:
    """Says once who else polls our accounts."""
    has_warned = threading.Event()

    def warn(programs: list[str]) -> None:
        if not has_warned.is_set():
            has_warned.set()
            hint = "loops of one number of shards at a time: nothing is lost or doubled, but accounts are polled twice"
            log.warning("shard.others", loops=", ".join(programs), hint=hint)

    return warn


@contextmanager
def _progress() -> Iterator[Callable[[Report], None]]:
    """A live line on a terminal; nothing elsewhere."""
    tqdm.monitor_interval = 0  # its thread would wake us for nothing
    with tqdm(unit=" events", desc="read", disable=not sys.stderr.isatty()) as bar, logging_redirect_tqdm():

        def show(report: Report) -> None:
            bar.update(report.read - bar.n)
            where = ", ".join(f"{name} +{count:,}" for name, count in report.new.items())
            newest = f", up to {report.newest:%Y-%m-%d %H:%M:%S}" if report.newest else ""
            bar.set_postfix_str(where + newest)

        yield show


def _leave_alone() -> None:
    """A server of the user's own is not ours to start."""


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.py", description="Polls the Cloudflare Audit Logs API into both stores.")
    parser.add_argument("--once", action="store_true", help="one poll, for a timer; catches up whatever is missing")
    parser.add_argument("--json", action="store_true", help="with --once: the result as JSON")
    parser.add_argument(
        "--shard", type=Shard.parse, default=WHOLE, metavar="K/N", help="the Kth of N loops that divide the accounts"
    )
    options = parser.parse_args(arguments)
    if options.json and not options.once:
        parser.error("--json goes with --once")
    return options


def _main() -> int:
    """The exit code, even of a defect: the interpreter would wait for readers that wait for an answer."""
    try:
        return main()
    except Exception:  # noqa: BLE001  # told as ever
        sys.excepthook(*sys.exc_info())
        return 1


if __name__ == "__main__":
    end(_main())
