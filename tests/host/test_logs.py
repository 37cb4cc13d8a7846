"""Log lines fit the reader of stderr: for journald they begin with a priority, for all others with the time."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.servers.commands import process_of, wait_until
from pipelines.settings.settings import PROJECT_ROOT

ALL_KINDS = """
import logging, sys, threading, warnings
from pipelines.host.logs import configure_logs, log
from pipelines.host.output import protect_streams
protect_streams()
configure_logs()
log.info("an.info")
log.warning("a.warning")
log.error("an.error")
warnings.warn("of a library")
try:
    raise ValueError("caught")
except ValueError:
    logging.getLogger("library").warning("it failed", exc_info=True)
print("settings are not", "right", file=sys.stderr)
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise RuntimeError("unexpected\\nin two lines")
"""


def _stderr_of(folder: Path, arguments: tuple[str, ...], environment: Mapping[str, str], *, is_journal: bool) -> str:
    """Returns a process's output to a file that is the journal, as systemd would say, or is not."""
    with (folder / "stderr").open("w") as stderr:
        status = os.fstat(stderr.fileno())
        stream = f"{status.st_dev}:{status.st_ino if is_journal else 1}"
        own = {**os.environ, **environment, "JOURNAL_STREAM": stream}
        subprocess.run([sys.executable, *arguments], env=own, stderr=stderr, cwd=PROJECT_ROOT, check=False, timeout=120)
    return (folder / "stderr").read_text()


def test_in_the_journal_each_line_has_its_priority_and_no_time(tmp_path: Path) -> None:
    """Tracebacks of all kinds included: `journalctl -p warning` shows what it should."""
    lines = _stderr_of(tmp_path, ("-c", ALL_KINDS), {}, is_journal=True).splitlines()

    by_priority = {number: "\n".join(line for line in lines if line.startswith(f"<{number}>")) for number in (3, 4, 6)}
    assert all(re.match(r"<[346]>", line) for line in lines), lines
    assert not [line for line in lines if re.search(r"\d\d:\d\d:\d\d", line)]
    assert by_priority[6] == "<6>INFO an.info"
    assert "a.warning" in by_priority[4]
    assert "of a library" in by_priority[4]
    assert re.search(r"^<4>Traceback", by_priority[4], re.MULTILINE)
    assert "<4>ValueError: caught" in by_priority[4]
    for text in ("an.error", "<3>settings are not right", "ZeroDivisionError", "<3>RuntimeError: unexpected"):
        assert text in by_priority[3]
    assert "<3>in two lines" in by_priority[3]


def test_elsewhere_each_line_has_the_time_and_no_priority(tmp_path: Path) -> None:
    """Be it that stderr was sent to a file, in a unit whose stdout is the journal."""
    text = _stderr_of(tmp_path, ("-c", ALL_KINDS), {}, is_journal=False)

    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING a\.warning$", text, re.MULTILINE)
    assert not re.search(r"^<\d>", text, re.MULTILINE)


@pytest.mark.integration
def test_a_commands_words_are_of_their_priority(environment: Mapping[str, str], tmp_path: Path) -> None:
    """Wrong settings, wrong usage, and a loop that runs."""
    wrong = _stderr_of(tmp_path, ("pipelines/run.py",), {**environment, "PG_PORT": "x"}, is_journal=True)
    usage = _stderr_of(tmp_path, ("pipelines/run.py", "--bogus"), environment, is_journal=True)
    log = tmp_path / "journal"
    with log.open("w") as output:
        status = os.fstat(output.fileno())
        stream = f"{status.st_dev}:{status.st_ino}"
        with process_of(environment, "pipelines/run.py", output=output, JOURNAL_STREAM=stream) as loop:
            wait_until(lambda: "run.started" in log.read_text())
            loop.terminate()
            loop.wait(120)

    assert all(line.startswith("<3>") for line in (wrong + usage).splitlines()), wrong + usage
    assert "PG_PORT" in wrong
    assert "--bogus" in usage
    assert re.search(r"^<6>INFO run\.started ", log.read_text(), re.MULTILINE)
