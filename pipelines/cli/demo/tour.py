"""The tour of `make demo`: a simulated Cloudflare, the main job, the proof, the incident, and commands to paste."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from pipelines.proof.compare import SIDES
from pipelines.proof.gaps import hours_with_gaps
from pipelines.settings.reader import OWN_PREFIXES
from pipelines.settings.settings import CODE_ROOT, PROJECT_ROOT, read_environment
from sources.cloudflare_audit_logs.errors import AuditLogsError
from sources.cloudflare_audit_logs.streams import Window

from .questions import CHANGES_SQL, INCIDENT_SQL, PEOPLE_SQL
from .steps import Steps

DATA_DIR = "data/demo"
DEMO_DIR = PROJECT_ROOT / DATA_DIR
LOG, QUESTION, KEY_FILE = (f"{DATA_DIR}/{name}" for name in ("demo.log", "incident.sql", "seal.key"))
ACCOUNTS = "023e105f4ecef8ad9ca31a8372d0c353,4bb334f7c94c4a29a045f03944f072e5"
HISTORY = timedelta(weeks=6)
"""The simulator's."""
LONGEST_DELAY = timedelta(seconds=2)
"""In the simulator, from an event to its visibility."""
COPIED = timedelta(days=7)
GAP_FOUND = 3
_PLAIN_TABLE = ("-X", "-q", "-P", "pager=off", "-P", "footer=off")


def run_demo(seconds: float) -> int:
    """Runs it: the loop for some seconds after it has caught up. Returns 0, or 3 if a gap was found.

    Raises AuditLogsError or TemporaryError if one of the commands fails.
    """
    shutil.rmtree(DEMO_DIR, ignore_errors=True)
    DEMO_DIR.mkdir(parents=True)
    begun = datetime.now(UTC)
    since = begun.replace(minute=0, second=0, microsecond=0) - HISTORY
    _say("1. A simulated Cloudflare: two accounts, six weeks of people and tokens at work, and one bad night.")
    with _simulator() as url:
        steps = Steps({**os.environ, **_blanked(), **_settings(url, since)}, PROJECT_ROOT / LOG)
        _say(f"2. The main job (run.py) loads it into PostgreSQL and Parquet. The log is {LOG}.")
        steps.run(command_of("seal", "--init"), "making a key")
        steps.run_loop(command_of("run"), since=begun, seconds=seconds)
        before = datetime.now(UTC) - LONGEST_DELAY
        steps.run(command_of("run", "--once"), "loading the rest")  # of a stream that was behind when the loop ended
        _say("3. The proof (reconcile.py): it asks the API again, and compares every event by its id.")
        code = _prove(steps, Window(since, before))
    if code == 0:
        _say("4. Day copies of the last week (compact.py): a question over months then opens an object a day.")
        days = ["--since", (begun - COPIED).date().isoformat() + "T00:00Z"]
        print(steps.run(command_of("compact", *days), "copying").stdout.splitlines()[-1], flush=True)
        _say(
            "5. Evidence (verify.py): the loop has signed what each hour held; the public key shows that it still does."
        )
        print(*steps.run(command_of("verify"), "verifying").stdout.splitlines()[-2:], sep="\n", flush=True)
        _show_incident(steps)
        _say("To look around yourself, paste any of these:")
        print(*commands_to_paste(), sep="\n")
    return code


def command_of(name: str, *arguments: str) -> list[str]:
    """The command line of one of `pipelines/*.py`."""
    return [sys.executable, f"{CODE_ROOT}/pipelines/{name}.py", *arguments]


@contextmanager
def _simulator() -> Iterator[str]:
    """Runs it, and yields its URL. It tells the story for ten minutes from now on, in fast motion."""
    options = ["--accounts", ACCOUNTS, "--live-rate", "60", "--live-minutes", "10"]
    with subprocess.Popen(
        [sys.executable, "-m", "simulator", *options],
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT_ROOT,
        start_new_session=True,
    ) as process:
        try:
            url = process.stdout.readline().strip() if process.stdout else ""
            if not url:
                raise AuditLogsError("the simulator did not start", hint="what it wrote above says why")
            yield url
        finally:
            process.terminate()


def _settings(url: str, since: datetime) -> dict[str, str]:
    return {
        "CLOUDFLARE_API_URL": url,
        "CLOUDFLARE_API_TOKEN": "simulated-token",
        "CLOUDFLARE_ACCOUNT_ID": ACCOUNTS,
        "CLOUDFLARE_SINCE_SAFETY_LAG_SECONDS": f"{2 * LONGEST_DELAY.total_seconds():g}",
        "INITIAL_CHECKPOINT": since.isoformat(),
        "POLL_INTERVAL_SECONDS": "2",
        "RECONCILE_AFTER_HOURS": "0",  # all of it is compared at the end
        "DATA_DIR": str(DEMO_DIR),
        "SEAL_KEY_FILE": str(PROJECT_ROOT / KEY_FILE),
        "SEAL_ORIGIN": "demo.example.com/lake",
    }


def _blanked() -> dict[str, str]:
    """The user's own settings, set to nothing: `.env` must not reach into the demo."""
    own = (*OWN_PREFIXES, "INITIAL_CHECKPOINT", "DESTINATION__")
    return {name: "" for name in read_environment() if name.startswith(own)}


def _prove(steps: Steps, window: Window) -> int:
    """Compares all sides, says what was found, and returns the comparison's exit code."""
    command = command_of(
        "reconcile", "--since", window.since.isoformat(), "--before", window.before.isoformat(), "--json"
    )
    done = steps.run(command, "comparing", accepted=(0, GAP_FOUND))
    found = json.loads(done.stdout)
    api, warehouse, lake = (found["sides"].get(side, 0) for side in SIDES)
    if done.returncode == GAP_FOUND:
        print(f"API {api:,}, warehouse {warehouse:,}, lake {lake:,} events: {hours_with_gaps(len(found['gaps']))}")
    else:
        print(f"API {api:,} = warehouse {warehouse:,} = lake {lake:,} events, hour by hour: nothing is missing")
    return done.returncode


def _show_incident(steps: Steps) -> None:
    (PROJECT_ROOT / QUESTION).write_text(INCIDENT_SQL)
    _say("6. The bad night, and the morning after it (psql.py). Somebody failed to sign in again and again, from an")
    print("address that was never seen before. What did they touch, and what became of it?\n", flush=True)
    print(steps.run(command_of("psql", *_PLAIN_TABLE, "-f", QUESTION), "asking").stdout.rstrip())
    _say("From and to: old and new values are in the API's v1 alone, sign-ins in its v2. Both are loaded.\n")
    print(steps.run(command_of("psql", *_PLAIN_TABLE, "-c", CHANGES_SQL), "asking").stdout.rstrip())


def commands_to_paste() -> Iterator[str]:
    """Each with the demo's settings before it: exported, the next `make run` would load your account into the demo."""
    audit = f"{os.path.dirname(os.path.relpath(sys.executable, PROJECT_ROOT))}/cloudflare-audit"  # noqa: PTH120  # to print
    settings = " ".join(f"{name}={value}" for name, value in {**_blanked(), "DATA_DIR": DATA_DIR}.items())
    for command in (
        "make dashboard" if (PROJECT_ROOT / "Makefile").exists() else f"{audit} dashboard",
        f"{audit} psql -f {QUESTION}",
        f'{audit} ask "{PEOPLE_SQL}"',
        f"SEAL_KEY_FILE={KEY_FILE} {audit} verify",
        f"{audit} status",
        f"{audit} dlt pipeline -v cloudflare_audit_warehouse info",
        f"{audit} dlt pipeline -v cloudflare_audit_lake info",
        f"find {DATA_DIR}/lake -name '*.parquet' | sort | tail",
    ):
        yield f"{settings} {command}"


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)
