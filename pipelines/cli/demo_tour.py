"""The tour of `make demo`: a simulated Cloudflare, the main job in a process of its own, and what landed where."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from pipelines.settings.reader import OWN_PREFIXES
from pipelines.settings.settings import CODE_ROOT, PROJECT_ROOT, read_environment

DEMO_DIR = PROJECT_ROOT / "data" / "demo"
LAKE = "data/demo/lake/cloudflare/audit_logs/*/*/*/events.parquet"
ACCOUNTS = "023e105f4ecef8ad9ca31a8372d0c353,4bb334f7c94c4a29a045f03944f072e5"
RUN_SECONDS = 25
COUNT_SQL = (
    "SELECT account_id, api_version, count(*) AS events, max(timestamp) AS newest FROM {} GROUP BY 1, 2 ORDER BY 1, 2"
)
PEOPLE_SQL = "SELECT actor_email, action_type, count(*) AS events FROM {} GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 5"


def run_demo() -> int:
    """Runs it, and returns the loop's exit code."""
    shutil.rmtree(DEMO_DIR, ignore_errors=True)
    with _simulator() as url:
        environment = {**os.environ, **_blanked(), **_settings(url)}
        _say(f"A simulated Cloudflare at {url}: two accounts, v1 and v2, a day of history and 4 new events a second.")
        _say(f"The main job polls it every 2 seconds for {RUN_SECONDS} seconds:")
        code = _run_loop(environment)
    if code == 0:
        _show_results(environment)
    return code


@contextmanager
def _simulator() -> Iterator[str]:
    command = [sys.executable, "-m", "simulator", "--accounts", ACCOUNTS, "--events", "5000", "--live-rate", "60"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_ROOT, start_new_session=True
    ) as process:
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.terminate()


def _settings(url: str) -> dict[str, str]:
    return {
        "CLOUDFLARE_API_URL": url,
        "CLOUDFLARE_API_TOKEN": "simulated-token",
        "CLOUDFLARE_ACCOUNT_ID": ACCOUNTS,
        "POLL_INTERVAL_SECONDS": "2",
        "DATA_DIR": str(DEMO_DIR),
    }


def _blanked() -> dict[str, str]:
    """The user's own settings, set to nothing: `.env` must not reach into the demo."""
    own = (*OWN_PREFIXES, "INITIAL_CHECKPOINT", "DESTINATION__")
    return {name: "" for name in read_environment() if name.startswith(own)}


def _run_loop(environment: dict[str, str]) -> int:
    process = subprocess.Popen([sys.executable, f"{CODE_ROOT}/pipelines/run.py"], env=environment, cwd=PROJECT_ROOT)
    try:
        deadline = time.monotonic() + RUN_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        return process.wait(60)
    except KeyboardInterrupt:
        return process.wait(60)
    finally:
        if process.poll() is None:
            process.kill()


def _show_results(environment: dict[str, str]) -> None:
    _say("In the warehouse (PostgreSQL):")
    psql = [sys.executable, f"{CODE_ROOT}/pipelines/psql.py", "-P", "pager=off", "-c", COUNT_SQL.format("audit_logs")]
    subprocess.run(psql, env=environment, cwd=PROJECT_ROOT, check=True)
    _say("In the lake (Parquet, one object an hour and account):")
    os.chdir(PROJECT_ROOT)
    print(duckdb.sql(COUNT_SQL.format(f"read_parquet('{LAKE}')")))
    _say("To look around yourself, paste any of these:")
    print(*commands_to_paste(), sep="\n")


def commands_to_paste() -> Iterator[str]:
    """Each with the demo's settings before it: exported, the next `make run` would load your account into the demo."""
    python = os.path.relpath(sys.executable, PROJECT_ROOT)
    audit = f"{os.path.dirname(python)}/cloudflare-audit"  # noqa: PTH120  # a path to print
    settings = " ".join(f"{name}={value}" for name, value in {**_blanked(), "DATA_DIR": "data/demo"}.items())
    for command in (
        f'{audit} psql -c "{PEOPLE_SQL.format("audit_logs")}"',
        f'{python} -c "import duckdb; print(duckdb.sql(\\"{PEOPLE_SQL.format(f"read_parquet({LAKE!r})")}\\"))"',
        f"{audit} dlt pipeline -v cloudflare_audit_warehouse info",
        f"{audit} dlt pipeline -v cloudflare_audit_lake info",
        "make dashboard" if (PROJECT_ROOT / "Makefile").exists() else f"{audit} dashboard",
        f"find {LAKE.partition('/cloudflare')[0]} -name '*.parquet' | sort | tail",
    ):
        yield f"{settings} {command}"


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)
