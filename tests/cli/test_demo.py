"""The demo as a new user runs it: it proves what it loaded, and tells the incident in order."""

import os
import pty
import re
import shutil
import subprocess
import sys
import termios
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from benchmarks.servers.commands import Finished
from pipelines.cli.demo.steps import Loaded
from pipelines.cli.demo.tour import HISTORY, LOG, QUESTION
from pipelines.settings.settings import PROJECT_ROOT
from simulator import story
from simulator.deeds import DEEDS
from simulator.incident import INCIDENT

Run = Callable[..., Finished]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs commands of a copy of the project: the demo empties the folder of the last one."""
    root = tmp_path / "project"
    for part in ("cloudflare_audit", "sources", "pipelines", "simulator", ".dlt"):
        shutil.copytree(PROJECT_ROOT / part, root / part)

    def run(*arguments: str, at: Path = root, **environment: str) -> Finished:
        own = {**os.environ, "PYTHONPATH": str(root), **environment}
        command = [sys.executable, str(root / arguments[0]), *arguments[1:]]
        done = subprocess.run(command, env=own, cwd=at, capture_output=True, text=True, timeout=600, check=False)
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


@pytest.mark.integration
def test_the_demo_proves_what_it_loaded_and_tells_the_incident_in_order(run: Run, tmp_path: Path) -> None:
    """From any working directory, untouched by the user's own settings; what it says to paste works afterwards."""
    done = run(
        "pipelines/demo.py", "--seconds", "0", at=tmp_path, CLOUDFLARE_PER_PAGE="wrong", PG_HOST="nowhere.invalid"
    )

    assert done.code == 0, done.err + done.out
    proof = re.search(r"^API ([\d,]+) = warehouse ([\d,]+) = lake ([\d,]+) events", done.out, re.MULTILINE)
    assert proof, done.out
    assert len(set(proof.groups())) == 1
    assert int(proof[1].replace(",", "")) > 15_000
    log = (tmp_path / "project" / LOG).read_text()
    assert LOG in done.out
    assert "load.finished destination=lake" in log
    assert " reconcile.compared " not in log
    told = _deeds_in(done.out)
    assert [deed for deed in told if deed in _incident()] == _incident()
    assert re.search(r"rec_set +\| pay\.example\.com +\| 192\.0\.2\.10 +\| 203\.0\.113\.200", done.out)
    assert run("pipelines/psql.py", "-X", "-f", QUESTION, DATA_DIR="data/demo").out.count("LOGIN") == told.count(
        "LOGIN"
    )


def _deeds_in(output: str) -> list[str]:
    """The column "did what" of the table of the incident."""
    rows = [line.split("|") for line in output.splitlines() if line.count("|") == 6]
    return [row[2].strip() for row in rows[1:]]


def _incident() -> list[str]:
    """The steps as the table shows them: v2's description, or what v1 alone has."""
    names = {"key view": "API_key_view", "key rotate": "rotate_API_key"}
    deeds = [step.deed for step in INCIDENT if step.deed != "sign in"]
    return [names.get(deed) or DEEDS[deed].summary for deed in deeds]


def test_help_is_help_and_nonsense_is_refused(run: Run, tmp_path: Path) -> None:
    """Nothing is run, and nothing is made."""
    shown, refused = run("pipelines/demo.py", "--help"), run("pipelines/demo.py", "--seconds", "-1")

    assert (shown.code, refused.code) == (0, 2)
    assert "--seconds N" in shown.out
    assert "is not a number of seconds" in refused.err
    assert not (tmp_path / "project" / "data").exists()


@pytest.mark.integration
def test_a_command_that_fails_ends_the_demo_with_the_end_of_its_log(run: Run, tmp_path: Path) -> None:
    """The loop, here: its first import fails."""
    (tmp_path / "project" / "pipelines" / "loop" / "loop.py").write_text("raise RuntimeError('out of order')\n")

    done = run("pipelines/demo.py")

    assert done.code == 1
    assert "out of order" in done.err
    assert "pipelines/run.py failed with exit code 1" in done.err
    assert LOG in done.err


@pytest.mark.integration
@pytest.mark.long
def test_a_gap_is_shown_as_one_and_ends_the_demo(run: Run, tmp_path: Path) -> None:
    """Here, events become visible much later than the demo's safety lag allows for: the proof finds them."""
    file = tmp_path / "project" / "simulator" / "story.py"
    file.write_text(
        file.read_text().replace("_LONGEST_DELAY = timedelta(seconds=2)", "_LONGEST_DELAY = timedelta(minutes=1)")
    )

    done = run("pipelines/demo.py")

    assert done.code == 3, done.err
    assert re.search(r"^API [\d,]+, warehouse [\d,]+, lake [\d,]+ events: \d+ hours? ha(s|ve)", done.out, re.MULTILINE)
    assert " = " not in done.out


def test_a_terminal_has_one_line_that_changes() -> None:
    """And nothing is left of it in the end."""
    program = (
        "from pipelines.cli.demo.steps import progress_line\nwith progress_line() as show: show('5 of 9'); show('9')"
    )
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (40, 100))

    subprocess.run([sys.executable, "-c", program], stderr=its, cwd=PROJECT_ROOT, check=True)

    os.close(its)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "\n" not in shown
    assert [text.strip().split("  ")[-1] for text in shown.split("\r") if text.strip()][-2:] == ["5 of 9", "9"]
    assert not shown.split("\r")[-2].strip()


def test_the_demo_reads_as_much_history_as_the_simulator_has() -> None:
    """The demo knows it without importing the simulator."""
    assert HISTORY == story.HISTORY


def test_both_stores_have_all_up_to_the_older_of_their_newest_events(tmp_path: Path) -> None:
    """Nothing is said before both have loaded; half a line is read when it is whole."""
    file = tmp_path / "log"
    line = "2026-11-28 INFO load.finished destination={} new={} accounts=2 newest=2026-11-28T10:00:{:02}+00:00"
    file.write_text(line.format("warehouse", 7, 30) + "\nother\n" + line.format("lake", 5, 10)[:-3])

    with file.open() as log:
        loaded = Loaded(log)
        loaded.read()
        half, text = loaded.common, str(loaded)
        with file.open("a") as end:
            end.write(":00\n" + line.format("warehouse", 3, 40) + "\n")
        loaded.read()

    assert (half, text) == (None, "warehouse 7 events, lake 0 events")
    assert loaded.common is not None
    assert (loaded.common.second, loaded.common.utcoffset()) == (10, timedelta(0))
    assert loaded.new == {"warehouse": 10, "lake": 5}
