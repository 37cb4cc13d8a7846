"""A failure in the background is reported in one line and ends nothing; one on the data path ends the process."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished, process_of, wait_until
from simulator.api import Api
from tests.factory import ACCOUNT, ago, event_at, ids, spread
from tests.faults.conftest import RunLoop
from tests.rows import rows
from tests.stores import Stores

pytestmark = pytest.mark.integration

Command = Callable[..., Finished]

FAILING = ("-m", "tests.faults.failing")
HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=5)
COMPARING = {
    "RECONCILE_AFTER_HOURS": "1",
    "SWEEP_INTERVAL_SECONDS": "0",
    "INITIAL_CHECKPOINT": (HOUR - timedelta(hours=1)).isoformat(),
}
CHECK = "pipelines.proof.compare:Completeness.check"
OUT_OF_MEMORY = """
import functools, duckdb
little = {"memory_limit": "200kB", "threads": 1, "max_temp_directory_size": "0B"}
duckdb.connect = functools.partial(duckdb.connect, config=little)
from pipelines import run
run.main([])
"""


def _goes_on(api: Api, stores: Stores) -> None:
    """A new event arrives in both stores."""
    wanted = sorted(ids(api.world.events(ACCOUNT, "v1")) | {"fresh"})
    api.world.add(ACCOUNT, "v1", [event_at(ago(seconds=1), id="fresh")])
    wait_until(lambda: stores.ids() == (wanted, wanted))


@pytest.mark.wide
@pytest.mark.parametrize(
    ("command", "told"),
    rows(
        ((*FAILING, "pipelines.proof.reconciler:read_lake", "SystemExit", "run"), "SystemExit: explosion of two lines"),
        (("-c", OUT_OF_MEMORY), "OutOfMemoryException: "),
        long=[
            ((*FAILING, CHECK, "KeyError", "run"), "KeyError: 'explosion"),
            ((*FAILING, CHECK, "MemoryError", "run"), "MemoryError: explosion of two lines"),
        ],
    ),
)
def test_a_comparison_that_fails_in_any_way_ends_nothing(
    api: Api, running: RunLoop, stores: Stores, command: tuple[str, ...], told: str
) -> None:
    """The failure is reported in one line, with its type; the polls go on, and the work is tried again later."""
    api.world.add(ACCOUNT, "v1", spread(2_000, HOUR, HOUR + timedelta(minutes=50)))

    with running(*command, **COMPARING) as loop:
        wait_until(lambda: "reconcile.failed" in loop.log)
        _goes_on(api, stores)

    (line,) = [line for line in loop.log.splitlines() if "reconcile.failed" in line]
    assert told in line
    assert "it is tried again later" in line


def test_a_table_that_a_comparison_cannot_read_ends_nothing(
    api: Api, running: RunLoop, stores: Stores, command: Command
) -> None:
    """Another role has made times of it that are none: the next start must not end of it either."""
    api.world.add(ACCOUNT, "v1", spread(20, HOUR, HOUR + timedelta(minutes=50)))
    assert command("pipelines/run.py", "--once", **COMPARING).code == 0
    stores.query("DROP VIEW IF EXISTS {schema}.audit_completeness_latest")
    stores.query("UPDATE {schema}.audit_completeness SET checked_at = checked_at - interval '1 day'")
    stores.query("ALTER TABLE {schema}.audit_completeness ALTER checked_at TYPE text")

    with running(**COMPARING) as loop:
        wait_until(lambda: "reconcile.failed" in loop.log)
        _goes_on(api, stores)
    once = command("pipelines/run.py", "--once", **COMPARING)

    assert once.code == 0, once.err
    assert loop.log.count("reconcile.failed") == once.err.count("reconcile.failed") == 1


@pytest.mark.long
def test_a_comparison_that_hangs_is_told_and_left_to_itself(
    api: Api, environment: Mapping[str, str], stores: Stores, tmp_path: Path
) -> None:
    """A comparison that hangs ends neither loop nor poll, and delays none for longer than its deadline."""
    api.world.add(ACCOUNT, "v1", spread(20, HOUR, HOUR + timedelta(minutes=50)))
    imports = "import sys; from pipelines import run; from pipelines.proof import reconciler"
    code = f"{imports}; reconciler.DEADLINE_SECONDS = 2; run.main(sys.argv[1:])"
    hang = f"from tests.faults import failing, dying; dying.replace('{CHECK}', lambda _: failing.hang)"
    command = ("-c", f"{hang}; {code}")
    log = tmp_path / "loop.log"

    with log.open("wb") as output, process_of(environment, *command, output=output, **COMPARING) as loop:
        wait_until(lambda: "reconcile.failed" in log.read_text())
        _goes_on(api, stores)
        loop.terminate()
        code_of_loop = loop.wait(120)
    with process_of(environment, *command, "--once", **COMPARING) as once:
        code_of_once = once.wait(120)

    assert "it hangs: it has taken more than 2 s" in log.read_text()
    assert (code_of_loop, code_of_once) == (0, 0)


@pytest.mark.wide
@pytest.mark.parametrize(
    ("function", "what"),
    rows(
        ("pipelines.loop.report:Report.add_load", "measurements"),
        ("pipelines.watch.systemd:Supervisor.alive", "progress"),
        long=[
            ("pipelines.loop.report:Report.add_read", "measurements"),
            ("pipelines.watch.systemd:Supervisor.follow", "notify"),
            ("pipelines.loop.account_failures:AccountFailures.log", "account_failures"),
            ("tqdm:tqdm.update", "progress"),
        ],
    ),
)
def test_what_only_tells_of_the_loop_ends_nothing(
    api: Api, running: RunLoop, stores: Stores, function: str, what: str
) -> None:
    """The failure is reported once, not in each of hundreds of cycles."""
    api.world.add(ACCOUNT, "v1", spread(20, ago(hours=1), ago(minutes=1)))

    with running(*FAILING, function, "ZeroDivisionError", "run") as loop:
        wait_until(lambda: f"{what}.failed" in loop.log)
        _goes_on(api, stores)

    assert loop.log.count(f"{what}.failed") == 1
    assert "ZeroDivisionError: explosion of two lines" in loop.log


def test_a_defect_on_the_events_way_ends_the_process(api: Api, environment: Mapping[str, str], tmp_path: Path) -> None:
    """With a traceback and 1: the supervisor starts it again. Nobody waits for a reader that is asleep."""
    api.world.add(ACCOUNT, "v1", spread(20, ago(hours=1), ago(minutes=1)))
    log = tmp_path / "log"
    load = "pipelines.load.loader:Loader.load"

    with log.open("wb") as output, process_of(environment, *FAILING, load, "KeyError", "run", output=output) as loop:
        code = loop.wait(120)

    assert code == 1
    assert re.search(r"Traceback(.|\n)*KeyError: 'explosion", log.read_text())


@pytest.mark.parametrize(
    "mark",
    rows(
        "0001-01-01T00:00:00+00:00 0001-01-01T00:00:00+00:00",
        "\0\0\0\0",
        long=[
            "2026-01-01T00:00:00 2026-01-01T00:00:00",
            "9999-12-31T23:59:59+00:00 9999-12-31T23:59:59+00:00",
        ],
    ),
)
def test_a_mark_of_the_sweep_that_says_nonsense_costs_a_sweep(
    api: Api, command: Command, environment: Mapping[str, str], stores: Stores, mark: str
) -> None:
    """A mark that cannot be read counts as none: one more sweep runs."""
    api.world.add(ACCOUNT, "v1", [event_at(ago(hours=30), id="old"), event_at(ago(minutes=1), id="new")])
    assert command("pipelines/run.py", "--once").code == 0
    files = [file for file in (Path(environment["DATA_DIR"]) / "sweeps").rglob("*") if file.is_file()]
    for file in files:
        file.write_text(mark)
    api.world.add(ACCOUNT, "v1", [event_at(ago(hours=20), id="late")])

    swept = command("pipelines/run.py", "--once", SWEEP_INTERVAL_SECONDS="1")

    assert len(files) >= 2  # of both stores
    assert swept.code == 0, swept.err
    assert stores.ids() == (["late", "new", "old"],) * 2
