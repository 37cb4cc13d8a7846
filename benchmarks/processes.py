"""What the kernel says of other processes: their children, their CPU, and the most memory that they had."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def descendants_of(pid: int) -> Iterator[int]:
    """The children of a process, and theirs."""
    threads = Path(f"/proc/{pid}/task")
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        for name in os.listdir(threads):  # noqa: PTH208  # names are enough
            for child in map(int, _text_of(threads / name / "children").split()):
                yield child
                yield from descendants_of(child)


def peak_memory_of(pid: int) -> int:
    """VmHWM, in bytes; zero of a process that has ended."""
    found = re.search(r"VmHWM:\s+(\d+) kB", _text_of(Path(f"/proc/{pid}/status")))
    return int(found[1]) * 1024 if found else 0


def cpu_of(pid: int, *, with_ended: bool = False) -> float:
    """Seconds, with those of its children that have ended if told to; zero of a process that has ended."""
    fields = _text_of(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if with_ended else 13])) / TICKS


def cpu_of_server(postmaster: int) -> float:
    """Seconds of PostgreSQL: of the postmaster, its children, and those that have ended."""
    children = _text_of(Path(f"/proc/{postmaster}/task/{postmaster}/children")).split()
    return cpu_of(postmaster, with_ended=True) + sum(cpu_of(int(pid)) for pid in children)


def _text_of(file: Path) -> str:
    """What the file says; nothing of a process that has ended, be it before the file is opened or before it is read."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
