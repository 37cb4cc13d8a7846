"""What the benchmarks read of processes that end at any moment is nothing, not an error."""

import os
import subprocess
import sys

from benchmarks.processes import cpu_of, cpu_of_server, descendants_of, peak_memory_of

SHORT_LIVES = """
import os, threading
for _ in range(1500):
    if not os.fork():
        threading.Thread(target=lambda: None).start()
        os._exit(0)
    if _ % 10 == 9:
        for _ in range(10):
            os.wait()
"""


def test_children_that_end_while_they_are_looked_at_end_nothing() -> None:
    """Each may be gone before its file is opened, or between that and the reading."""
    looked_at = 0
    with subprocess.Popen([sys.executable, "-c", SHORT_LIVES]) as parent:
        while parent.poll() is None:
            for pid in descendants_of(parent.pid):
                looked_at += 1
                assert cpu_of(pid) >= 0
                assert peak_memory_of(pid) >= 0
            assert cpu_of_server(parent.pid) >= 0

    assert looked_at > 0


def test_a_process_that_has_ended_has_nothing() -> None:
    """Be it a zombie, or gone."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    as_zombie = peak_memory_of(child.pid), list(descendants_of(child.pid))
    child.wait()

    assert as_zombie == (0, [])
    assert (cpu_of(child.pid), peak_memory_of(child.pid), cpu_of_server(child.pid)) == (0, 0, 0)
    assert list(descendants_of(child.pid)) == []
