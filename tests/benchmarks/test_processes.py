"""The benchmarks measure other processes, which may end at any moment."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.processes import cpu_of, cpu_of_server, descendants_of, peak_memory_of, text_of


@pytest.mark.parametrize("name", ["stat", "status"])
def test_a_process_that_ends_between_opening_and_reading_says_nothing(name: str) -> None:
    """The kernel lets its file be opened and refuses to read it (ESRCH), as one that is opened again by its number."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        file = os.open(f"/proc/{child.pid}/{name}", os.O_RDONLY)
        child.send_signal(signal.SIGKILL)
        child.wait()
        try:
            with pytest.raises(ProcessLookupError):
                os.read(file, 1)
            assert text_of(Path(f"/proc/self/fd/{file}")) == ""
        finally:
            os.close(file)


@pytest.mark.parametrize("look", [cpu_of, cpu_of_server, peak_memory_of, lambda pid: len(list(descendants_of(pid)))])
def test_a_process_that_has_ended_took_nothing_more(look: Callable[[int], float]) -> None:
    """It is gone before it is looked for."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()

    assert look(child.pid) == 0
