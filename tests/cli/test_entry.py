"""A command that is interrupted while it is still being imported ends quietly, whichever it is."""

import ast
import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.servers.commands import wait_until
from pipelines.host.output import begin_results, say
from pipelines.settings.settings import PROJECT_ROOT


def commands() -> list[str]:
    """Every file of `pipelines/` that can be run by itself."""
    files = sorted((PROJECT_ROOT / "pipelines").glob("*.py"))
    return [f"pipelines/{file.name}" for file in files if '__name__ == "__main__"' in file.read_text()]


def _imports(process: "subprocess.Popen[bytes]") -> bool:
    """It has loaded the first library that is not Python's own, and so has much before it yet."""
    maps = Path(f"/proc/{process.pid}/maps")
    return process.poll() is not None or "site-packages" in maps.read_text()


def test_there_are_commands() -> None:
    """Without commands, the tests below would test nothing."""
    assert {"pipelines/run.py", "pipelines/doctor.py", "pipelines/demo.py"} <= set(commands())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", commands())
def test_a_signal_during_the_imports_ends_a_command_without_a_word(
    name: str, number: signal.Signals, tmp_path: Path
) -> None:
    """130, no traceback, and nothing was made."""
    own = {**os.environ, "DATA_DIR": str(tmp_path / "data")}
    process = subprocess.Popen(
        [sys.executable, name, "--help"], env=own, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_until(lambda: _imports(process))
    process.send_signal(number)

    out, err = process.communicate(timeout=120)

    assert (process.returncode, out, err) == (130, b"", b"")
    assert not (tmp_path / "data").exists()


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """A command that a shell has put into the background goes on ignoring SIGINT."""
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = [sys.executable, "-c", ignoring, sys.executable, "pipelines/run.py", "--help"]
    process = subprocess.Popen(
        command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_env(tmp_path)
    )
    wait_until(lambda: _imports(process))
    process.send_signal(signal.SIGINT)

    out, err = process.communicate(timeout=120)

    assert (process.returncode, err) == (0, b"")
    assert b"usage" in out


def test_no_result_is_printed_on_a_stdout_that_a_thread_may_have_replaced() -> None:
    """Dlt does, each time that it reads its configuration."""
    printed = {name: len(_prints(PROJECT_ROOT / name)) for name in commands()}

    assert printed == dict.fromkeys(printed, 0) != {}
    assert _prints(PROJECT_ROOT / "pipelines" / "cli" / "demo" / "tour.py")


def _prints(file: Path) -> list[ast.Call]:
    """The calls of `print` that name no stream."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    its = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    return [call for call in its if "file" not in [one.arg for one in call.keywords]]


def test_what_is_said_is_not_lost_in_a_stream_that_is_put_in_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    """Not even if that stays there: two threads that change it may undo each other's in the wrong order."""
    begin_results()

    with contextlib.redirect_stdout(io.StringIO()):
        say("5 events read")

    assert capsys.readouterr().out == "5 events read\n"


def _env(folder: Path) -> Mapping[str, str]:
    return {**os.environ, "DATA_DIR": str(folder)}
